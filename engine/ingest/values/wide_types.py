"""How values of a type arrive: wide enough to see what does not fit, before the engine would wrap, clamp or cut it.

The engine parses without complaint what no column of the type can hold: 300 becomes 44 in an `Int8`, the 31st of
February the 3rd of March, 1e39 infinity. So a value is staged in a type that holds it, judged there, and only then
made what its column is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from engine.ingest.formats.file_columns import SourceType
from engine.schema import literal, quote
from engine.tenant_ids import integer_bounds
from engine.warehouse.type_names import Type

Sql = Callable[[str], str]
"""An expression over an expression."""

FIRST_INFINITE = {"Float32": "3.4028235677973366e38", "BFloat16": "3.3961775292304957e38"}
"""The first numbers that round to infinity."""
DATE_RANGES = {"Date": ("1970-01-01", "2149-06-06"), "Date32": ("1900-01-01", "2299-12-31")}
NUMBER_PATTERN = r"^[+-]?(\\d+[.]?\\d*|[.]\\d+)([eE][+-]?\\d+)?$"
DATETIME_PATTERN = (
    r"^(\\d{1,7}|\\d{9,10}([.]\\d+)?|\\d{13}([.]\\d+)?|\\d{16}|\\d{19}"
    r"|\\d{4}[-/](0?[1-9]|1[0-2])[-/](0?[1-9]|[12]\\d|3[01])([Tt ]([01]?\\d|2[0-3]):[0-5]\\d(:[0-5]\\d([.,]\\d+)?)?"
    r" ?([Zz]|UTC|GMT|[+-](0\\d|1[0-4])(:?[0-5]\\d)?)?)?)$"
)
"""Texts that are a moment: ISO 8601, or digits: seconds since 1970 (in 8 digits they could be a day), in 13 digits
milliseconds, in 16 microseconds and in 19 nanoseconds."""
DATETIME_RANGE = "toDateTime64(0, 0, 'UTC') AND toDateTime64(4294967295, 0, 'UTC')"
"""What a `DateTime` holds."""
ZONE_PATTERN = re.compile(r"'([^']*)'")
# Without its number a label is taken as well, so that no text is looked through once for each quote in it.
ENUM_LABEL = re.compile(r"('(?:[^'\\]|\\(?:.|\Z))*+(?:'|\Z))(?:\s*+=\s*+(-?\d+))?+", re.DOTALL)
MOST_DIGITS, SPARE_DIGITS = 76, 20
FEWEST_DIGITS = 39
"""Digits of the shortest number that an `Int128` may not hold."""
NULLABLE = re.compile(
    r"U?Int\d+|B?Float\d+|Decimal|(Fixed)?String|Date(32)?|DateTime(64)?|Time(64)?|UUID|Enum\d+|Bool|IPv[46]"
)
"""Kinds of values that may be null; of others the engine knows no such type."""
_NAMES = re.compile(r"\b_rk_x(\d+)\b")


@dataclass(frozen=True, slots=True)
class WideType:
    """A type's values on their way.

    `staged` is the type in which they are staged. `check` is the condition under which a staged value can be stored,
    and `taken` the value, to be cast to the type; without them there is nothing to ask, or to do. `texts` says that
    the staged type's own default is no value of the type, as that of a text is not.
    """

    staged: str
    check: Sql | None = None
    taken: Sql | None = None
    texts: bool = False


@dataclass(frozen=True, slots=True)
class Staged:
    """One column on its way.

    `column` is its name in the datasource, `name` and `type` those in the stage; `value` is the SQL of what arrived,
    `taken` of what is stored, and `check` of the condition under which it can be. `usual` is a shorter condition and
    a shorter value, which may throw: what they let pass, the others would as well, and to the same value. `path`
    leads from what is staged to the value, with None for every element of a list. `key` is the event's key, if the
    stage has it under another name. Where `guard` does not hold, `check` and `taken` may throw.
    """

    column: str
    name: str
    type: str
    default: str
    value: str
    taken: str
    check: str | None = None
    usual: tuple[str | None, str] | None = None
    path: tuple[str | None, ...] = ()
    key: str = ""
    guard: str = ""

    @property
    def given(self) -> str:
        """What the value's key is in an event, or its column in a file."""
        return self.key or self.name


