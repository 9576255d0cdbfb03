"""Values that stand deeper in an event: their outermost object is staged whole, and they are cast out of it.

The engine has made numbers and texts of what was sent, so each kind of value is judged by what it still shows.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from engine.ingest.values.wide_types import Staged, WideType, bare, wide_type_of
from engine.project.model import Column, Datasource
from engine.schema import literal, quote
from engine.tenant_ids import integer_bounds
from engine.warehouse.type_names import Type, parse_type

NO_ID = "\x00"
"""Stands for a tenant's value that is neither an integer nor a text: the id of nobody."""


def nested(source: Datasource, column: Column, name: str) -> Staged:
    """A column that stands deeper in the event; its outermost object is staged as `name`."""
    path, kind = [name, *column.path[1:]], column.type
    inner = ".".join(quote(s) for s in path)
    # An object is no value that the path finds, but one that it finds something in.
    object = f"{quote(path[0])}.^{'.'.join(quote(s) for s in path[1:])}"
    found = partial(Staged, column.name, name, "JSON", "", inner, path=tuple(path[1:]), key=column.path[0])
    if column.name == source.tenant_column:
        # As a number, 1.0 is told from 1 by its type only; so whatever else is no tenant's id, and not absent either.
        text = f"if(dynamicType({inner}) IN ('Int64', 'UInt64', 'String'), toString({inner}), {literal(NO_ID)})"
        value = f"if(isNull({inner}), if(empty(JSONAllPaths({object})), NULL, {literal(NO_ID)}), {text})"
        return replace(found(taken=f"CAST(assumeNotNull({value}) AS {kind})"), value=value)
    type = parse_type(kind)
    default = f"CAST({column.default} AS {kind})" if column.default else f"defaultValueOfTypeName({literal(kind)})"
    if type.kind == "JSON":
        taken = f"if(empty(JSONAllPaths({object})), {default}, CAST({object} AS {kind}))"
        there = f" AND notEmpty(JSONAllPaths({object}))" if column.required else ""
        return found(taken=taken, check=f"(isNull({inner}){there})")
    if type.kind == "String":
        plain = (
            f"if(startsWith(dynamicType({inner}), 'Array'), toJSONString({inner}), CAST({inner} AS Nullable(String)))"
        )
        text = f"if(empty(JSONAllPaths({object})), {plain}, toString({object}))"
        taken = f"CAST({text if type.nullable else f'ifNull({text}, {default})'} AS {kind})"
        return found(taken=taken, check=f"isNotNull({text})" if column.required else None)
    value, check = (_composed if type.parts else _scalar)(inner, type)
    absent = f"(isNull({inner}) AND empty(JSONAllPaths({object})))"
    if type.parts:
        taken = f"if(isNull({inner}), {default}, CAST({value} AS {kind}))"
    else:
        taken = f"CAST({value if type.nullable else f'ifNull({value}, {default})'} AS {kind})"
    check = f"({check})" if column.required else f"({absent} OR ({check}))"
    return found(taken=taken, check=check, guard=_guard(inner, type))


def _guard(inner: str, type: Type) -> str:
    """The condition under which a value is of a kind that can be cast to the type at all."""
    kind, text = f"dynamicType({inner})", f"CAST({inner} AS Nullable(String))"
    if not type.parts:
        return f"NOT startsWith({kind}, 'Array')" if type.kind.startswith(("Float", "BFloat")) else ""
    depth, element = 0, type
    while element.kind == "Array":
        depth, element = depth + 1, element.parts[0]
    lists = "Array(" * depth
    same = f"(startsWith({kind}, '{lists}') AND NOT startsWith({kind}, '{lists}Array('))"
    if element.kind == "JSON":
        nothing = f"({kind} = 'Array(Nullable(String))' AND {text} = '[]')"
        same = f"({nothing} OR startsWith({kind}, '{lists}JSON'))"
    return f"(isNull({inner}) OR {same} OR ({kind} = 'String' AND startsWith({text}, '[')))"


def _composed(inner: str, type: Type) -> tuple[str, str]:
    """A list as one of the type, and the condition under which it is one; the cast itself may throw."""
    element = type.parts[0]
    if type.kind == "Array" and not element.nullable and integer_bounds(element.kind):
        # By way of text: a number with a point is cut off otherwise.
        texts = f"CAST({inner} AS Array(Nullable(String)))"
        found = f"arrayMap(_rk_x -> accurateCastOrNull(_rk_x, {literal(element.text)}), {texts})"
        check = f"isNotNull({inner}) AND arrayAll(_rk_x -> isNotNull(_rk_x), {found})"
        return f"arrayMap(_rk_x -> assumeNotNull(_rk_x), {found})", check
    arrival = wide_type_of(type)
    value = f"CAST({inner} AS {arrival.staged})"
    check = f"isNotNull({inner}) AND {arrival.check(value)}" if arrival.check else f"isNotNull({inner})"
    return arrival.taken(value) if arrival.taken else value, check


def _scalar(inner: str, type: Type) -> tuple[str, str]:
    """A value as one of a type, null if it is none, and the condition under which it is one."""
    plain = bare(type)
    arrival = wide_type_of(plain)
    value = _found(inner, plain, arrival)
    fits = f"isNotNull({value})"
    if arrival.check and not integer_bounds(plain.kind):
        fits += f" AND {arrival.check(f'assumeNotNull({value})')}"
    if arrival.taken:
        value = arrival.taken(value)
    return f"CAST({value} AS Nullable({plain.text}))", fits


def _found(inner: str, type: Type, arrival: WideType) -> str:
    """A value as it would be staged at the top of an event, or null."""
    kind, text = type.kind, f"CAST({inner} AS Nullable(String))"
    is_text = f"dynamicType({inner}) = 'String'"
    if kind.startswith(("Float", "BFloat")):
        # The nearest number will do.
        return f"CAST({inner} AS Nullable(Float64))"
    if integer_bounds(kind):
        # The parser of what is wider than 64 bits wraps.
        wide = f"to{kind}OrNull({text})"
        exact = f"if(toString({wide}) = {text}, {wide}, NULL)"
        return f"if({is_text} AND length({text}) > 18, {exact}, accurateCastOrNull({inner}, {literal(kind)}))"
    if kind == "Decimal":
        # A number with a point has become a float: its shortest text is what was sent, as far as 15 digits go.
        large = f"(dynamicType({inner}) = 'Float64' AND abs(ifNull(dynamicElement({inner}, 'Float64'), 0)) >= 1e15)"
        return f"if({large}, NULL, {text})"
    if kind == "Bool":
        return f"if({text} IN ('true', 'false', '0', '1'), accurateCastOrNull({text}, 'Bool'), NULL)"
    if arrival.texts:
        return text
    return f"accurateCastOrNull({inner}, {literal(type.text)})"
