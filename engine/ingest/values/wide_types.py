"""Maps each ClickHouse type to a wider staging type, the condition for valid values, and their conversion.

The engine silently parses values that a column's type cannot hold. So a value is staged in a type that can hold it,
checked there, and only then converted to the column's type:

| column type | staged as | valid | invalid (and what the engine would store) | |---|---|---|---| | `Int8` | `Int128`
| `127` | `300` (44) | | `UInt256` | `String` | `1` | 2^256 (0) | | `Float32` | `Float64` | `3.4e38` | `1e39`
(infinity) | | `Float64` | `Float64` | `1e308` | `1e309` (infinity) | | `Decimal(9, 2)` | `String` | `"1.239"` (1.24,
rounded) | `"12.5.5"` (12.55), `""` (0) | | `Date` | `String` | `"2026-02-28"` | `"2026-02-31"` (2026-03-03) | |
`DateTime` | `String` | `"2026-02-28T10:20:30Z"`, `1772274030` | `"2026-02-28 25:00:00"` (2026-03-01 01:00:00) | |
`UUID` | `String` | `"61f0c404-5cb3-11e7-907b-a6006ad3dba0"` | a shorter text (includes parts of the next row) | |
`Enum8('a' = 1)` | `String` | `"a"`, `1` | `"b"` | | `Array(Int8)` | `Array(Nullable(Int128))` | `[1, 2]` | `[300]`
(44), `[null]` (0) | | `String`, `Bool`, `IPv4` and others | as themselves | | the engine itself refuses invalid
values |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from engine.ingest.formats.file_columns import OTHER, SourceKind, SourceType
from engine.ingest.values.composite_types import composite
from engine.ingest.values.moments import DATETIME_RANGE, moment
from engine.ingest.values.staging_rules import Sql, WideType
from engine.schema import literal
from engine.tenant_ids import integer_bounds
from engine.warehouse.type_names import Type

FIRST_INFINITE = {"Float32": "3.4028235677973366e38", "BFloat16": "3.3961775292304957e38"}
"""The smallest numbers that round to infinity."""
DATE_RANGES = {"Date": ("1970-01-01", "2149-06-06"), "Date32": ("1900-01-01", "2299-12-31")}
"""The first and the last date of each type."""
NUMBER_PATTERN = r"^[+-]?(\\d+[.]?\\d*|[.]\\d+)([eE][+-]?\\d+)?$"
TIME_PATTERN = r"^-?(\\d{1,3}:)?[0-5]\\d:[0-5]\\d([.]\\d+)?$"
SECONDS_PATTERN = r"^-?(\\d{1,5}|\\d{7})$"
MAX_SECONDS = 3_599_999
"""The most seconds of a `Time`: 999:59:59."""
# A label without a number also matches, so that the text is not scanned again for each quote in it.
ENUM_LABEL = re.compile(r"('(?:[^'\\]|\\(?:.|\Z))*+(?:'|\Z))(?:\s*+=\s*+(-?\d+))?+", re.DOTALL)
MAX_DECIMAL_DIGITS = 76
SPARE_DIGITS = 20
"""Number of additional decimals of a staged number beyond its column's scale, so that further digits are rounded and
not cut off.
"""
FEWEST_DIGITS = 39
"""Digits of the shortest number that an `Int128` may not hold."""
_UNCHANGED: Mapping[str, tuple[SourceKind, ...]] = {
    "Float64": ("float", "integer", "boolean"),
    "DateTime64": ("timestamp", "time"),
    "Time": ("time",),
    "Time64": ("time",),
    "Bool": ("boolean",),
}
"""The kinds of a typed file's values that the engine reads correctly in the column's own type."""
NULLABLE = re.compile(
    r"U?Int\d+|B?Float\d+|Decimal|(Fixed)?String|Date(32)?|DateTime(64)?|Time(64)?|UUID|Enum\d+|Bool|IPv[46]"
)
"""The types that can be Nullable. The engine refuses Nullable for others."""


def wide_type_of(
    type: Type,
    *,
    integers_as_text: bool = False,
    source_type: SourceType | None = None,
    is_json_element: bool = False,
) -> WideType:
    """Return how values of a type are staged, from text or from a typed file's column of type `source_type`.

    With `integers_as_text`, integers are staged as the strings that were sent. An element of a list or object in JSON
    may be true or false, which the engine's number parser reads as 1 and 0.
    """
    if type.parts:
        parts = [
            wide_type_of(
                p,
                integers_as_text=integers_as_text,
                source_type=source_type and _source_of_part(n, type, source_type),
                is_json_element=source_type is None,
            )
            for n, p in enumerate(type.parts)
        ]
        keys = parts[:1] if type.kind == "Map" else []
        elements = zip(type.parts[len(keys) :], parts[len(keys) :], strict=True)
        return composite(type, [*keys, *(_never_null(t, p) for t, p in elements)])
    plain = bare(type)
    wide = (
        _from_text(plain, integers_as_text, is_json_element)
        if source_type is None
        else _from_typed_file(plain, source_type)
    )
    if wide is None:
        # For null in a file's column of numbers or times, the engine would store the text of 0.
        becomes_text = plain.kind == "String" and source_type is not None
        return WideType(type.text, has_invalid_default=becomes_text)
    if not type.nullable:
        return wide
    return replace(wide, staging_type=f"Nullable({wide.staging_type})", check=or_null(wide.check))


def _source_of_part(number: int, type: Type, source_type: SourceType) -> SourceType:
    """The type in the file of a part of a list, map or tuple."""
    parts = source_type.parts
    if type.kind == "Array" and source_type.kind == "list":
        return parts[0]
    if type.kind == "Map" and source_type.kind == "map":
        part = parts[number]
    elif type.kind == "Tuple" and source_type.kind == "struct":
        names = [n.lower() for n in source_type.names]
        at = (
            number
            if not type.names
            else next((i for i, n in enumerate(names) if n == type.names[number].lower()), -1)
        )
        part = parts[at] if 0 <= at < len(parts) else OTHER
    else:
        return OTHER
    return OTHER if part.kind.startswith("bytes") else part


def _from_typed_file(type: Type, source_type: SourceType) -> WideType | None:
    """Return how values of a file's typed column are staged. Values of another kind are staged as text."""
    kind, source = type.kind, source_type.kind
    if kind.endswith(("Int128", "Int256")) and source == f"bytes{int(kind[-3:]) // 8}":
        # ClickHouse writes these integers as their bytes, and reads them back only in their own type.
        return None
    if kind == "IPv4" and source == "integer":
        # ClickHouse writes these addresses as numbers.
        return WideType("Int128", lambda v: f"({v} BETWEEN 0 AND {2**32 - 1})", lambda v: f"toIPv4(toUInt32({v}))")
    if source in ("list", "map", "struct", "null") or source.startswith("bytes"):
        source = "other"
    if kind in DATE_RANGES and source in ("date", "other"):
        return _typed_day(kind)
    if kind in DATE_RANGES and source in ("timestamp", "time"):
        return _midnight(kind)
    if kind == "DateTime" and source in ("timestamp", "time", "other"):
        return WideType("DateTime64(6, 'UTC')", lambda v: f"({v} BETWEEN {DATETIME_RANGE})", restage=str)
    if integer_bounds(kind) and source in ("integer", "boolean", "other"):
        return _integer(kind, kind.endswith(("128", "256")), source == "boolean")
    if kind in FIRST_INFINITE and source in ("float", "integer", "boolean", "other"):
        return WideType("Float64", lambda v: f"(abs({v}) < {FIRST_INFINITE[kind]} OR NOT isFinite({v}))")
    if kind.startswith("Enum") and source == "other":
        # The engine refuses the whole file because of an unknown label.
        return _enum(type.text)
    if kind == "Decimal" and source in ("boolean", "other"):
        return _wide_decimal(type)
    if kind == "FixedString":
        # Inside others, the engine reads a text that is too long as null.
        return _cast_text(type)
    if source == "other" or kind == "String" or source in _UNCHANGED.get(kind, ()):
        return None
    return _any_as_text(type)