def wide_type_of(type: Type, *, exact: bool = False, given: SourceType | None = None) -> WideType:
    """How values of a type arrive: out of text, or as what a typed file has in the column (`given`).

    With `exact`, integers arrive as the text that was sent.
    """
    if type.parts:
        parts = [wide_type_of(p, exact=exact, given=given and "other") for p in type.parts]
        keys = parts[:1] if type.kind == "Map" else []
        elements = zip(type.parts[len(keys) :], parts[len(keys) :], strict=True)
        return _composed(type, [*keys, *(_never_null(t, p) for t, p in elements)])
    plain = bare(type)
    found = _plain(plain, exact) if given is None else _typed(plain, given)
    if found is None:
        return WideType(type.text)
    if not type.nullable:
        return found
    return replace(found, staged=f"Nullable({found.staged})", check=or_null(found.check))


def _typed(type: Type, given: SourceType) -> WideType | None:
    """Values of a file that says what they are. What is not the column's kind goes by way of its text."""
    kind = type.kind
    if kind in DATE_RANGES and given in ("date", "other"):
        return _typed_day(kind)
    if kind in DATE_RANGES and given == "timestamp":
        return _midnight(kind)
    if kind == "DateTime" and given in ("timestamp", "other"):
        return WideType("DateTime64(6, 'UTC')", lambda v: f"({v} BETWEEN {DATETIME_RANGE})")
    if integer_bounds(kind) and given in ("integer", "other"):
        return _integer(kind, kind.endswith(("128", "256")))
    if kind in FIRST_INFINITE and given in ("float", "integer", "other"):
        return WideType("Float64", lambda v: f"(abs({v}) < {FIRST_INFINITE[kind]} OR NOT isFinite({v}))")
    if kind == "Decimal" and given == "other":
        return _wide_decimal(type)
    as_it_is = given == "other" or (kind == "DateTime64" and given == "timestamp")
    if as_it_is or kind in ("String", "FixedString") or (kind == "Float64" and given in ("float", "integer")):
        return None
    return _out_of_text(type)


def _out_of_text(type: Type) -> WideType:
    found = _plain(type, exact=True)
    if found is not None and found.staged == "String":
        return found
    if type.kind.startswith(("Float", "BFloat")):
        limit = FIRST_INFINITE.get(type.kind, "inf")
        return WideType("String", lambda v: f"ifNull(abs({_float(v)}) < {limit}, 0)", _float, texts=True)

    def cast(v: str) -> str:
        return f"accurateCastOrNull({v}, {literal(type.text)})"

    return WideType("String", lambda v: f"isNotNull({cast(v)})", cast, texts=True)


def _float(v: str) -> str:
    return f"toFloat64OrNull({v})"


def bare(type: Type) -> Type:
    """A type without wrappers."""
    return Type(type.kind, unwrapped(type.text), False, type.parts, type.names, type.precision, type.scale)


def unwrapped(text: str) -> str:
    """A type's name without wrappers."""
    for wrapper in ("LowCardinality(", "Nullable("):
        text = text[len(wrapper) : -1] if text.startswith(wrapper) else text
    return text


def _never_null(type: Type, part: WideType) -> WideType:
    """An element, which the engine would take for the type's default where it is null."""
    if type.nullable or type.parts or not NULLABLE.fullmatch(type.kind):
        return part
    check = part.check
    return replace(
        part,
        staged=f"Nullable({bare(type).text if part.staged == type.text else part.staged})",
        check=lambda v: f"(isNotNull({v}) AND {check(f'assumeNotNull({v})')})" if check else f"isNotNull({v})",
        texts=True,
    )


def or_null(check: Sql | None) -> Sql | None:
    """A check that lets null pass."""
    return None if check is None else lambda v: f"(isNull({v}) OR {check(f'assumeNotNull({v})')})"


