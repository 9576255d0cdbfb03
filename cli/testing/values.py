"""Compares values of results with the values that a test expects, by the type of their column.

Expected values arrive as `Cell`, whatever their source: text as it was written, None, a list or a mapping. Both sides
become values that Python can compare: integers and decimals exactly, times without a zone, floating-point numbers
with a tolerance.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from engine.project.source import YamlList, YamlMapping, YamlText
from engine.warehouse.type_names import Type

Cell: TypeAlias = "str | list[Cell] | dict[str, Cell] | None"
"""An expected value. Numbers and flags are the text that was written."""
Row: TypeAlias = "Mapping[str, Cell]"
NULLS = ("null", "~")
"""How YAML writes NULL, without quotes."""
FLOAT32_TOLERANCE = 1e-6
_INTEGER = re.compile(r"[+-]?[0-9]{1,100}", re.ASCII)
_IS_INTEGER = re.compile(r"U?Int(8|16|32|64|128|256)|Interval.*")
_ZONE = re.compile(r"DateTime(?:64)?\([^'()]*'([^'()]+)'\)")
_TIME = re.compile(r"([0-9-]{10}(?:[ T][0-9:]{5,8})?)(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:[0-9]{2})?", re.ASCII)
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Invalid:
    """An expected value that is not of its column's type, so it equals nothing."""

    text: str


def cell_of_yaml(value: object) -> Cell:
    """An expected value of a test file."""
    if isinstance(value, YamlMapping):
        return {key: cell_of_yaml(item) for key, item in value.items()}
    if isinstance(value, YamlList):
        return [cell_of_yaml(item) for item in value]
    if isinstance(value, YamlText) and not value.style and value in NULLS:
        return None
    return str(value)


