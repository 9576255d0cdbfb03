"""The functions that templates can call. Each takes the `Rendering` first and returns a value or an SQL fragment."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from engine.errors import BAD_PARAMETER, CUSTOM, IDENTIFIER, TEMPLATE, RookeryError, shown
from engine.schema import quote
from engine.template.date_times import InvalidValueError, parse_moment
from engine.template.parameters import ParameterType, Value, parameter_type
from engine.template.values import (
    ABSENT,
    MAX_LOOP_STEPS,
    Parameter,
    PipeError,
    Rendering,
    Sql,
    TypedList,
    bindable,
    is_present,
    items_of,
    nearest,
    typed,
    unwrap,
)

DAY_SECONDS = 86_400


# --- type functions ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Options:
    """The keywords of a type function, such as `Int32(x, 5, enum=[1, 5])`."""

    default: Any = None
    description: Any = None
    required: Any = False
    format: Any = None
    example: Any = None
    enum: Any = None
    """The values that callers may choose from, or None."""
    defined: Any = True
    """False if the parameter may be absent: the function then returns it unchanged."""


def _convert(run: Rendering, target: ParameterType, x: Any, options: _Options) -> Any:
    """Convert a parameter or value to a type, or return its default. Adds a missing parameter to `run.missing`."""
    name = x.name if type(x) is Parameter else None
    default = options.default
    if is_present(x):
        return typed(target, _checked(run, target, name, unwrap(x), options.enum))
    if default is not None:
        if type(default) is Parameter:
            return _convert(run, target, default, _Options(enum=options.enum))
        return typed(target, _default(target, name, default))
    if not options.defined and not options.required:
        return x
    if name is None:
        raise RookeryError(TEMPLATE, f"cannot convert None to {target.type}")
    run.missing[name] = None
    return typed(target, target.sample)


def _checked(run: Rendering, target: ParameterType, name: str | None, raw: Any, enum: Any) -> Value:
    """Return a valid value of the type. Raises BAD_PARAMETER for a caller's bad value; dry runs use the sample."""
    subject = f"parameter `{name}`" if name else "value"
    run.spend(raw)
    try:
        value = target.check(raw)
    except InvalidValueError as exc:
        if run.is_dry_run:
            return target.sample
        message = f"{subject} must be {target.type}, got {shown(raw)}"
        raise RookeryError(BAD_PARAMETER, message, hint=str(exc) or None) from None
    if enum is not None and not run.is_dry_run:
        _check_enum(run, target, name, value, enum)
    return value


def _check_enum(run: Rendering, target: ParameterType, name: str | None, value: Value, enum: Any) -> None:
    """Raise BAD_PARAMETER for a value outside the author's list. Each item of an array must be in the list."""
    is_list = isinstance(value, list)
    member_type = parameter_type(target.type[len("Array(") : -1], run.zone) if is_list else target
    allowed = [_default(member_type, name, unwrap(e)) for e in enum]
    for member in value if isinstance(value, list) else [value]:
        if member not in allowed:
            subject = f"parameter `{name}`" if name else "value"
            listed = ", ".join(shown(e) for e in allowed)
            raise RookeryError(BAD_PARAMETER, f"{subject} must be one of {listed}, got {shown(member)}")


def _default(target: ParameterType, name: str | None, raw: Any) -> Value:
    """Convert a default or an enum value. Raises TEMPLATE, since the author wrote it."""
    value = list(raw) if isinstance(raw, TypedList) else raw
    try:
        return target.check(value)
    except InvalidValueError as exc:
        with suppress(InvalidValueError):
            # A local time that clocks skip in the workspace's zone: bind what the author wrote; the engine decides.
            return parameter_type(target.type).check(value)
        message = f"default or enum of parameter `{name}` must be {target.type}, got {shown(raw)}"
        raise RookeryError(TEMPLATE, message, hint=str(exc) or None) from None