def text_value(type: Type) -> WideType | None:
    """How a value without parts is checked and converted from text; None if only the engine can read it."""
    if type.kind == "Bool":
        spellings = "('true', 'false', '1', '0')"
        return WideType(
            "String", lambda v: f"(lower({v}) IN {spellings})", lambda v: f"(lower({v}) IN ('true', '1'))"
        )
    if type.kind in ("String", "FixedString", "IPv4", "IPv6"):
        return _cast_text(type)
    wide = _from_text(type, integers_as_text=True)
    if wide is None or wide.staging_type == "String":
        return wide
    limit = FIRST_INFINITE.get(type.kind, "inf")
    return WideType("String", lambda v: f"ifNull(abs({_float(v)}) < {limit} OR isNaN({_float(v)}), 0)", _float, True)


def _any_as_text(type: Type) -> WideType:
    """Return how a value is staged as text, whatever its type in the file."""
    wide = _from_text(type, integers_as_text=True)
    if wide is not None and wide.staging_type == "String":
        return wide
    if type.kind.startswith(("Float", "BFloat")):
        limit = FIRST_INFINITE.get(type.kind, "inf")
        return WideType("String", lambda v: f"ifNull(abs({_float(v)}) < {limit}, 0)", _float, True)
    return _cast_text(type)


