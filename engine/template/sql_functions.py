"""Template functions that produce SQL: names of columns, and conditions on them.

Names are the only part of a request that becomes SQL; values are bound. A name must be a column that the node can
read, and the rendered SQL is verified like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from engine.errors import IDENTIFIER, TEMPLATE, RookeryError, nearest, shown
from engine.schema import quote
from engine.template.parameters import Value
from engine.template.values import Parameter, Rendering, Sql, bindable, is_present, unwrap

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FUNCTION = re.compile(r"[a-zA-Z][A-Za-z0-9]*", re.ASCII)
_COMPARISONS = {"in": "in", "not_in": "not in", "gt": ">", "lt": "<", "gte": ">=", "lte": "<="}


def _identifier(run: Rendering, name: Any) -> str:
    """Return a column's name in backquotes. Raises IDENTIFIER unless the node can read the column."""
    known = run.columns if run.columns is not None else frozenset()
    if isinstance(name, str) and (name in known or (run.columns is None and _PLAIN_NAME.fullmatch(name))):
        return quote(name)
    near = nearest(name, known) if isinstance(name, str) else None
    hint = f"did you mean `{near}`?" if near else "a column that this node reads"
    raise RookeryError(IDENTIFIER, f"no column {shown(name)} here", hint=hint)


def _column(run: Rendering, x: Any, default: Any = None, **_: Any) -> Sql:
    """Return a quoted column that the request chooses."""
    name = x if is_present(x) else default
    if not is_present(name):
        run.missing[(name if type(name) is Parameter else x).name] = None
        return Sql("")
    return Sql(_identifier(run, unwrap(name)))


def _columns(run: Rendering, x: Any, default: Any = None, fn: Any = None, **_: Any) -> Sql:
    """Return quoted columns from a list or a string with commas. With `fn`, each as `fn(column) AS column`."""
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


SQL_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "column": _column,
    "columns": _columns,
    "symbol": _symbol,
    "sql_and": _sql_and,
}