def _type_function(type: str) -> Callable[..., Any]:
    parameter_type(type)

    # `syntax` checks calls against this signature, so that each keyword is spelled out.
    def convert(
        run: Rendering,
        x: Any,
        default: Any = None,
        description: Any = None,
        required: Any = False,
        format: Any = None,
        example: Any = None,
        enum: Any = None,
        defined: Any = True,
    ) -> Any:
        options = _Options(default, required=required, enum=enum, defined=defined)
        return _convert(run, parameter_type(type, run.zone), x, options)

    return convert


def item_type(text: Any) -> Any:
    """Return the type of an array's items. A text that cannot name a type, such as a list of values, means String."""
    return "String" if isinstance(text, str) and not text[:1].isupper() else text


def _array(run: Rendering, x: Any, type: str = "String", default: Any = None, **options: Any) -> Any:
    return _convert(run, parameter_type(f"Array({item_type(type)})", run.zone), x, _Options(default, **options))


def _decimal(run: Rendering, x: Any, precision: int, scale: int, default: Any = None, **options: Any) -> Any:
    return _convert(run, parameter_type(f"Decimal({precision}, {scale})"), x, _Options(default, **options))


def _datetime64(run: Rendering, x: Any, default: Any = None, precision: int = 6, **options: Any) -> Any:
    return _convert(run, parameter_type(f"DateTime64({precision})", run.zone), x, _Options(default, **options))


_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


# --- identifiers ---------------------------------------------------------------------------------------------------
def _identifier(run: Rendering, name: Any) -> str:
    """Return a column's name in backquotes. Raises IDENTIFIER unless the node can read the column."""
    known = run.columns if run.columns is not None else frozenset()
    if isinstance(name, str) and (name in known or (run.columns is None and _PLAIN_NAME.fullmatch(name))):
        return quote(name)
    near = nearest(name, known) if isinstance(name, str) else None
    hint = f"did you mean `{near}`?" if near else "a column that this node reads"
    raise RookeryError(IDENTIFIER, f"no column {shown(name)} here", hint=hint)


def _column(run: Rendering, x: Any, default: Any = None, **_: Any) -> Sql:
    name = x if is_present(x) else default
    if not is_present(name):
        run.missing[(name if type(name) is Parameter else x).name] = None
        return Sql("")
    return Sql(_identifier(run, unwrap(name)))


def _columns(run: Rendering, x: Any, default: Any = None, fn: Any = None, **_: Any) -> Sql:
    value = x if is_present(x) else default
    if not is_present(value):
        run.missing[x.name] = None
        return Sql("")
    value = unwrap(value)
    names = value if isinstance(value, list | tuple) else str(value).split(",")
    quoted = [_identifier(run, n.strip() if isinstance(n, str) else n) for n in names]
    fn = unwrap(fn) if is_present(fn) else None
    if fn is None:
        return Sql(",".join(quoted))
    if not isinstance(fn, str) or not _FUNCTION.fullmatch(fn):
        raise RookeryError(TEMPLATE, f"fn={shown(fn)} is not the name of a function")
    return Sql(",".join(f"{fn}({name}) AS {name}" for name in quoted))


def _symbol(run: Rendering, x: Any) -> Sql:
    return _column(run, x)


# --- conditions, lists, numbers ------------------------------------------------------------------------------------
_FUNCTION = re.compile(r"[a-zA-Z][A-Za-z0-9]*", re.ASCII)
_COMPARISONS = {"in": "in", "not_in": "not in", "gt": ">", "lt": "<", "gte": ">=", "lte": "<="}


