"""What a pipe's `parameters` say, compared with its templates."""

from __future__ import annotations

from collections.abc import Iterator

from engine.errors import BAD_DECLARATION, BAD_PARAMETER, RookeryError
from engine.project.model import Parameter, Pipe
from engine.template.parameters import coerce


def questionable(pipe: Pipe, used: frozenset[str]) -> Iterator[RookeryError]:
    """Declarations that do nothing, because no template has the parameter, or whose values no call could send.

    They are warnings: pipes that are deployed with them keep working. `used` are the parameters of the pipe's
    templates and of the pipes that it reads.
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
        yield from _unfit(parameter)


def _unfit(parameter: Parameter) -> Iterator[RookeryError]:
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