def _cast_text(type: Type) -> WideType:
    """Return how a value is staged as text that the engine converts."""

    def cast(v: str) -> str:
        return f"accurateCastOrNull({v}, {literal(type.text)})"

    return WideType("String", lambda v: f"isNotNull({cast(v)})", cast, True)


def _float(v: str) -> str:
    return f"toFloat64OrNull({v})"


def bare(type: Type) -> Type:
    """Return a type without LowCardinality and Nullable."""
    return replace(type, text=unwrapped(type.text), nullable=False)


def unwrapped(text: str) -> str:
    """Return a type's name without LowCardinality and Nullable."""
    for wrapper in ("LowCardinality(", "Nullable("):
        text = text[len(wrapper) : -1] if text.startswith(wrapper) else text
    return text


def _never_null(type: Type, element: WideType) -> WideType:
    """Refuse null as an element, because the engine would store the type's default."""
    if type.nullable or type.parts or not NULLABLE.fullmatch(type.kind):
        return element
    check = element.check
    return replace(
        element,
        staging_type=f"Nullable({bare(type).text if element.staging_type == type.text else element.staging_type})",
        check=lambda v: f"(isNotNull({v}) AND {check(f'assumeNotNull({v})')})" if check else f"isNotNull({v})",
        has_invalid_default=True,
    )


def or_null(check: Sql | None) -> Sql | None:
    """Return a check that also accepts null."""
    return None if check is None else lambda v: f"(isNull({v}) OR {check(f'assumeNotNull({v})')})"


def _from_text(type: Type, integers_as_text: bool, is_json_element: bool = False) -> WideType | None:
    """Return how values of JSON or CSV are staged, or None if they are staged in their own type."""
    kind = type.kind
    if integer_bounds(kind):
        return _integer(kind, integers_as_text or kind.endswith(("128", "256")), is_json_element)
    if kind in FIRST_INFINITE:
        return WideType("Float64", lambda v: f"(abs({v}) < {FIRST_INFINITE[kind]} OR isNaN({v}))")
    if kind == "Float64":
        return WideType(kind, lambda v: f"(NOT isInfinite({v}))")
    if kind == "Decimal":
        return _decimal(type)
    if kind in DATE_RANGES:
        return _day(kind)
    if kind in ("DateTime", "DateTime64"):
        return moment(type)
    if kind in ("Time", "Time64"):
        return _time(type)
    if kind == "UUID":
        # The engine's UUID parser does not stop at the end of the value, and reads into the next row.
        return WideType("String", lambda v: f"isNotNull(toUUIDOrNull({v}))", "toUUIDOrNull({})".format, True)
    return _enum(type.text) if kind.startswith("Enum") else None


def _enum(text: str) -> WideType:
    """Stage an Enum as text: a label or its number. As an Enum, an absent value would become 0, which may not have a
    label.
    """
    labels = [(label, number) for label, number in ENUM_LABEL.findall(text) if number]
    by_number = {n: label for label, n in labels}
    known = ", ".join([label for label, _ in labels] + [f"'{n}'" for _, n in labels])
    sent, stored = ", ".join(f"'{n}'" for n in by_number), ", ".join(by_number.values())
    return WideType(
        "String",
        lambda v: f"({v} IN ({known}))",
        lambda v: f"transform({v}, [{sent}], [{stored}], {v})",
        True,
    )