def cell_of_json(value: object) -> Cell:
    """A value of JSON that was parsed with numbers as `Decimal`, or int."""
    if isinstance(value, Mapping):
        return {str(key): cell_of_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [cell_of_json(item) for item in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)


def parsed(text: str | bytes) -> Any:
    """JSON with all digits of its numbers."""
    return json.loads(text, parse_float=Decimal)


def json_text(value: Any) -> str:
    """JSON with all digits of decimals, which Python's encoder would write as strings."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key, ensure_ascii=False)}: {json_text(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(json_text, value)) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a result."""

    name: str
    type: Type


@dataclass(frozen=True, slots=True)
class Comparison:
    """How rows of one result are compared."""

    columns: Sequence[Column]
    tolerance: float
    """For floating-point numbers; relative to the larger one if that exceeds 1."""
    zone: str = "UTC"
    """Time zone of columns without one."""

    def expected(self, row: Row) -> tuple[Any, ...]:
        """The values of an expected row."""
        return tuple(self._value(row.get(c.name), c.type) for c in self.columns)

    def actual(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """The values of a row of the result, as parsed from JSON."""
        return tuple(self._value(cell_of_json(row[c.name]), c.type) for c in self.columns)

    def equal(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
        """Whether two rows are equal."""
        return all(self._close(a, b, c.type) for a, b, c in zip(one, other, self.columns, strict=True))

    def key(self, row: tuple[Any, ...]) -> str:
        """A string that is the same for equal rows: the row without its floating-point numbers."""
        return repr(_without_floats(row))

    def _close(self, one: Any, other: Any, type: Type) -> bool:
        if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
            return all(self._close(a, b, type) for a, b in zip(one, other, strict=True))
        if isinstance(one, float) and isinstance(other, float):
            least = FLOAT32_TOLERANCE if "Float32" in type.text else 0
            allowed = max(self.tolerance, least) * max(1.0, abs(one), abs(other))
            return one == other or (math.isnan(one) and math.isnan(other)) or abs(one - other) <= allowed
        return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)

    def _value(self, cell: Cell, type: Type) -> Any:
        if isinstance(cell, str) and type.kind in _CONTAINERS:
            # A field of CSV.
            cell = _json_text(cell)
        if cell is None or (cell == "" and type.kind not in _TEXTS):
            # JSON has no NaN and infinities: the server writes null in a column that cannot have NULL.
            return math.nan if type.kind.startswith("Float") and not type.nullable else None
        if isinstance(cell, list):
            return self._items(cell, type)
        if isinstance(cell, dict):
            return self._entries(cell, type)
        return _scalar(cell, type, self.zone)

    def _items(self, cells: list[Cell], type: Type) -> Any:
        if type.kind == "Tuple" and len(type.parts) == len(cells):
            return tuple(self._value(cell, part) for cell, part in zip(cells, type.parts, strict=True))
        part = type.parts[0] if type.kind == "Array" and type.parts else _ANY
        return tuple(self._value(cell, part) for cell in cells)

    def _entries(self, cells: dict[str, Cell], type: Type) -> Any:
        if type.kind == "Tuple" and type.names and set(type.names) == set(cells):
            return tuple(self._value(cells[name], part) for name, part in zip(type.names, type.parts, strict=True))
        part = type.parts[1] if type.kind == "Map" and len(type.parts) == 2 else _ANY
        return tuple(sorted((key, self._value(cell, part)) for key, cell in cells.items()))


_ANY = Type("Dynamic", "Dynamic")
_CONTAINERS = ("Array", "Map", "Tuple", "Nested", "JSON")
_TEXTS = ("String", "FixedString", "Dynamic", "Variant", "Enum8", "Enum16")


def _json_text(text: str) -> Cell:
    try:
        return cell_of_json(parsed(text))
    except ValueError:
        return text


def _scalar(text: str, type: Type, zone: str) -> Any:
    if _IS_INTEGER.fullmatch(type.kind):
        return int(text) if _INTEGER.fullmatch(text) else Invalid(text)
    if type.kind.startswith(("DateTime", "Time")):
        return _time(text, type, zone)
    if type.kind == "FixedString":
        return text.rstrip("\0")
    parse = _PARSERS.get(type.kind)
    return parse(text) if parse else text


def _float(text: str) -> Any:
    try:
        number = float(text)
    except ValueError:
        return Invalid(text)
    # An infinity is written as null in JSON, like NaN.
    return number if math.isfinite(number) else math.nan


def _decimal(text: str) -> Any:
    try:
        return Decimal(text)
    except InvalidOperation:
        return Invalid(text)


def _flag(text: str) -> Any:
    return _FLAGS.get(text.lower(), Invalid(text))


def _loose(text: str) -> Any:
    """A value whose type is not known: a number if it looks like one."""
    number = _decimal(text)
    return number if isinstance(number, Decimal) and number.is_finite() else text


def _time(text: str, type: Type, zone: str) -> Any:
    """A time as text of its zone, without the zeros at the end of its fraction."""
    written = _TIME.fullmatch(text)
    if written is None:
        return text
    seconds, digits, offset = written.groups("")
    try:
        moment = datetime.fromisoformat(seconds + offset)
    except ValueError:
        return text
    if offset:
        own = _ZONE.search(type.text)
        moment = moment.astimezone(ZoneInfo(own[1] if own else zone)).replace(tzinfo=None)
    fraction = digits.rstrip("0")
    return f"{moment:%Y-%m-%d %H:%M:%S}" + (f".{fraction}" if fraction else "")


def _without_floats(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_without_floats, value))
    if isinstance(value, Decimal):
        return value.normalize()
    return None if isinstance(value, float) else value


_PARSERS: dict[str, Callable[[str], Any]] = {
    "Float32": _float,
    "Float64": _float,
    "BFloat16": _float,
    "Decimal": _decimal,
    "Bool": _flag,
    "UUID": str.lower,
    "Dynamic": _loose,
    "Variant": _loose,
    "JSON": _loose,
}
