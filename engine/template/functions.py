"""The functions that templates can call. Each takes the `Rendering` first and returns a value or a piece of SQL."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from engine.errors import BAD_PARAMETER, CUSTOM, IDENTIFIER, TEMPLATE, RookeryError, shown
from engine.schema import quote
from engine.template.date_times import UnfitError, moment
from engine.template.parameters import Kind, Value, kind
from engine.template.values import (
    ABSENT,
    MAX_LOOP_STEPS,
    Parameter,
    PipeError,
    Rendering,
    Sql,
    TypedList,
    bindable,
    items_of,
    nearest,
    plain,
    present,
    typed,
)

DAY_SECONDS = 86_400


# --- type functions ------------------------------------------------------------------------------------------------
def _convert(
    run: Rendering,
    found: Kind,
    x: Any,
    default: Any = None,
    description: Any = None,
    required: Any = False,
    format: Any = None,
    example: Any = None,
    enum: Any = None,
    defined: Any = True,
) -> Any:
    name = x.name if type(x) is Parameter else None
    if present(x):
        return typed(found, _checked(run, found, name, plain(x), enum))
    if default is not None:
        if type(default) is Parameter:
            return _convert(run, found, default, enum=enum)
        return typed(found, _default(found, name, default))
    if not defined and not required:
        return x
    if name is None:
        raise RookeryError(TEMPLATE, f"cannot convert None to {found.type}")
    run.missing[name] = None
    return typed(found, found.sample)


def _checked(run: Rendering, found: Kind, name: str | None, raw: Any, enum: Any) -> Value:
    what = f"parameter `{name}`" if name else "value"
    run.spend(raw)
    try:
        value = found.check(raw)
    except UnfitError as exc:
        if run.sample:
            return found.sample
        message = f"{what} must be {found.type}, got {shown(raw)}"
        raise RookeryError(BAD_PARAMETER, message, hint=str(exc) or None) from None
    if enum is not None and not run.sample:
        _check_enum(run, found, name, value, enum)
    return value


def _check_enum(run: Rendering, found: Kind, name: str | None, value: Value, enum: Any) -> None:
    """Refuse a value outside the author's list; of an array, each item is held to it."""
    one = kind(found.type[len("Array(") : -1], run.zone) if isinstance(value, list) else found
    allowed = [_default(one, name, plain(e)) for e in enum]
    for each in value if isinstance(value, list) else [value]:
        if each not in allowed:
            what = f"parameter `{name}`" if name else "value"
            listed = ", ".join(shown(e) for e in allowed)
            raise RookeryError(BAD_PARAMETER, f"{what} must be one of {listed}, got {shown(each)}")


def _default(found: Kind, name: str | None, raw: Any) -> Value:
    value = list(raw) if isinstance(raw, TypedList) else raw
    try:
        return found.check(value)
    except UnfitError as exc:
        with suppress(UnfitError):
            # A local time that clocks skip: what the author wrote is left to the engine.
            return kind(found.type).check(value)
        message = f"default or enum of parameter `{name}` must be {found.type}, got {shown(raw)}"
        raise RookeryError(TEMPLATE, message, hint=str(exc) or None) from None


def _type_function(type: str) -> Callable[..., Any]:
    kind(type)

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
        return _convert(run, kind(type, run.zone), x, default, description, required, format, example, enum, defined)

    return convert


def item_type(text: Any) -> Any:
    """The type of an array's items. A text that no type could be, such as a list of values, means String."""
    return "String" if isinstance(text, str) and not text[:1].isupper() else text


def _array(run: Rendering, x: Any, type: str = "String", default: Any = None, **rest: Any) -> Any:
    return _convert(run, kind(f"Array({item_type(type)})", run.zone), x, default, **rest)


def _decimal(run: Rendering, x: Any, precision: int, scale: int, default: Any = None, **rest: Any) -> Any:
    return _convert(run, kind(f"Decimal({precision}, {scale})"), x, default, **rest)


def _datetime64(run: Rendering, x: Any, default: Any = None, precision: int = 6, **rest: Any) -> Any:
    return _convert(run, kind(f"DateTime64({precision})", run.zone), x, default, **rest)


_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


# --- identifiers ---------------------------------------------------------------------------------------------------
def _identifier(run: Rendering, name: Any) -> str:
    """A column's name in backquotes. Raises IDENTIFIER unless it is one of the columns readable here."""
    known = run.columns if run.columns is not None else frozenset()
    if isinstance(name, str) and (name in known or (run.columns is None and _PLAIN_NAME.fullmatch(name))):
        return quote(name)
    near = nearest(name, known) if isinstance(name, str) else None
    hint = f"did you mean `{near}`?" if near else "a column that this node reads"
    raise RookeryError(IDENTIFIER, f"no column {shown(name)} here", hint=hint)


def _column(run: Rendering, x: Any, default: Any = None, **_: Any) -> Sql:
    given = x if present(x) else default
    if not present(given):
        run.missing[(given if type(given) is Parameter else x).name] = None
        return Sql("")
    return Sql(_identifier(run, plain(given)))