def _sql_and(run: Rendering, /, **conditions: Any) -> Sql:
    """Join conditions such as `amount__gte=x` with AND. Skips conditions on absent parameters."""
    parts: list[str | tuple[Value, str]] = []
    for key, value in conditions.items():
        name, _, suffix = key.rpartition("__")
        if key in (run.columns or ()) or suffix not in _COMPARISONS:
            name, suffix = key, ""
        left = _identifier(run, name)
        if not is_present(value):
            continue
        right: list[str | tuple[Value, str]] = list(value.parts) if type(value) is Sql else [bindable(value)]
        if suffix in ("in", "not_in") and not isinstance(unwrap(value), list | tuple):
            raise RookeryError(TEMPLATE, f"sql_and: {key} needs a list", hint="use Array(x, 'String')")
        parts += [" and " if parts else "", f"{left} {_COMPARISONS.get(suffix, '=')} ", *right]
    return Sql(*parts)


def _defined(run: Rendering, x: Any) -> bool:
    return is_present(x)


def _sql_unescape(run: Rendering, x: Any, what: Any = None) -> Any:
    # Tinybird's function. Here values are bound and never escaped, so it has nothing to undo.
    return x


def _split_to_array(run: Rendering, x: Any, default: Any = None, separator: Any = ",") -> list[Any]:
    value = unwrap(x if is_present(x) else (default if default is not None else x))
    run.spend(value)
    if isinstance(value, list | tuple):
        return list(value)
    if not isinstance(value, str) or not isinstance(separator, str) or not separator:
        raise TypeError("split_to_array")
    return [item.strip() for item in value.split(separator)] if value else []


def _enumerate_with_last(run: Rendering, x: Any) -> list[tuple[bool, Any]]:
    items = items_of(x)
    return [(n == len(items), item) for n, item in enumerate(items, 1)]


def _enumerate(run: Rendering, x: Any, start: int = 0) -> list[tuple[int, Any]]:
    return list(enumerate(items_of(x), start))


def _range(run: Rendering, *bounds: Any) -> range:
    numbers = range(*(unwrap(b) for b in bounds))
    if len(numbers) > MAX_LOOP_STEPS:
        raise RookeryError(TEMPLATE, f"range() of more than {MAX_LOOP_STEPS} numbers")
    return numbers


def _len(run: Rendering, x: Any) -> int:
    return len(unwrap(x))


def _min(run: Rendering, *values: Any) -> Any:
    return min(map(unwrap, values)) if len(values) > 1 else min(items_of(values[0]))


def _max(run: Rendering, *values: Any) -> Any:
    return max(map(unwrap, values)) if len(values) > 1 else max(items_of(values[0]))


def _list(run: Rendering, x: Any) -> list[Any]:
    return items_of(x)


def _int(run: Rendering, x: Any) -> int:
    value = unwrap(x)
    name = x.name if type(x) is Parameter else None
    if isinstance(value, float):
        return int(value)
    return int(str(_checked(run, parameter_type("Int256"), name, value, None)))


def _float(run: Rendering, x: Any) -> float:
    name = x.name if type(x) is Parameter else None
    return float(str(_checked(run, parameter_type("Float64"), name, unwrap(x), None)))


