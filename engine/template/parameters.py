"""Parameters of endpoints: their declarations, and the strict conversion of the values that callers send.

A value that its ClickHouse type cannot hold exactly is refused, never wrapped, rounded, trimmed or guessed. Dates,
times and UUIDs become canonical strings: they are bound as strings, which also preserves nine decimals of a second.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from engine.errors import BAD_PARAMETER, BAD_TYPE, RookeryError, shown
from engine.template.date_times import UTC, InvalidValueError, day_check, moment_check
from engine.tenant_ids import integer_bounds

Value = str | int | float | bool | None | date | datetime | Decimal | list["Value"]
"""A value that can be bound to a `{name:Type}` placeholder. The same union as the warehouse port's."""

MAX_ARRAY_ITEMS = 100_000
"""Maximum number of items of an array that a caller sends."""

_INTEGER = re.compile(r"-?[0-9]{1,100}")
_FLOAT = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_FLOAT_WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_DECIMAL = re.compile(r"(-?)([0-9]{1,100})(?:\.([0-9]{1,100}))?")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ARRAY_TYPE = re.compile(r"Array\((.*)\)")
_DECIMAL_TYPE = re.compile(r"Decimal\(\s*([0-9]{1,2})\s*,\s*([0-9]{1,2})\s*\)")
_DATETIME64_TYPE = re.compile(r"DateTime64(?:\(([0-9])\))?")
_FLOAT_MAX = {"Float32": 3.4028234663852886e38, "Float64": 1.7976931348623157e308}
_ALIASES = {"Int": "Int64", "Integer": "Int64", "Float": "Float64", "Boolean": "Bool"}


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """A parameter as its author declares it, by a type function's call or in the pipe's file."""

    name: str
    type: str
    """The canonical ClickHouse type."""
    default: Any = None
    description: str | None = None
    required: bool = False
    """Whether a request without the parameter fails."""
    enum: tuple[Any, ...] | None = None
    """The values that callers may choose from; None allows any value of the type."""
    example: Any = None
    """A likely value, for documentation and dry runs."""
    tenant_key: bool = False
    """Whether the parameter selects the tenant, so that only a token may set it."""
    format: str | None = None
    """The author's description of the format, for documentation."""
    explicit: bool = True
    """False if the type is only assumed, because the template uses the name without a type function."""


@dataclass(frozen=True, slots=True)
class ParameterType:
    """A type that parameters can have."""

    type: str
    """The canonical ClickHouse type."""
    bind: str
    """The ClickHouse type of the placeholder."""
    check: Callable[[object], Value]
    """Converts a raw value, or raises InvalidValueError."""
    sample: Value
    """A valid value for dry runs."""


def coerce(name: str, type: str, raw: object, zone: str = UTC) -> Value:
    """Convert a request's string or JSON value to the ClickHouse type of parameter `name`.

    Times without an offset are in `zone`. Raises BAD_PARAMETER if the type cannot hold exactly this value, and
    BAD_TYPE for an unknown type.
    """
    target = parameter_type(type, zone)
    try:
        return target.check(raw)
    except InvalidValueError as exc:
        message = f"parameter `{name}` must be {target.type}, got {shown(raw)}"
        raise RookeryError(BAD_PARAMETER, message, hint=str(exc) or None) from None


def check_enum(spec: ParameterSpec, value: Value, zone: str = UTC) -> None:
    """Raise BAD_PARAMETER for a value, converted by `coerce`, that is not in the author's list."""
    if spec.enum:
        array = _ARRAY_TYPE.fullmatch(spec.type)
        require_member(
            f"parameter `{spec.name}`",
            value,
            [_enum_value(array[1] if array else spec.type, e, zone) for e in spec.enum],
        )


def _enum_value(type: str, raw: Any, zone: str) -> Value:
    """A value of the author's list. One that is not of the type, which a push warns about, equals no other value."""
    try:
        return parameter_type(type, zone).check(raw)
    except InvalidValueError:
        return str(raw)


