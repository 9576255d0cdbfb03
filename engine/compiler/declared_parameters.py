"""Compares the `parameters` that a pipe's file declares with its templates."""

from __future__ import annotations

from collections.abc import Iterator

from engine.compiler.pipes import CompiledPipe, placed
from engine.errors import BAD_DECLARATION, BAD_PARAMETER, RookeryError
from engine.project.check_pipe import RESERVED_PARAMETERS, reserved_parameter
from engine.project.pipe import Parameter, Pipe
from engine.template.parameters import coerce


def check_parameter_names(pipe: CompiledPipe, written: Pipe) -> None:
    """Raise BAD_NAME if a template uses a parameter that no request can set, because its name has another meaning."""
    sources = {node.name: node for node in written.nodes}
    for node in pipe.nodes:
        for name in (spec.name for spec in node.template.parameters):
            if name in RESERVED_PARAMETERS:
                raise placed(reserved_parameter(name, node.template.place_of(name)), pipe.name, sources[node.name])


def declaration_warnings(pipe: Pipe, used: frozenset[str]) -> Iterator[RookeryError]:
    """Yield warnings for unused declarations, and for values in declarations that do not fit the parameter's type.

    They are not errors, so deployed pipes keep working. `used` are the parameters in the templates of the pipe and of
    the pipes that it reads.
    """
    for parameter in pipe.parameters:
        if parameter.name not in used:
            yield RookeryError(
                BAD_DECLARATION,
                f"parameter `{parameter.name}` is declared, but no template of pipe `{pipe.name}` uses it",
                hint="correct the name, or remove it",
                place=parameter.place_of("name"),
            )
            continue
        yield from _invalid_values(parameter)


def _invalid_values(parameter: Parameter) -> Iterator[RookeryError]:
    """Yield a warning for each declared value that is not of the parameter's type."""
    values = [("default", parameter.default), ("example", parameter.example), *(("enum", v) for v in parameter.enum)]
    for key, value in values:
        if value is None:
            continue
        try:
            coerce(parameter.name, parameter.type, value)
        except RookeryError as exc:
            if exc.code is not BAD_PARAMETER:
                continue
            message = f"`{key}` of parameter `{parameter.name}` is not a value of type {parameter.type}: {value[:80]}"
            yield RookeryError(BAD_DECLARATION, message, hint=exc.hint, place=parameter.place_of(key))
