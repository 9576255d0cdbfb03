"""A request's parameters: their values for the pipes that are read, and which of them have no effect."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from engine.compiler.build import declared_of, parameter_names, parameters_of
from engine.errors import (
    BAD_REQUEST,
    MISSING_PARAMETER,
    UNKNOWN_FIELD,
    RookeryError,
    did_you_mean,
)
from engine.template.parameters import ParameterSpec, check_enum, coerce
from engine.warehouse.render import QUOTE_SETTING
from engine.workspace.snapshot import Snapshot, per_snapshot
from engine.workspace.workspace import Workspace

RESERVED = frozenset({"token", "q", "format", QUOTE_SETTING})
"""Query parameters that are never passed to a pipe."""
CLIENTS = frozenset({"token", "from", "cli_version"})
CLIENTS_PREFIX = "__tb__"
"""Parameters that Tinybird's clients add to every request: these names, and all names with this prefix."""


class Repeated(list[Any]):
    """The values of a parameter that was sent more than once. They are an array, or must all be equal."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """The parameters of one request."""

    workspace: Workspace
    snapshot: Snapshot
    sent: Mapping[str, Any]
    """Parameters from the request."""
    fixed: Mapping[str, Any]
    """Parameters that the token fixes. They override those from the request."""

    def values(self, pipes: list[str]) -> dict[str, Any]:
        """Values for these pipes; declared parameters are converted to their types.

        Raises RK4006 for a wrong type, RK4007 for a missing parameter, and RK4009 for a name with two values.
        """
        specs = [spec for pipe in pipes for spec in parameters_of_pipe(self.snapshot, pipe)]
        arrays = {spec.name for spec in specs if spec.type.startswith("Array(")}
        sent = {k: v for k, v in self.sent.items() if k not in RESERVED and k not in self.fixed}
        values = {k: _single_value(k, v, arrays) for k, v in sent.items()} | dict(self.fixed)
        for pipe in pipes:
            for spec in _declared(self.snapshot, pipe):
                self._convert(values, spec)
        return values

    def _convert(self, values: dict[str, Any], spec: ParameterSpec) -> None:
        """Check the value of a declared parameter, or set its default."""
        if spec.name in values:
            value = coerce(spec.name, spec.type, values[spec.name], self.workspace.zone)
            if spec.type.startswith("Date"):
                # A template may also print the parameter without a type, so all occurrences must have the same
                # spelling.
                values[spec.name] = value
            check_enum(spec, value, self.workspace.zone)
        elif spec.default is not None:
            values[spec.name] = spec.default
        elif spec.required:
            raise RookeryError(MISSING_PARAMETER, f"parameter `{spec.name}` is required")

    def without_effect(self, pipes: list[str]) -> frozenset[str]:
        """Names of sent parameters that no pipe has, or that the token fixes to another value.

        Raises RK4029 for a name that no pipe has, if the setting `strict_parameters` is on.
        """
        known: set[str] = set()
        for pipe in pipes:
            known |= _known_names(self.snapshot, pipe)
        sent = {
            n: v
            for n, v in self.sent.items()
            if n not in CLIENTS and n != QUOTE_SETTING and not n.startswith(CLIENTS_PREFIX)
        }
        unknown = sorted(sent.keys() - known)
        if unknown and self.workspace.settings.strict_parameters:
            names = f"known parameters: {', '.join(sorted(known))}" if known else "there are no parameters"
            meant = did_you_mean(unknown[0], known)
            hint = f"{meant} {names}" if meant else names
            raise RookeryError(UNKNOWN_FIELD, f"unknown parameter `{unknown[0][:80]}`", hint=hint)
        overridden = {n for n, v in sent.items() if n in self.fixed and str(v) != str(self.fixed[n])}
        return frozenset(unknown) | overridden


@per_snapshot
def parameters_of_pipe(snapshot: Snapshot, pipe: str) -> tuple[ParameterSpec, ...]:
    """`parameters_of` for the snapshot's build."""
    return parameters_of(snapshot.build.pipes, pipe)


@per_snapshot
def _declared(snapshot: Snapshot, pipe: str) -> tuple[ParameterSpec, ...]:
    return declared_of(snapshot.build.pipes, pipe)


@per_snapshot
def _known_names(snapshot: Snapshot, pipe: str) -> frozenset[str]:
    """The parameters of a pipe and of all pipes that it reads, in templates or declared."""
    return parameter_names(snapshot.build.pipes, pipe) | {s.name for s in parameters_of_pipe(snapshot, pipe)}


def _single_value(name: str, value: Any, arrays: Collection[str]) -> Any:
    """A list for a repeated array parameter, otherwise the only value. Raises RK4009 for two values."""
    if not isinstance(value, Repeated):
        return value
    if name in arrays:
        return list(value)
    if any(other != value[0] for other in value):
        raise RookeryError(BAD_REQUEST, f"parameter `{name[:80]}` has two values")
    return value[0]