def require_member(subject: str, value: Value, allowed: Sequence[Value]) -> None:
    """Raise BAD_PARAMETER for a value that is not allowed. Each item of an array must be."""
    for member in value if isinstance(value, list) else [value]:
        if member not in allowed:
            listed = ", ".join(shown(a) for a in allowed)
            raise RookeryError(BAD_PARAMETER, f"{subject} must be one of {listed}, got {shown(member)}")


@lru_cache(maxsize=1024)
def parameter_type(type: str, zone: str = UTC) -> ParameterType:
    """Return the parameter type with this name. `Int`, `Integer`, `Float` and `Boolean` are accepted as aliases.

    Times without an offset are in `zone`. Raises BAD_TYPE if parameters cannot have the type.
    """
    name = _ALIASES.get(type, type)
    if name in _PLAIN:
        return _PLAIN[name]
    if integer_bounds(name) is not None:
        return _integer_type(name)
    if (match := _ARRAY_TYPE.fullmatch(name)) and name.count("Array(") <= 8:
        return _array_type(parameter_type(match[1].strip(), zone))
    if name == "Date":
        return ParameterType(name, name, day_check(zone), "2019-01-01")
    if name == "DateTime":
        return ParameterType(name, name, moment_check(zone, None), "2019-01-01 00:00:00")
    if match := _DATETIME64_TYPE.fullmatch(name):
        return _datetime64_type(int(match[1] or 6), zone)
    if match := _DECIMAL_TYPE.fullmatch(name):
        return _decimal_type(int(match[1]), int(match[2]))
    raise RookeryError(
        BAD_TYPE,
        f"parameters cannot have the type {shown(type)}",
        hint="String, Int8…Int256, UInt8…UInt256, Float32, Float64, Bool, Date, DateTime, DateTime64(P), UUID, "
        "Decimal(P, S), Array(T) or JSON",
    )


# --- the checks ----------------------------------------------------------------------------------------------------
def _string(raw: object) -> str:
    """Check a string. Numbers and booleans become strings, in the form in which a query string would have them."""
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, int | float):
        return repr(raw)[:400] if isinstance(raw, float) else str(_bounded(raw))
    if not isinstance(raw, str):
        raise InvalidValueError
    try:
        raw.encode()
    except UnicodeEncodeError:
        raise InvalidValueError("text must be valid Unicode") from None
    return raw


def _bounded(number: int) -> int:
    """Return an integer. Refuses one that is too long to be converted to a string quickly."""
    # The time to convert a long integer to a string grows with the square of its length.
    if number.bit_length() > 1000:
        raise InvalidValueError("number too long")
    return number


