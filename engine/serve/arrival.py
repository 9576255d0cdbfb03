"""How values of a type arrive: wide enough to see what does not fit, before the engine would wrap, clamp or cut it.

The engine parses without complaint what no column of the type can hold: 300 becomes 44 in an `Int8`, the 31st of
February the 3rd of March, 1e39 infinity. So a value is staged in a type that holds it, judged there, and only then
made what its column is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from engine.compiler.params import integer_bounds
from engine.schema import literal, quote
from engine.warehouse.types import Type

Sql = Callable[[str], str]
"""An expression over an expression."""

LARGEST = {"Float32": "3.4028235677973366e38", "BFloat16": "3.3961775292304957e38"}
"""The first numbers that round to infinity."""
DAYS = {"Date": ("1970-01-01", "2149-06-06"), "Date32": ("1900-01-01", "2299-12-31")}
LAST_MOMENT = "toDateTime64('9999-12-31 23:59:59', 0, 'UTC')"
"""What a number of seconds becomes that lies behind it."""
MOST_DIGITS, SPARE_DIGITS = 76, 20
_NAMES = re.compile(r"\b_rk_x(\d+)\b")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A type's values on their way.

    `staged` is the type in which they are staged. `check` is the condition under which a staged value can be stored,
    and `taken` the value, to be cast to the type; without them there is nothing to ask, or to do. `quick` is a
    condition that is met by nearly all values of which `check` is true, and by no other: an engine takes longer to
    read a long condition than to judge a thousand values by it. `texts` says that they are staged as text, whose own
    default is no value of the type.
    """

    staged: str
    check: Sql | None = None
    taken: Sql | None = None
    texts: bool = False
    quick: Sql | None = None


@dataclass(frozen=True, slots=True)
class Staged:
    """One column on its way.

    `column` is its name in the datasource, `name` and `type` those in the stage; `value` is the SQL of what arrived,
    `taken` of what is stored, `check` of the condition under which it can be, and `quick` of a shorter one. With
    `texts_pass`, the check is for numbers: a value that was sent as text is what it says. `path` leads from what is
    staged to the value.
    """

    column: str
    name: str
    type: str
    default: str
    value: str
    taken: str
    check: str | None = None
    quick: str | None = None
    texts_pass: bool = False
    path: tuple[str, ...] = ()


def arrival_of(type: Type, *, exact: bool = False, typed: bool = False) -> Arrival:
    """How values of a type arrive: as text, or `typed` out of a file that says what they are.

    With `exact`, integers arrive as the text that was sent.
    """
    if type.parts:
        return _composed(type, [arrival_of(p, exact=exact, typed=typed) for p in type.parts])
    found = _plain(type, exact, typed)
    if found is None:
        return Arrival(type.text)
    if not type.nullable:
        return found
    return replace(
        found, staged=f"Nullable({found.staged})", check=_or_null(found.check), quick=_or_null(found.quick)
    )


def _or_null(check: Sql | None) -> Sql | None:
    return None if check is None else lambda v: f"(isNull({v}) OR {check(f'assumeNotNull({v})')})"


def _plain(type: Type, exact: bool, typed: bool) -> Arrival | None:
    kind = type.kind
    if integer_bounds(kind):
        return _integer(kind, exact or kind.endswith(("128", "256")))
    if kind in LARGEST:
        special = "OR NOT isFinite({v})" if typed else "OR isNaN({v})"
        return Arrival("Float64", lambda v: f"(abs({v}) < {LARGEST[kind]} {special.format(v=v)})")
    if kind == "Float64" and not typed:
        return Arrival(kind, lambda v: f"(NOT isInfinite({v}))")
    if kind == "Decimal":
        return _decimal(type.precision, type.scale)
    if kind in DAYS:
        return _typed_day(kind) if typed else _day(kind)
    if kind == "DateTime64" and not typed and type.scale <= 7:
        return Arrival(type.text, lambda v: f"({v} < {LAST_MOMENT})")
    return None


def _integer(kind: str, as_text: bool) -> Arrival:
    if as_text:
        return Arrival("String", lambda v: f"ifNull(toString(to{kind}OrNull({v})) = {v}, 0)", texts=True)
    low, high = integer_bounds(kind) or (0, 0)
    return Arrival("Int128", lambda v: f"({v} BETWEEN {low} AND {high})")


