"""Values that are staged as the path to them: objects as tuples of one key, lists as arrays.

So the engine reads them as it would at the top of an event. This is the way of a value in each object of a list, and
of a text that holds an object in which other columns have values of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.ingest.values.wide_types import NULLABLE, Sql, Staged, WideType, bare, each, or_null, wide_type_of
from engine.project.model import Column
from engine.schema import literal, quote
from engine.warehouse.type_names import Type, parse_type

Step = str | None
"""A key, or None for every element of a list."""


def in_lists(column: Column, name: str, *, exact: bool = False) -> Staged:
    """A column of lists with the values that stand at a path in each object of a list."""
    first, *steps = column.steps
    element = parse_type(column.type)
    for _ in range(column.lists):
        element = element.parts[0]
    leaf = _element(element, exact)
    value = quote(name)
    made = _through(steps, leaf.taken or str)(value)
    taken = f"CAST({made} AS {column.type})"
    if column.default:
        taken = f"if(empty({made}), CAST({column.default} AS {column.type}), {taken})"
    check = _through(steps, leaf.check, "arrayAll")(value) if leaf.check else None
    if column.required:
        check = f"(notEmpty({made}) AND {check or 1})"
    return Staged(
        column.name, name, _staged(steps, leaf.staged), "", value, taken, check, path=tuple(steps), key=str(first)
    )


def raw(column: Column, name: str, beside: Sequence[Sequence[Step]] = ()) -> Staged:
    """A text deeper in an event, as it was sent whatever it is.

    It is staged together with the texts at the paths `beside` it, which are its own path and others of the same key.
    """
    first, *steps = column.steps
    value = _through(steps, str)(quote(name))
    staged = _staged(steps, "Nullable(String)")
    if beside:
        value = quote(name)
        for step in steps:
            value = f"tupleElement({value}, {literal(str(step))})"
        staged = _together([path[1:] for path in beside], "Nullable(String)")
    default = f"CAST({column.default} AS {column.type})" if column.default else literal("")
    found = value if parse_type(column.type).nullable else f"ifNull({value}, {default})"
    return Staged(
        column.name,
        name,
        staged,
        "",
        value,
        f"CAST({found} AS {column.type})",
        f"isNotNull({value})" if column.required else None,
        path=tuple(steps),
        key=str(first),
    )


def _element(type: Type, exact: bool) -> WideType:
    """An element, which its object may not have, or have as null: it is the type's default then, or null."""
    found = wide_type_of(type, exact=exact)
    if type.parts or not NULLABLE.fullmatch(type.kind):
        return found
    plain = bare(type)
    inner = replace(found, taken=found.taken or str)
    staged = (
        inner.staged
        if type.nullable
        else f"Nullable({bare(type).text if found.staged == type.text else found.staged})"
    )
    absent = "NULL" if type.nullable else f"defaultValueOfTypeName({literal(plain.text)})"

    def taken(v: str) -> str:
        return f"ifNull(CAST({(inner.taken or str)(v)} AS Nullable({plain.text})), {absent})"

    return WideType(staged, found.check if type.nullable else or_null(found.check), taken)


def _staged(steps: Sequence[Step], leaf: str) -> str:
    for step in reversed(steps):
        leaf = f"Array({leaf})" if step is None else f"Tuple({quote(step)} {leaf})"
    return leaf


def _together(paths: Sequence[Sequence[Step]], leaf: str) -> str:
    """The type of an object with a leaf at each path; no path leads through another's leaf."""
    below: dict[str, list[Sequence[Step]]] = {}
    for step, *rest in paths:
        below.setdefault(str(step), []).append(rest)
    parts = (f"{quote(k)} {_together(rest, leaf) if rest[0] else leaf}" for k, rest in below.items())
    return f"Tuple({', '.join(parts)})"


def _through(steps: Sequence[Step], leaf: Sql, function: str = "arrayMap") -> Sql:
    """An expression over what is staged: `leaf` of each value that the path leads to."""
    if not steps:
        return leaf
    inner = _through(steps[1:], leaf, function)
    if steps[0] is None:
        return lambda v: each(function, inner, v)
    return lambda v: inner(f"tupleElement({v}, 1)")