def _integer(raw: object) -> int:
    """Check an integer of any size."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if not isinstance(raw, str) or not _INTEGER.fullmatch(raw):
        raise InvalidValueError
    return int(raw)


def _integer_type(type: str) -> ParameterType:
    """An integer type with its range."""
    bounds = integer_bounds(type)
    assert bounds is not None
    low, high = bounds

    def check(raw: object) -> int:
        value = _integer(raw)
        if not low <= value <= high:
            raise InvalidValueError(f"{type} holds {low} to {high}")
        return value

    return ParameterType(type, type, check, 1)


def _float_type(type: str) -> ParameterType:
    """A floating-point type with its range."""
    largest = _FLOAT_MAX[type]

    def check(raw: object) -> float:
        value = _float(raw)
        if math.isfinite(value) and abs(value) > largest:
            raise InvalidValueError(f"too large for {type}")
        return value

    return ParameterType(type, type, check, 1.0)


def _float(raw: object) -> float:
    """Check a number. Refuses an exponent so large or small that the digits would be lost."""
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise InvalidValueError
    if isinstance(raw, str) and raw in _FLOAT_WORDS:
        return _FLOAT_WORDS[raw]
    if isinstance(raw, str) and (len(raw) > 1000 or not _FLOAT.fullmatch(raw)):
        raise InvalidValueError
    try:
        value = float(raw)
    except OverflowError:
        raise InvalidValueError("number too large") from None
    if not isinstance(raw, str):
        return value
    digits = raw.lower().partition("e")[0]
    if math.isinf(value) or (value == 0 and digits.strip("-0.")):
        raise InvalidValueError("exponent out of range")
    return value


def _bool(raw: object) -> bool:
    """Check a boolean: true, false, 1 or 0."""
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, int) and raw in (0, 1):
        return raw == 1
    if isinstance(raw, str) and raw.lower() in ("true", "1", "false", "0"):
        return raw.lower() in ("true", "1")
    raise InvalidValueError("true, false, 1 or 0")


def _datetime64_type(precision: int, zone: str) -> ParameterType:
    """A DateTime64 type of a precision."""
    type, check = f"DateTime64({precision})", moment_check(zone, precision)
    return ParameterType(type, type, check, check("2019-01-01 00:00:00"))


def _uuid(raw: object) -> str:
    """Check a UUID, which becomes lower case."""
    if not isinstance(raw, str) or not _UUID.fullmatch(raw):
        raise InvalidValueError
    return raw.lower()


def _decimal_type(precision: int, scale: int) -> ParameterType:
    """A decimal type. Refuses more digits than it holds, and never rounds."""
    type = f"Decimal({precision}, {scale})"
    if not 1 <= precision <= 76 or scale > precision:
        raise RookeryError(BAD_TYPE, f"{type} does not exist", hint="precision 1 to 76, scale 0 to the precision")

    def check(raw: object) -> Decimal:
        if isinstance(raw, bool) or not isinstance(raw, str | int | float | Decimal):
            raise InvalidValueError
        text = raw if isinstance(raw, str) else str(_bounded(raw) if isinstance(raw, int) else raw)
        match = _DECIMAL.fullmatch(text)
        if not match:
            raise InvalidValueError
        fraction = (match[3] or "").rstrip("0")
        if len(match[2].lstrip("0")) > precision - scale or len(fraction) > scale:
            raise InvalidValueError(f"at most {precision - scale} digits before and {scale} after the point")
        return Decimal(f"{match[1]}{match[2]}" + (f".{fraction:0<{scale}}" if scale else ""))

    return ParameterType(type, type, check, check("0"))


def _array_type(item: ParameterType) -> ParameterType:
    """An array type. Its values are a list, or a string with commas."""
    type = f"Array({item.type})"

    def check(raw: object) -> list[Value]:
        if isinstance(raw, str):
            if item.type.startswith(("Array(", "JSON")):
                raise InvalidValueError("give a JSON list")
            raw = raw.split(",")
        if not isinstance(raw, list | tuple) or len(raw) > MAX_ARRAY_ITEMS:
            raise InvalidValueError(f"at most {MAX_ARRAY_ITEMS} items, separated by commas or in a JSON list")
        return [_item(item, n, x) for n, x in enumerate(raw, 1)]

    return ParameterType(type, f"Array({item.bind})", check, [item.sample])


def _item(item: ParameterType, number: int, raw: object) -> Value:
    """Check one item of an array. Raises InvalidValueError with the item's number."""
    try:
        return item.check(raw)
    except InvalidValueError as exc:
        raise InvalidValueError(
            f"item {number}, {shown(raw)}, is not {item.type}" + (f": {exc}" if str(exc) else "")
        ) from None


def _json(raw: object) -> str:
    """Check a JSON text or value, which becomes compact JSON."""
    try:
        value = json.loads(raw, parse_constant=_no_constant) if isinstance(raw, str) else raw
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text.encode()
    except (ValueError, TypeError, RecursionError):
        raise InvalidValueError("not JSON") from None
    return text


def _no_constant(word: str) -> None:
    raise ValueError(word)


_PLAIN = {
    "String": ParameterType("String", "String", _string, "__no_value__"),
    "Float32": _float_type("Float32"),
    "Float64": _float_type("Float64"),
    "Bool": ParameterType("Bool", "Bool", _bool, False),
    "UUID": ParameterType("UUID", "UUID", _uuid, "00000000-0000-0000-0000-000000000000"),
    # JSON is bound as a string; the author's SQL casts it.
    "JSON": ParameterType("JSON", "String", _json, "{}"),
}
