"""Stages values as the path to them: objects as tuples with one key, arrays as arrays.

The engine then parses such a value as it would at the top level of an event. This is used for values in each object
of an array, and for strings that contain an object from which other columns read values.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.ingest.formats.file_columns import OTHER, SourceType
from engine.ingest.values.composite_types import each
from engine.ingest.values.staging_rules import ColumnRules, Sql, StagedColumn, WideType
from engine.ingest.values.wide_types import NULLABLE, bare, or_null, wide_type_of
from engine.project.datasource import Column
from engine.schema import literal, quote
from engine.warehouse.type_names import Type, parse_type

Step = str | None
"""A key, or None for every element of an array."""


def stage_array_values(column: Column, name: str, zone: str, *, integers_as_text: bool = False) -> StagedColumn:
    """Stage an array column that collects the value at a path in each object of an array. `name` is the stage's."""
    element = _element_type(column, zone)
    wide = wide_type_of(element, integers_as_text=integers_as_text, is_json_element=True)
    first, *steps = column.steps
    return _stage_array(column, name, str(first), steps, _element(element, wide))


def stage_collected_values(column: Column, name: str, source_type: SourceType, zone: str) -> StagedColumn:
    """Stage an array column of a typed file that already has the collected values."""
    element = _element_type(column, zone)
    for _ in range(column.lists):
        source_type = source_type.parts[0] if source_type.kind == "list" else OTHER
    wide = wide_type_of(element, source_type=source_type)
    return _stage_array(column, name, column.name, [None] * column.lists, _element(element, wide))


def _element_type(column: Column, zone: str) -> Type:
    """The type of the values at the path."""
    element = parse_type(column.type).in_zone(zone)
    for _ in range(column.lists):
        element = element.parts[0]
    return element


def _stage_array(column: Column, name: str, key: str, steps: Sequence[Step], leaf: WideType) -> StagedColumn:
    value = quote(name)
    # Converted inside the arrays, since the whole is only cast to the column's type afterwards.
    collected = _through(steps, leaf.convert or str)(value)
    stored = f"CAST({collected} AS {column.type})"
    if column.default:
        stored = f"if(empty({collected}), CAST({column.default} AS {column.type}), {stored})"
    check = _through(steps, leaf.check, "arrayAll")(value) if leaf.check else None
    if column.required:
        check = f"(notEmpty({collected}) AND {check or 1})"
    type = _path_type(steps, leaf.staging_type)
    return StagedColumn(column.name, name, type, "", value, ColumnRules(check, stored), path=tuple(steps), key=key)


def stage_verbatim_text(column: Column, name: str, siblings: Sequence[Sequence[Step]] = ()) -> StagedColumn:
    """Stage a string column below the top level as the JSON text that was sent, whatever its type.

    It is staged together with the strings at the paths `siblings`, which begin with the same key and include its own
    path.
    """
    first, *steps = column.steps
    value = _through(steps, str)(quote(name))
    type = _path_type(steps, "Nullable(String)")
    if siblings:
        value = quote(name)
        for step in steps:
            value = f"tupleElement({value}, {literal(str(step))})"
        type = _joint_type([path[1:] for path in siblings], "Nullable(String)")
    default = f"CAST({column.default} AS {column.type})" if column.default else literal("")
    text = value if parse_type(column.type).nullable else f"ifNull({value}, {default})"
    rules = ColumnRules(f"isNotNull({value})" if column.required else None, f"CAST({text} AS {column.type})")
    return StagedColumn(column.name, name, type, "", value, rules, path=tuple(steps), key=str(first))


def _element(type: Type, wide: WideType) -> WideType:
    """Return how an element is staged. If its object lacks it or has null, NULL or the type's default is stored."""
    if type.parts or not NULLABLE.fullmatch(type.kind):
        return wide
    plain = bare(type)
    convert_value = wide.convert or str
    staging_type = wide.staging_type
    if not type.nullable:
        staging_type = f"Nullable({plain.text if staging_type == type.text else staging_type})"
    absent = "NULL" if type.nullable else f"defaultValueOfTypeName({literal(plain.text)})"

    def convert(v: str) -> str:
        return f"ifNull(CAST({convert_value(v)} AS Nullable({plain.text})), {absent})"

    return WideType(staging_type, wide.check if type.nullable else or_null(wide.check), convert)


def _path_type(steps: Sequence[Step], leaf: str) -> str:
    """Return the type of a path to a leaf, such as `Array(Tuple(a String))`."""
    for step in reversed(steps):
        leaf = f"Array({leaf})" if step is None else f"Tuple({quote(step)} {leaf})"
    return leaf


def _joint_type(paths: Sequence[Sequence[Step]], leaf: str) -> str:
    """Return the type of an object with a leaf at each path. A path never continues below another path's leaf."""
    by_key: dict[str, list[Sequence[Step]]] = {}
    for step, *rest in paths:
        by_key.setdefault(str(step), []).append(rest)
    parts = (f"{quote(key)} {_joint_type(rest, leaf) if rest[0] else leaf}" for key, rest in by_key.items())
    return f"Tuple({', '.join(parts)})"


def _through(steps: Sequence[Step], leaf: Sql, function: str = "arrayMap") -> Sql:
    """Return an expression over the stage's column that applies `leaf` to each value at the path."""
    if not steps:
        return leaf
    inner = _through(steps[1:], leaf, function)
    if steps[0] is None:
        return lambda v: each(function, inner, v)
    return lambda v: inner(f"tupleElement({v}, 1)")
