"""Rules for a single pipe: its nodes, its parameters, and what happens to its result."""

from __future__ import annotations

from collections.abc import Iterator

from engine.errors import (
    BAD_NAME,
    BAD_VALUE,
    DUPLICATE_NAME,
    MISSING_KEY,
    UNKNOWN_TABLE,
    Place,
    RookeryError,
    did_you_mean,
)
from engine.project.pipe import Pipe

RESERVED_PARAMETERS = frozenset({"q", "format", "token", "output_format_json_quote_64bit_integers"})
"""Query string names that have a fixed meaning in every request, so no parameter can have them."""
OPENAPI = "openapi"
"""The name under which a server publishes its OpenAPI document beside the endpoints."""


def check_pipe(pipe: Pipe) -> Iterator[RookeryError]:
    """Report what is wrong with a pipe, without regard to other files."""
    yield from _nodes(pipe)
    yield from _purpose(pipe)
    yield from _parameters(pipe)


def _nodes(pipe: Pipe) -> Iterator[RookeryError]:
    """Report repeated nodes, and references to nodes that do not exist."""
    seen: set[str] = set()
    for node in pipe.nodes:
        if node.name in seen:
            message = f"node `{node.name}` is declared twice"
            yield RookeryError(DUPLICATE_NAME, message, hint="rename one of them", place=node.place_of("name"))
        seen.add(node.name)
    if pipe.endpoint and pipe.endpoint.node:
        yield from _node(pipe, pipe.endpoint.node, pipe.endpoint.place_of("node"))
    if pipe.materialize and pipe.materialize.node:
        yield from _node(pipe, pipe.materialize.node, pipe.materialize.place_of("node"))


def _node(pipe: Pipe, name: str, place: Place) -> Iterator[RookeryError]:
    if pipe.node(name) is None:
        names = [node.name for node in pipe.nodes]
        hint = did_you_mean(name, names, f"nodes: {', '.join(names[:20])}")
        yield RookeryError(UNKNOWN_TABLE, f"the pipe has no node `{name}`", hint=hint, place=place)


def _purpose(pipe: Pipe) -> Iterator[RookeryError]:
    """Report contradictions between `type`, `endpoint`, `materialize` and `tokens`."""
    if pipe.endpoint and pipe.materialize:
        message = "a pipe cannot have both `endpoint` and `materialize`"
        hint = "publish the target with a second pipe"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=pipe.place_of("materialize"))
    elif pipe.materialize and pipe.kind != "materialized":
        message = f"a pipe of type {pipe.kind} cannot have `materialize`"
        hint = "remove the type, or set it to materialized"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=pipe.place_of("type"))
    elif pipe.endpoint and pipe.kind != "endpoint":
        message = f"a pipe of type {pipe.kind} cannot have `endpoint`"
        yield RookeryError(BAD_VALUE, message, hint="remove one of the two", place=pipe.place_of("type"))
    elif pipe.kind == "materialized" and not pipe.materialize:
        message, hint = "a materialized pipe needs `materialize`", "for example `materialize: {target: my_target}`"
        yield RookeryError(MISSING_KEY, message, hint=hint, place=pipe.place_of("type"))
    if pipe.kind == "endpoint" and pipe.name == OPENAPI:
        message = f"an endpoint cannot have the name `{OPENAPI}`: /v0/pipes/{OPENAPI}.json is the OpenAPI document"
        yield RookeryError(BAD_NAME, message, hint="rename the file", place=pipe.place)
    if pipe.tokens and pipe.kind != "endpoint":
        message = f"only endpoints can have tokens, but the type of this pipe is {pipe.kind}"
        hint = "declare the token in the target's file, or in an endpoint"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=pipe.place_of("tokens"))
    materialize = pipe.materialize
    if materialize and materialize.drop_tenant_column and not materialize.per_tenant:
        message = "`drop_tenant_column` only applies to per-tenant pipes"
        hint = "set `per_tenant: true`, or remove the column from the SELECT"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=materialize.place_of("drop_tenant_column"))


def _parameters(pipe: Pipe) -> Iterator[RookeryError]:
    """Report declarations of parameters that contradict themselves or each other."""
    seen: set[str] = set()
    keys = [parameter for parameter in pipe.parameters if parameter.tenant_key]
    for parameter in pipe.parameters:
        place = parameter.place_of("name")
        if parameter.name in RESERVED_PARAMETERS:
            yield reserved_parameter(parameter.name, place)
        if parameter.name in seen:
            message = f"parameter `{parameter.name}` is declared twice"
            yield RookeryError(DUPLICATE_NAME, message, hint="remove one of them", place=place)
        seen.add(parameter.name)
        if parameter.enum and parameter.default is not None and parameter.default not in parameter.enum:
            message = f"the default of `{parameter.name}` is not one of the values under `enum`"
            hint = f"enum: {', '.join(parameter.enum[:20])}"
            yield RookeryError(BAD_VALUE, message, hint=hint, place=parameter.place_of("default"))
    for parameter in keys[1:]:
        message = f"`{parameter.name}` is the second tenant key of the pipe"
        hint = f"`{keys[0].name}` already selects the tenant; remove `tenant_key` from one of them"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=parameter.place_of("tenant_key"))


def reserved_parameter(name: str, place: Place | None) -> RookeryError:
    """Return the error for a parameter with one of RESERVED_PARAMETERS as its name."""
    message = f"`{name}` cannot be the name of a parameter"
    return RookeryError(
        BAD_NAME, message, hint="it has a fixed meaning in requests; choose another name", place=place
    )
