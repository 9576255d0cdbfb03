"""Parameters that a caller gave: what they mean for the pipes that are read, and which of them change nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from engine.compiler.build import declared_of, parameter_names, parameters_of
from engine.compiler.pipes import CompiledPipe
from engine.errors import BAD_PARAMETER, BAD_REQUEST, MISSING_PARAMETER, UNKNOWN_FIELD, RookeryError
from engine.template.parameters import ParameterSpec, coerce
from engine.warehouse.render import QUOTE_SETTING
from engine.workspace.workspace import Snapshot, Workspace

RESERVED = frozenset({"token", "q", "format", QUOTE_SETTING})
"""Query parameters that are never a pipe's."""
CLIENTS = frozenset({"token", "from", "cli_version"})
CLIENTS_PREFIX = "__tb__"
"""Parameters that clients send with every request; what begins with the prefix is one as well."""


class Repeated(list[Any]):
    """The values of a parameter that was given more than once: an array's items, else one value if they are alike."""


def values_of(
    workspace: Workspace, snapshot: Snapshot, pipes: list[str], given: Mapping[str, Any], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """Parameters of a request: what the token fixes wins; declared ones are held to their type.

    Raises RK4006, RK4007, and RK4009 for a name with two values.
    """
    arrays = {s.name for pipe in pipes for s in _specs(snapshot, pipe) if s.type.startswith("Array(")}
    asked = {k: v for k, v in given.items() if k not in RESERVED and k not in fixed}
    values = {k: _once(k, v, arrays) for k, v in asked.items()} | dict(fixed)
    for pipe in pipes:
        for spec in snapshot.derived(("declared", pipe), partial(declared_of, snapshot.build.pipes, pipe)):
            if spec.name in values:
                value = coerce(spec.name, spec.type, values[spec.name], workspace.zone)
                if spec.type.startswith("Date"):
                    # One spelling, also where the template prints the parameter without a type.
                    values[spec.name] = value
                if spec.enum and str(values[spec.name]) not in spec.enum:
                    raise RookeryError(
                        BAD_PARAMETER, f"parameter `{spec.name}` must be one of {', '.join(map(str, spec.enum))}"
                    )
            elif spec.default is not None:
                values[spec.name] = spec.default
            elif spec.required:
                raise RookeryError(MISSING_PARAMETER, f"parameter `{spec.name}` is required")
    return values


def ignored_of(
    workspace: Workspace, snapshot: Snapshot, pipes: list[str], given: Mapping[str, Any], fixed: Mapping[str, Any]
) -> frozenset[str]:
    """Parameters that change nothing: those that no pipe has, and those that the token fixes to something else.

    Raises RK4029 for the former where the settings say so.
    """
    known: set[str] = set()
    for pipe in pipes:
        known |= snapshot.derived(("known", pipe), partial(_known, snapshot, pipe))
    asked = {
        n: v for n, v in given.items() if n not in CLIENTS and n != QUOTE_SETTING and not n.startswith(CLIENTS_PREFIX)
    }
    unknown = sorted(asked.keys() - known)
    if unknown and workspace.settings.strict_parameters:
        hint = f"known here: {', '.join(sorted(known))}" if known else "there are none here"
        raise RookeryError(UNKNOWN_FIELD, f"unknown parameter `{unknown[0][:80]}`", hint=hint)
    return frozenset(unknown) | {n for n, v in asked.items() if n in fixed and str(v) != str(fixed[n])}


def _specs(snapshot: Snapshot, pipe: str) -> tuple[ParameterSpec, ...]:
    pipes: Mapping[str, CompiledPipe] = snapshot.build.pipes
    return snapshot.derived(("parameters of", pipe), partial(parameters_of, pipes, pipe))


def _known(snapshot: Snapshot, pipe: str) -> frozenset[str]:
    return parameter_names(snapshot.build.pipes, pipe) | {spec.name for spec in _specs(snapshot, pipe)}


def _once(name: str, value: Any, arrays: Collection[str]) -> Any:
    if not isinstance(value, Repeated):
        return value
    if name in arrays:
        return list(value)
    if any(other != value[0] for other in value):
        raise RookeryError(BAD_REQUEST, f"parameter `{name[:80]}` is given twice")
    return value[0]
