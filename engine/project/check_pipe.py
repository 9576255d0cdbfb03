"""Rules for one pipe: its nodes, its parameters, and what it does with its result."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from engine.errors import BAD_NAME, BAD_VALUE, DUPLICATE_NAME, MISSING_KEY, UNKNOWN_TABLE, Place, RookeryError
from engine.project.model import Pipe

RESERVED_PARAMETERS = frozenset({"q", "format", "token", "output_format_json_quote_64bit_integers"})
"""Names in a query string that are never a pipe's parameter."""


def check_pipe(pipe: Pipe) -> Iterator[RookeryError]:
    """What is wrong with one pipe by itself."""
    yield from _nodes(pipe)
    yield from _purpose(pipe)
    yield from _parameters(pipe)


def _nodes(pipe: Pipe) -> Iterator[RookeryError]:
    seen: set[str] = set()
    for node in pipe.nodes:
        if node.name in seen:
            message = f"node `{node.name}` is declared twice"
            yield RookeryError(DUPLICATE_NAME, message, hint="rename one", place=node.place_of("name"))
        seen.add(node.name)
    if pipe.endpoint and pipe.endpoint.node:
        yield from _node(pipe, pipe.endpoint.node, pipe.endpoint.place_of("node"))
    if pipe.materialize and pipe.materialize.node:
        yield from _node(pipe, pipe.materialize.node, pipe.materialize.place_of("node"))


def _node(pipe: Pipe, name: str, place: Place) -> Iterator[RookeryError]:
    if pipe.node(name) is None:
        names = [node.name for node in pipe.nodes]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"nodes: {', '.join(names[:20])}"
        yield RookeryError(UNKNOWN_TABLE, f"there is no node `{name}`", hint=hint, place=place)


def _purpose(pipe: Pipe) -> Iterator[RookeryError]:
    """Whether `type`, `endpoint`, `materialize` and `tokens` go together."""
    if pipe.endpoint and pipe.materialize:
        message = "a pipe cannot have both `endpoint` and `materialize`"
        hint = "serve the target with a second pipe"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=pipe.place_of("materialize"))
    elif pipe.materialize and pipe.kind != "materialized":
        message = f"a pipe of type {pipe.kind} cannot have `materialize`"
        hint = "remove the type, or say materialized"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=pipe.place_of("type"))
    elif pipe.endpoint and pipe.kind != "endpoint":
        message = f"a pipe of type {pipe.kind} cannot have `endpoint`"
        yield RookeryError(BAD_VALUE, message, hint="remove one of the two", place=pipe.place_of("type"))
    elif pipe.kind == "materialized" and not pipe.materialize:
        message, hint = "a materialized pipe needs `materialize`", "such as `materialize: {target: my_target}`"
        yield RookeryError(MISSING_KEY, message, hint=hint, place=pipe.place_of("type"))
    if pipe.tokens and pipe.kind != "endpoint":
        message = f"tokens are for endpoints, and this pipe is {pipe.kind}"
        hint = "put the token into the target's file, or into a pipe that is served"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=pipe.place_of("tokens"))
    materialize = pipe.materialize
    if materialize and materialize.drop_tenant_column and not materialize.per_tenant:
        message = "`drop_tenant_column` is for per-tenant pipes"
        hint = "say `per_tenant: true`, or leave the column out of the SELECT"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=materialize.place_of("drop_tenant_column"))


def _parameters(pipe: Pipe) -> Iterator[RookeryError]:
    seen: set[str] = set()
    keys = [parameter for parameter in pipe.parameters if parameter.tenant_key]
    for parameter in pipe.parameters:
        place = parameter.place_of("name")
        if parameter.name in RESERVED_PARAMETERS:
            message, hint = f"`{parameter.name}` cannot be a parameter", "it has a meaning of its own in requests"
            yield RookeryError(BAD_NAME, message, hint=hint, place=place)
        if parameter.name in seen:
            message = f"parameter `{parameter.name}` is declared twice"
            yield RookeryError(DUPLICATE_NAME, message, hint="remove one", place=place)
        seen.add(parameter.name)
        if parameter.enum and parameter.default is not None and parameter.default not in parameter.enum:
            message = f"the default of `{parameter.name}` is not one of its values"
            hint = f"enum: {', '.join(parameter.enum[:20])}"
            yield RookeryError(BAD_VALUE, message, hint=hint, place=parameter.place_of("default"))
    for parameter in keys[1:]:
        message = f"`{parameter.name}` is a second tenant key"
        hint = f"`{keys[0].name}` selects the tenant already"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=parameter.place_of("tenant_key"))