def _plain(type: Type, exact: bool) -> WideType | None:
    kind = type.kind
    if integer_bounds(kind):
        return _integer(kind, exact or kind.endswith(("128", "256")))
    if kind in FIRST_INFINITE:
        return WideType("Float64", lambda v: f"(abs({v}) < {FIRST_INFINITE[kind]} OR isNaN({v}))")
    if kind == "Float64":
        return WideType(kind, lambda v: f"(NOT isInfinite({v}))")
    if kind == "Decimal":
        return _decimal(type)
    if kind in DATE_RANGES:
        return _day(kind)
    if kind in ("DateTime", "DateTime64"):
        return _moment(type)
    if kind == "UUID":
        # The engine's parser of it goes on into the next row.
        return WideType("String", lambda v: f"isNotNull(toUUIDOrNull({v}))", "toUUIDOrNull({})".format, texts=True)
    return _enum(type.text) if kind.startswith("Enum") else None


def _enum(text: str) -> WideType:
    """Labels, or their numbers; what is null or absent would become a number that has none."""
    labels = [(label, number) for label, number in ENUM_LABEL.findall(text) if number]
    numbers = {n: label for label, n in labels}
    known = ", ".join([label for label, _ in labels] + [f"'{n}'" for _, n in labels])
    given, made = ", ".join(f"'{n}'" for n in numbers), ", ".join(numbers.values())
    return WideType(
        "String",
        lambda v: f"({v} IN ({known}))",
        lambda v: f"transform({v}, [{given}], [{made}], {v})",
        texts=True,
    )


def _moment(type: Type) -> WideType:
    """The engine's own parser takes any text with digits in it for a moment, and counts on behind 23:59:59."""
    zone = f", '{found[1]}'" if (found := ZONE_PATTERN.search(type.text)) else ""

    def parsed(v: str) -> str:
        # The engine tells seconds by their ten digits, and reads neither `t` nor `z`.
        text = f"if(length({v}) < 8, leftPad({v}, 10, '0'), upper({v}))"
        return f"parseDateTime64BestEffortOrNull({text}, {type.scale}{zone})"

    def check(v: str) -> str:
        value = parsed(v)
        there = f"isNotNull({value})" if type.kind == "DateTime64" else f"ifNull({value} BETWEEN {DATETIME_RANGE}, 0)"
        return f"(match({v}, '{DATETIME_PATTERN}') AND {there})"

    return WideType("String", check, parsed, texts=True)


def _integer(kind: str, as_text: bool) -> WideType:
    low, high = integer_bounds(kind) or (0, 0)
    if not as_text:
        return WideType("Int128", lambda v: f"({v} BETWEEN {low} AND {high})")
    if kind.endswith(("128", "256")):
        # The engine has no literals of these, and no wider type.
        return WideType("String", lambda v: f"ifNull(toString(to{kind}OrNull({v})) = {v}, 0)", texts=True)

    def number(v: str) -> str:
        return f"if(length({v}) < {FEWEST_DIGITS}, toInt128OrNull({v}), NULL)"

    return WideType("String", lambda v: f"ifNull({number(v)} BETWEEN {low} AND {high}, 0)", number, texts=True)


def _spare(type: Type) -> int:
    return max(min(SPARE_DIGITS, MOST_DIGITS - type.precision), 0)


def _wide_decimal(type: Type) -> WideType | None:
    """Digits beyond the scale are rounded, and not cut off; those before it are the engine's to count."""
    spare = _spare(type)
    if not spare:
        return None
    limit = f"toDecimal256('1{'0' * (type.precision - type.scale)}', 0)"
    return WideType(
        f"Decimal({type.precision + spare}, {type.scale + spare})",
        lambda v: f"(abs(round({v}, {type.scale})) < {limit})",
        lambda v: f"round({v}, {type.scale})",
    )


def _decimal(type: Type) -> WideType:
    """By way of text: the engine's parser takes `12.5.5` for a number, and nothing for 0."""
    spare, wide = _spare(type), _wide_decimal(type)
    bits = 256 if type.precision + spare > 38 else 128

    def value(v: str) -> str:
        return f"toDecimal{bits}OrNull({v}, {type.scale + spare})"

    def check(v: str) -> str:
        fits = f" AND {wide.check(f'assumeNotNull({value(v)})')}" if wide and wide.check else ""
        return f"(match({v}, '{NUMBER_PATTERN}') AND isNotNull({value(v)}){fits})"

    return WideType("String", check, lambda v: f"round({value(v)}, {type.scale})", texts=True)