def _decimal(precision: int, scale: int) -> Arrival | None:
    """Digits beyond the scale are rounded, and not cut off; those before it are the engine's to count."""
    spare = min(SPARE_DIGITS, MOST_DIGITS - precision)
    if spare <= 0:
        return None
    limit = f"toDecimal256('1{'0' * (precision - scale)}', 0)"
    return Arrival(
        f"Decimal({precision + spare}, {scale + spare})",
        lambda v: f"(abs(round({v}, {scale})) < {limit})",
        lambda v: f"round({v}, {scale})",
    )


def _day(kind: str) -> Arrival:
    """The engine takes any day of any month, and goes on counting in the next one."""
    first, last = DAYS[kind]

    def check(v: str) -> str:
        day, month, last_of = f"toDate32OrNull({v})", "\\\\d{4}\\\\D?(\\\\d\\\\d?)", "(\\\\d\\\\d?)$"
        parts = (f"leftPad(extract({v}, '{p}'), 2, '0')" for p in (f"^{month}", last_of))
        written = ", '-', ".join((f"left({v}, 4)", *parts))
        real = f"(toString({day}) = {v} OR toString({day}) = concat({written}))"
        return f"ifNull({day} BETWEEN '{first}' AND '{last}' AND {real}, 0)"

    return Arrival(
        "String",
        check,
        lambda v: f"toDate32OrNull({v})",
        texts=True,
        quick=lambda v: f"(ifNull(toString(toDate32OrNull({v})) = {v}, 0) AND {v} BETWEEN '{first}' AND '{last}')",
    )


def _typed_day(kind: str) -> Arrival:
    first, last = DAYS[kind]
    return Arrival("Date32", lambda v: f"({v} BETWEEN '{first}' AND '{last}')")


def _composed(type: Type, parts: Sequence[Arrival]) -> Arrival:
    if type.kind == "Array":
        return _array(parts[0])
    return _map(*parts) if type.kind == "Map" else _tuple(type, parts)


def _array(element: Arrival) -> Arrival:
    return Arrival(f"Array({element.staged})", _all(element.check), _each(element.taken), element.texts)


def _map(key: Arrival, value: Arrival) -> Arrival:
    sides = [(f, all_) for f, a in (("mapKeys", key), ("mapValues", value)) if (all_ := _all(a.check))]

    def taken(v: str) -> str:
        keys, values = (_each(a.taken) or str for a in (key, value))
        return f"mapFromArrays({keys(f'mapKeys({v})')}, {values(f'mapValues({v})')})"

    return Arrival(
        f"Map({key.staged}, {value.staged})",
        (lambda v: "(" + " AND ".join(c(f"{f}({v})") for f, c in sides) + ")") if sides else None,
        taken if key.taken or value.taken else None,
        key.texts or value.texts,
    )


def _tuple(type: Type, parts: Sequence[Arrival]) -> Arrival:
    names = [f"{quote(n)} " for n in type.names] or [""] * len(parts)
    checks = [(n, p.check) for n, p in enumerate(parts, 1) if p.check]

    def taken(v: str) -> str:
        return f"tuple({', '.join((p.taken or str)(f'tupleElement({v}, {n})') for n, p in enumerate(parts, 1))})"

    return Arrival(
        f"Tuple({', '.join(n + p.staged for n, p in zip(names, parts, strict=True))})",
        (lambda v: "(" + " AND ".join(c(f"tupleElement({v}, {n})") for n, c in checks) + ")") if checks else None,
        taken if any(p.taken for p in parts) else None,
        any(p.texts for p in parts),
    )


def _all(check: Sql | None) -> Sql | None:
    return None if check is None else lambda v: f"arrayAll({_over(check, v)}, {v})"


def _each(taken: Sql | None) -> Sql | None:
    return None if taken is None else lambda v: f"arrayMap({_over(taken, v)}, {v})"


def _over(inner: Sql, v: str) -> str:
    """A lambda; one that stands in another has a name of its own."""
    name = f"_rk_x{max((int(n) + 1 for n in _NAMES.findall(v)), default=0)}"
    return f"{name} -> {inner(name)}"


def typed_default(type: Type, default: str, arrival: Arrival) -> str:
    """The SQL of the staged type's value for rows that have none, where it is not the staged type's own."""
    if not arrival.texts or (type.nullable and not default):
        return default
    value = f"CAST({default} AS {type.text})" if default else f"defaultValueOfTypeName({literal(type.text)})"
    return f"CAST({value} AS {arrival.staged})"