def _time(type: Type) -> WideType:
    """Stage a time of day or duration as text. The engine turns `10:61:00` into 11:01:00, and clamps numbers."""

    def value(v: str) -> str:
        text = f"accurateCastOrNull({v}, {literal(type.text)})"
        if type.kind == "Time64":
            return text
        return f"if(match({v}, '{SECONDS_PATTERN}'), CAST(toInt32OrNull({v}) AS Nullable(Time)), {text})"

    pattern = f"{TIME_PATTERN}|{SECONDS_PATTERN}" if type.kind == "Time" else TIME_PATTERN

    def check(v: str) -> str:
        in_range = f"abs(toInt32OrZero({v})) <= {MAX_SECONDS} AND isNotNull({value(v)})"
        return f"(match({v}, '{pattern}') AND {in_range})"

    return WideType("String", check, value, True)


def _integer(kind: str, as_text: bool, reads_flags: bool = False) -> WideType:
    low, high = integer_bounds(kind) or (0, 0)
    if not as_text:
        return WideType("Int128", lambda v: f"({v} BETWEEN {low} AND {high})")
    if kind.endswith(("128", "256")):
        # There are no wider types, and the engine has no literals of these types, so compare the parsed value as
        # text.
        return WideType("String", lambda v: f"ifNull(toString(to{kind}OrNull({v})) = {v}, 0)", None, True)

    def number(v: str) -> str:
        text = f"transform({v}, ['true', 'false'], ['1', '0'], {v})" if reads_flags else v
        return f"if(length({v}) < {FEWEST_DIGITS}, toInt128OrNull({text}), NULL)"

    return WideType("String", lambda v: f"ifNull({number(v)} BETWEEN {low} AND {high}, 0)", number, True)


def _spare_digits(type: Type) -> int:
    return max(min(SPARE_DIGITS, MAX_DECIMAL_DIGITS - type.precision), 0)


def _wide_decimal(type: Type) -> WideType | None:
    """Stage a decimal with additional decimals, which are rounded. The engine refuses too many digits before the
    decimal point.
    """
    spare = _spare_digits(type)
    if not spare:
        return None
    limit = f"toDecimal256('1{'0' * (type.precision - type.scale)}', 0)"
    return WideType(
        f"Decimal({type.precision + spare}, {type.scale + spare})",
        lambda v: f"(abs(round({v}, {type.scale})) < {limit})",
        lambda v: f"round({v}, {type.scale})",
        restage=str,
    )


def _decimal(type: Type) -> WideType:
    """Stage a decimal as text, because the engine's parser accepts `12.5.5`, and reads an empty string as 0."""
    spare, wide = _spare_digits(type), _wide_decimal(type)
    bits = 256 if type.precision + spare > 38 else 128

    def value(v: str) -> str:
        return f"toDecimal{bits}OrNull({v}, {type.scale + spare})"

    def check(v: str) -> str:
        fits = f" AND {wide.check(f'assumeNotNull({value(v)})')}" if wide and wide.check else ""
        return f"(match({v}, '{NUMBER_PATTERN}') AND isNotNull({value(v)}){fits})"

    return WideType("String", check, lambda v: f"round({value(v)}, {type.scale})", True, str)


def _day(kind: str) -> WideType:
    """Stage a date as text. The engine accepts day 31 in any month, and converts it to a date in the next month."""
    first, last = DATE_RANGES[kind]

    def check(v: str) -> str:
        day, month, day_of_month = f"toDate32OrNull({v})", "\\\\d{4}\\\\D?(\\\\d\\\\d?)", "(\\\\d\\\\d?)$"
        parts = (f"leftPad(extract({v}, '{p}'), 2, '0')" for p in (f"^{month}", day_of_month))
        written = ", '-', ".join((f"left({v}, 4)", *parts))
        real = f"(toString({day}) = {v} OR toString({day}) = concat({written}))"
        return f"ifNull({day} BETWEEN '{first}' AND '{last}' AND {real}, 0)"

    return WideType("String", check, lambda v: f"toDate32OrNull({v})", True)


def _typed_day(kind: str) -> WideType:
    first, last = DATE_RANGES[kind]
    return WideType("Date32", lambda v: f"({v} BETWEEN '{first}' AND '{last}')", restage=str)


def _midnight(kind: str) -> WideType:
    """Stage a date that a typed file has as a timestamp. Only timestamps at midnight are valid."""
    first, last = DATE_RANGES[kind]
    return WideType(
        "DateTime64(6, 'UTC')",
        lambda v: f"(toStartOfDay({v}) = {v} AND toDate32({v}) BETWEEN '{first}' AND '{last}')",
        lambda v: f"toDate32({v})",
        restage=str,
    )