def _day(kind: str) -> WideType:
    """The engine takes any day of any month, and goes on counting in the next one."""
    first, last = DATE_RANGES[kind]

    def check(v: str) -> str:
        day, month, last_of = f"toDate32OrNull({v})", "\\\\d{4}\\\\D?(\\\\d\\\\d?)", "(\\\\d\\\\d?)$"
        parts = (f"leftPad(extract({v}, '{p}'), 2, '0')" for p in (f"^{month}", last_of))
        written = ", '-', ".join((f"left({v}, 4)", *parts))
        real = f"(toString({day}) = {v} OR toString({day}) = concat({written}))"
        return f"ifNull({day} BETWEEN '{first}' AND '{last}' AND {real}, 0)"

    return WideType(
        "String",
        check,
        lambda v: f"toDate32OrNull({v})",
        texts=True,
    )


def _typed_day(kind: str) -> WideType:
    first, last = DATE_RANGES[kind]
    return WideType("Date32", lambda v: f"({v} BETWEEN '{first}' AND '{last}')")


def _midnight(kind: str) -> WideType:
    """A day that is written as the moment at which it begins."""
    first, last = DATE_RANGES[kind]
    return WideType(
        "DateTime64(6, 'UTC')",
        lambda v: f"(toStartOfDay({v}) = {v} AND toDate32({v}) BETWEEN '{first}' AND '{last}')",
        lambda v: f"toDate32({v})",
    )


def _composed(type: Type, parts: Sequence[WideType]) -> WideType:
    if type.kind == "Array":
        return _array(parts[0])
    return _map(*parts) if type.kind == "Map" else _tuple(type, parts)


def _array(element: WideType) -> WideType:
    return WideType(f"Array({element.staged})", _all(element.check), _each(element.taken))


def _map(key: WideType, value: WideType) -> WideType:
    sides = [(f, all_) for f, a in (("mapKeys", key), ("mapValues", value)) if (all_ := _all(a.check))]

    def taken(v: str) -> str:
        keys, values = (_each(a.taken) or str for a in (key, value))
        return f"mapFromArrays({keys(f'mapKeys({v})')}, {values(f'mapValues({v})')})"

    return WideType(
        f"Map({key.staged}, {value.staged})",
        (lambda v: "(" + " AND ".join(c(f"{f}({v})") for f, c in sides) + ")") if sides else None,
        taken if key.taken or value.taken else None,
    )


def _tuple(type: Type, parts: Sequence[WideType]) -> WideType:
    names = [f"{quote(n)} " for n in type.names] or [""] * len(parts)
    checks = [(n, p.check) for n, p in enumerate(parts, 1) if p.check]

    def taken(v: str) -> str:
        return f"tuple({', '.join((p.taken or str)(f'tupleElement({v}, {n})') for n, p in enumerate(parts, 1))})"

    return WideType(
        f"Tuple({', '.join(n + p.staged for n, p in zip(names, parts, strict=True))})",
        (lambda v: "(" + " AND ".join(c(f"tupleElement({v}, {n})") for n, c in checks) + ")") if checks else None,
        taken if any(p.taken for p in parts) else None,
        any(p.texts for p in parts),
    )


def _all(check: Sql | None) -> Sql | None:
    return None if check is None else lambda v: each("arrayAll", check, v)


def _each(taken: Sql | None) -> Sql | None:
    return None if taken is None else lambda v: each("arrayMap", taken, v)


def each(function: str, inner: Sql, v: str) -> str:
    """A function over the elements of an array; a lambda that stands in another has a name of its own."""
    name = f"_rk_x{max((int(n) + 1 for n in _NAMES.findall(v)), default=0)}"
    return f"{function}({name} -> {inner(name)}, {v})"


def typed_default(type: Type, default: str, arrival: WideType) -> str:
    """The SQL of the staged type's value for rows that have none, where it is not the staged type's own."""
    if not arrival.texts or (type.nullable and not default):
        return default
    value = f"CAST({default} AS {type.text})" if default else f"defaultValueOfTypeName({literal(type.text)})"
    return f"CAST({value} AS {arrival.staged})"
