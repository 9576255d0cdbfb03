"""The functions that templates can call. Each takes the `Rendering` first and returns a value or an SQL fragment."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from engine.errors import CUSTOM, TEMPLATE, RookeryError, shown
from engine.template.date_functions import DATE_FUNCTIONS
from engine.template.sql_functions import SQL_FUNCTIONS
from engine.template.type_functions import CONVERSIONS
from engine.template.values import (
    ABSENT,
    MAX_LOOP_STEPS,
    Parameter,
    PipeError,
    Rendering,
    Sql,
    is_present,
    items_of,
    unwrap,
)


# --- lists and numbers ---------------------------------------------------------------------------------------------
def _defined(run: Rendering, x: Any) -> bool:
    return is_present(x)


def _sql_unescape(run: Rendering, x: Any, what: Any = None) -> Any:
    # A function of Tinybird's. In rookery, values are bound and never escaped, so this does nothing.
    return x


def _split_to_array(run: Rendering, x: Any, default: Any = None, separator: Any = ",") -> list[Any]:
    """Return the items of a string, without surrounding spaces. The items are bound one by one, like any value."""
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


# --- errors --------------------------------------------------------------------------------------------------------
def _error(run: Rendering, message: Any) -> Sql:
    """Fail the request with the author's message."""
    if run.is_dry_run:
        return Sql("")
    message = unwrap(message)
    if not isinstance(message, str | int | float):
        raise TypeError("message")
    raise RookeryError(CUSTOM, str(message)[:2000])


def _custom_error(run: Rendering, body: Any, status: Any = 400) -> Sql:
    """Fail the request with the author's HTTP status and JSON body."""
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
TEMPLATE_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **CONVERSIONS,
    **SQL_FUNCTIONS,
    **DATE_FUNCTIONS,
    "defined": _defined,
    "error": _error,
    "custom_error": _custom_error,
    "sql_unescape": _sql_unescape,
    "split_to_array": _split_to_array,
    "enumerate_with_last": _enumerate_with_last,
    "range": _range,
    "enumerate": _enumerate,
    "len": _len,
    "min": _min,
    "max": _max,
    "list": _list,
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
