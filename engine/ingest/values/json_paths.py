"""Stages values below the top level of an event: the outermost object is staged as JSON, and values are cast from it.

The engine's JSON type keeps numbers and strings as parsed values, not as they were sent. So each kind of value is
checked in its parsed form.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.ingest.values.staging_rules import ColumnRules, StagedColumn, WideType
from engine.ingest.values.wide_types import bare, wide_type_of
from engine.project.datasource import Column, Datasource
from engine.schema import literal, quote
from engine.tenant_ids import integer_bounds
from engine.warehouse.type_names import Type, parse_type

INVALID_ID = "\x00"
"""Replaces a tenant whose JSON type does not fit its column, so that the row is rejected. It is not a valid id."""


@dataclass(frozen=True, slots=True)
class _Path:
    """A value in the stage, as SQL: the value at the path, and the object at the path."""

    value: str
    """The value, which is NULL if the path has an object or nothing."""
    object: str
    """The object at the path, which is empty if there is no object. This distinguishes an object from an absent
    key.
    """

    @property
    def has_object(self) -> str:
        """The SQL condition: an object is at the path."""
        return f"notEmpty(JSONAllPaths({self.object}))"

    @property
    def has_no_object(self) -> str:
        """The SQL condition: a value, or nothing, is at the path."""
        return f"empty(JSONAllPaths({self.object}))"


def stage_nested(source: Datasource, column: Column, name: str, zone: str) -> StagedColumn:
    """Stage a column that reads a value deeper in the event. Its outermost object is staged as `name`."""
    keys = [name, *column.path[1:]]
    path = _Path(".".join(map(quote, keys)), f"{quote(keys[0])}.^{'.'.join(map(quote, keys[1:]))}")
    value, guard = path.value, ""
    if column.name == source.tenant_column:
        value = _tenant_text(path, column)
        rules = ColumnRules(None, f"CAST(assumeNotNull({value}) AS {column.type})")
    else:
        type = parse_type(column.type).in_zone(zone)
        if type.kind == "JSON":
            rules = _object_rules(path, column)
        elif type.kind == "String":
            rules = _text_rules(path, column, type)
        else:
            rules, guard = _value_rules(path, column, type), _guard(path.value, type)
    steps, key = tuple(keys[1:]), column.path[0]
    return StagedColumn(column.name, name, "JSON", "", value, rules, path=steps, key=key, guard=guard)


def _default(column: Column) -> str:
    if column.default:
        return f"CAST({column.default} AS {column.type})"
    return f"defaultValueOfTypeName({literal(column.type)})"


def _tenant_text(path: _Path, column: Column) -> str:
    """Return the SQL of the tenant's id as a string: NULL if it is absent, INVALID_ID if it has another type.

    Only strings can be ids, and integers in a column of an integer type. The number 1.0 differs from 1 only in its
    type.
    """
    types = "('Int64', 'UInt64', 'String')" if integer_bounds(parse_type(column.type).kind) else "('String')"
    text = f"if(dynamicType({path.value}) IN {types}, toString({path.value}), {literal(INVALID_ID)})"
    return f"if(isNull({path.value}), if({path.has_no_object}, NULL, {literal(INVALID_ID)}), {text})"


def _object_rules(path: _Path, column: Column) -> ColumnRules:
    stored = f"if({path.has_no_object}, {_default(column)}, CAST({path.object} AS {column.type}))"
    required = f" AND {path.has_object}" if column.required else ""
    return ColumnRules(f"(isNull({path.value}){required})", stored)


def _text_rules(path: _Path, column: Column, type: Type) -> ColumnRules:
    """Store a string unchanged, and any other value as JSON."""
    inner = path.value
    plain = f"if(startsWith(dynamicType({inner}), 'Array'), toJSONString({inner}), CAST({inner} AS Nullable(String)))"
    text = f"if({path.has_no_object}, {plain}, toString({path.object}))"
    stored = f"CAST({text if type.nullable else f'ifNull({text}, {_default(column)})'} AS {column.type})"
    return ColumnRules(f"isNotNull({text})" if column.required else None, stored)


def _value_rules(path: _Path, column: Column, type: Type) -> ColumnRules:
    value, check = (_composite if type.parts else _scalar)(path.value, type)
    if type.parts:
        stored = f"if(isNull({path.value}), {_default(column)}, CAST({value} AS {column.type}))"
    else:
        stored = f"CAST({value if type.nullable else f'ifNull({value}, {_default(column)})'} AS {column.type})"
    absent = f"(isNull({path.value}) AND {path.has_no_object})"
    return ColumnRules(f"({check})" if column.required else f"({absent} OR ({check}))", stored)


def _guard(inner: str, type: Type) -> str:
    """Return the condition for values that can be cast to the type; empty if every value can."""
    kind, text = f"dynamicType({inner})", f"CAST({inner} AS Nullable(String))"
    if not type.parts:
        return f"NOT startsWith({kind}, 'Array')" if type.kind.startswith(("Float", "BFloat")) else ""
    depth, element = 0, type
    while element.kind == "Array":
        depth, element = depth + 1, element.parts[0]
    arrays = "Array(" * depth
    same_depth = f"(startsWith({kind}, '{arrays}') AND NOT startsWith({kind}, '{arrays}Array('))"
    if element.kind == "JSON":
        empty = f"({kind} = 'Array(Nullable(String))' AND {text} = '[]')"
        same_depth = f"({empty} OR startsWith({kind}, '{arrays}JSON'))"
    return f"(isNull({inner}) OR {same_depth} OR ({kind} = 'String' AND startsWith({text}, '[')))"


def _composite(inner: str, type: Type) -> tuple[str, str]:
    """Return an array, map or tuple converted to the type, and the check of its elements. The cast may throw."""
    element = type.parts[0]
    if type.kind == "Array" and not element.nullable and integer_bounds(element.kind):
        # Cast to a string first, because a direct cast would cut off the decimals of a number.
        texts = f"CAST({inner} AS Array(Nullable(String)))"
        integers = f"arrayMap(_rk_x -> accurateCastOrNull(_rk_x, {literal(element.text)}), {texts})"
        check = f"isNotNull({inner}) AND arrayAll(_rk_x -> isNotNull(_rk_x), {integers})"
        return f"arrayMap(_rk_x -> assumeNotNull(_rk_x), {integers})", check
    # Likewise, elements that are null or lists themselves.
    wide = wide_type_of(type, integers_as_text=True)
    value = f"CAST({inner} AS {wide.staging_type})"
    check = f"isNotNull({inner}) AND {wide.check(value)}" if wide.check else f"isNotNull({inner})"
    return wide.convert(value) if wide.convert else value, check


def _scalar(inner: str, type: Type) -> tuple[str, str]:
    """Return the value converted to the type (NULL if it is invalid), and its check."""
    plain = bare(type)
    wide = wide_type_of(plain)
    value = _staged_form(inner, plain, wide)
    check = f"isNotNull({value})"
    if wide.check and not integer_bounds(plain.kind):
        check += f" AND {wide.check(f'assumeNotNull({value})')}"
    if wide.convert:
        value = wide.convert(value)
    return f"CAST({value} AS Nullable({plain.text}))", check


def _staged_form(inner: str, type: Type, wide: WideType) -> str:
    """Return a value in the form in which it would be staged at the top level of an event, or NULL if it has no such
    form.
    """
    kind, text = type.kind, f"CAST({inner} AS Nullable(String))"
    is_text = f"dynamicType({inner}) = 'String'"
    if kind.startswith(("Float", "BFloat")):
        # A float may be rounded to the nearest representable value.
        return f"CAST({inner} AS Nullable(Float64))"
    if integer_bounds(kind):
        # The parser of types wider than 64 bits wraps, so its result is compared with the text.
        wide_integer = f"to{kind}OrNull({text})"
        exact = f"if(toString({wide_integer}) = {text}, {wide_integer}, NULL)"
        return f"if({is_text} AND length({text}) > 18, {exact}, accurateCastOrNull({inner}, {literal(kind)}))"
    if kind == "Decimal":
        # The JSON type stores a number with decimals as a float. With up to 15 digits, its shortest form is the
        # number that was sent.
        large = f"(dynamicType({inner}) = 'Float64' AND abs(ifNull(dynamicElement({inner}, 'Float64'), 0)) >= 1e15)"
        return f"if({large}, NULL, {text})"
    if kind == "Bool":
        return f"if({text} IN ('true', 'false', '0', '1'), accurateCastOrNull({text}, 'Bool'), NULL)"
    if wide.has_invalid_default:
        return text
    return f"accurateCastOrNull({inner}, {literal(type.text)})"