def _columns(run: Rendering, x: Any, default: Any = None, fn: Any = None, **_: Any) -> Sql:
    given = x if present(x) else default
    if not present(given):
        run.missing[x.name] = None
        return Sql("")
    given = plain(given)
    names = given if isinstance(given, list | tuple) else str(given).split(",")
    quoted = [_identifier(run, n.strip() if isinstance(n, str) else n) for n in names]
    fn = plain(fn) if present(fn) else None
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
    parts: list[str | tuple[Value, str]] = []
    for key, value in conditions.items():
        name, _, suffix = key.rpartition("__")
        if key in (run.columns or ()) or suffix not in _COMPARISONS:
            name, suffix = key, ""
        left = _identifier(run, name)
        if not present(value):
            continue
        right: list[str | tuple[Value, str]] = list(value.parts) if type(value) is Sql else [bindable(value)]
        if suffix in ("in", "not_in") and not isinstance(plain(value), list | tuple):
            raise RookeryError(TEMPLATE, f"sql_and: {key} needs a list", hint="use Array(x, 'String')")
        parts += [" and " if parts else "", f"{left} {_COMPARISONS.get(suffix, '=')} ", *right]
    return Sql(*parts)


def _defined(run: Rendering, x: Any) -> bool:
    return present(x)


def _sql_unescape(run: Rendering, x: Any, what: Any = None) -> Any:
    # Values are bound and so never escaped: there is nothing to undo.
    return x


def _split_to_array(run: Rendering, x: Any, default: Any = None, separator: Any = ",") -> list[Any]:
    given = plain(x if present(x) else (default if default is not None else x))
    run.spend(given)
    if isinstance(given, list | tuple):
        return list(given)
    if not isinstance(given, str) or not isinstance(separator, str) or not separator:
        raise TypeError("split_to_array")
    return [item.strip() for item in given.split(separator)] if given else []


def _enumerate_with_last(run: Rendering, x: Any) -> list[tuple[bool, Any]]:
    items = items_of(x)
    return [(n == len(items), item) for n, item in enumerate(items, 1)]


def _enumerate(run: Rendering, x: Any, start: int = 0) -> list[tuple[int, Any]]:
    return list(enumerate(items_of(x), start))


def _range(run: Rendering, *bounds: Any) -> range:
    found = range(*(plain(b) for b in bounds))
    if len(found) > MAX_LOOP_STEPS:
        raise RookeryError(TEMPLATE, f"range() of more than {MAX_LOOP_STEPS} numbers")
    return found


def _len(run: Rendering, x: Any) -> int:
    return len(plain(x))


def _min(run: Rendering, *values: Any) -> Any:
    return min(map(plain, values)) if len(values) > 1 else min(items_of(values[0]))


def _max(run: Rendering, *values: Any) -> Any:
    return max(map(plain, values)) if len(values) > 1 else max(items_of(values[0]))


def _list(run: Rendering, x: Any) -> list[Any]:
    return items_of(x)


def _int(run: Rendering, x: Any) -> int:
    value = plain(x)
    name = x.name if type(x) is Parameter else None
    return int(value) if isinstance(value, float) else int(str(_checked(run, kind("Int256"), name, value, None)))


def _float(run: Rendering, x: Any) -> float:
    name = x.name if type(x) is Parameter else None
    return float(str(_checked(run, kind("Float64"), name, plain(x), None)))


# --- dates ---------------------------------------------------------------------------------------------------------
def _difference(seconds: int) -> Callable[..., Any]:
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
            first, second = (_moment(plain(d), formats, run.zone) for d in (date_1, date_2))
        except UnfitError as exc:
            if none_if_error:
                return None
            if run.sample:
                return 0
            raise RookeryError(BAD_PARAMETER, f"not a date: {exc}") from None
        if seconds == DAY_SECONDS:
            # Days are counted on the calendar, where one of 23 or 25 hours is one too.
            first, second = (x.replace(tzinfo=None) for x in (first, second))
        else:
            first, second = (x.astimezone(UTC) for x in (first, second))
        return int(abs((first - second).total_seconds()) // seconds)

    return difference


def _moment(value: Any, formats: list[str], zone: str) -> datetime:
    """A point in time, in the workspace's zone, from text: our own forms unless the author names others."""
    if not isinstance(value, str):
        raise UnfitError(shown(value))
    there = ZoneInfo(zone)
    for form in formats:
        try:
            found = datetime.strptime(value, form)
        except ValueError:
            continue
        return found.astimezone(there) if found.tzinfo else found.replace(tzinfo=there)
    if formats:
        raise UnfitError(shown(value))
    try:
        read = moment(value, zone)
    except UnfitError as exc:
        raise UnfitError(f"{shown(value)}: {exc}") from None
    return (read.at + timedelta(microseconds=int(f"{read.fraction:0<6}"[:6]))).astimezone(there)


# --- errors --------------------------------------------------------------------------------------------------------
def _error(run: Rendering, message: Any) -> Sql:
    if run.sample:
        return Sql("")
    message = plain(message)
    if not isinstance(message, str | int | float):
        raise TypeError("message")
    raise RookeryError(CUSTOM, str(message)[:2000])


def _custom_error(run: Rendering, body: Any, status: Any = 400) -> Sql:
    if not isinstance(status, int) or not 400 <= status <= 599:
        raise RookeryError(TEMPLATE, f"custom_error: status {shown(status)} is not one of 400 to 599")
    if run.sample:
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

UNSUPPORTED = {
    "table": "name the datasource in the SQL and choose between names with {% if %}",
    "TABLE": "name the datasource in the SQL and choose between names with {% if %}",
    "tb_secret": "secrets are not readable from pipes; use a fixed parameter of the token",
    "tb_var": "use a parameter with a default, or a fixed parameter of the token",
    "max_threads": "limits are set on the pipe and the token, not in SQL",
    "backend_hint": "remove it; there is one backend",
    "cache_ttl": "remove it; results are not cached here",
    "activate": "remove it; engine settings are not chosen in SQL",
    "disable": "remove it; engine settings are not chosen in SQL",
}