# --- dates ---------------------------------------------------------------------------------------------------------
def _difference(seconds: int) -> Callable[..., Any]:
    """Return the function that counts units of `seconds` between two dates."""

    def difference(
        run: Rendering,
        date_1: Any,
        date_2: Any,
        date_format: Any = None,
        backup_date_format: Any = None,
        none_if_error: Any = False,
    ) -> int | None:
        try:
            formats = [f for f in (date_format, backup_date_format) if f is not None]
            first, second = (_parse_date(unwrap(d), formats, run.zone) for d in (date_1, date_2))
        except InvalidValueError as exc:
            if none_if_error:
                return None
            if run.is_dry_run:
                return 0
            raise RookeryError(BAD_PARAMETER, f"not a date: {exc}") from None
        if seconds == DAY_SECONDS:
            # Days are counted on the calendar: when clocks change, a day of 23 or 25 hours is still one day.
            first, second = (x.replace(tzinfo=None) for x in (first, second))
        else:
            first, second = (x.astimezone(UTC) for x in (first, second))
        return int(abs((first - second).total_seconds()) // seconds)

    return difference


def _parse_date(value: Any, formats: list[str], zone: str) -> datetime:
    """Parse a text as a time in `zone`, in one of the author's `formats`, or without any in the formats of requests.

    Raises InvalidValueError.
    """
    if not isinstance(value, str):
        raise InvalidValueError(shown(value))
    zone_info = ZoneInfo(zone)
    for format in formats:
        try:
            parsed = datetime.strptime(value, format)
        except ValueError:
            continue
        return parsed.astimezone(zone_info) if parsed.tzinfo else parsed.replace(tzinfo=zone_info)
    if formats:
        raise InvalidValueError(shown(value))
    try:
        timestamp = parse_moment(value, zone)
    except InvalidValueError as exc:
        raise InvalidValueError(f"{shown(value)}: {exc}") from None
    return (timestamp.at + timedelta(microseconds=int(f"{timestamp.fraction:0<6}"[:6]))).astimezone(zone_info)


# --- errors --------------------------------------------------------------------------------------------------------
def _error(run: Rendering, message: Any) -> Sql:
    if run.is_dry_run:
        return Sql("")
    message = unwrap(message)
    if not isinstance(message, str | int | float):
        raise TypeError("message")
    raise RookeryError(CUSTOM, str(message)[:2000])


def _custom_error(run: Rendering, body: Any, status: Any = 400) -> Sql:
    if not isinstance(status, int) or not 400 <= status <= 599:
        raise RookeryError(TEMPLATE, f"custom_error: status {shown(status)} is not one of 400 to 599")
    if run.is_dry_run:
        return Sql("")
    raise PipeError(status, json.loads(json.dumps(body, default=_json_default)))


def _json_default(value: Any) -> Any:
    if type(value) is Parameter:
        return None if value.raw is ABSENT else value.raw
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError("not JSON")


# --- the list ------------------------------------------------------------------------------------------------------
_INTEGERS = [f"{u}Int{bits}" for u in ("", "U") for bits in (8, 16, 32, 64, 128, 256)]
PLAIN_TYPES = ["String", *_INTEGERS, "Int", "Integer", "Float32", "Float64", "Float", "Boolean", "Bool", "Date"]
PLAIN_TYPES += ["DateTime", "UUID", "JSON"]

TEMPLATE_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: _type_function(name) for name in PLAIN_TYPES},
    "Array": _array,
    "Decimal": _decimal,
    "DateTime64": _datetime64,
    "column": _column,
    "columns": _columns,
    "symbol": _symbol,
    "defined": _defined,
    "error": _error,
    "custom_error": _custom_error,
    "sql_and": _sql_and,
    "sql_unescape": _sql_unescape,
    "split_to_array": _split_to_array,
    "enumerate_with_last": _enumerate_with_last,
    "day_diff": _difference(DAY_SECONDS),
    "date_diff_in_seconds": _difference(1),
    "date_diff_in_minutes": _difference(60),
    "date_diff_in_hours": _difference(3_600),
    "date_diff_in_days": _difference(DAY_SECONDS),
    "range": _range,
    "enumerate": _enumerate,
    "len": _len,
    "min": _min,
    "max": _max,
    "list": _list,
    "int": _int,
    "float": _float,
}

# Tinybird's functions that templates cannot call, each with the hint for its error.
UNSUPPORTED = {
    "table": "write the datasource's name in the SQL, and choose between names with {% if %}",
    "TABLE": "write the datasource's name in the SQL, and choose between names with {% if %}",
    "tb_secret": "pipes cannot read secrets; use a fixed parameter of the token",
    "tb_var": "use a parameter with a default, or a fixed parameter of the token",
    "max_threads": "limits are set on the pipe and the token, not in SQL",
    "backend_hint": "remove it; there is only one backend",
    "cache_ttl": "remove it; results are not cached",
    "activate": "remove it; pipes cannot choose engine settings",
    "disable": "remove it; pipes cannot choose engine settings",
}
