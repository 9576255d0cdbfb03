"""Operators, loops, items and methods of templates, with limits on their work and on the size of their results.

`syntax.TemplateChecker` replaces Jinja's own operations with calls of these functions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

from engine.errors import TEMPLATE, RookeryError, shown
from engine.template.values import MAX_VALUE_SIZE, Rendering, TypedList, items_of, unwrap


def iterate(run: Rendering, value: Any) -> Iterator[Any]:
    """Yield the items of a loop, and count each against the limit of steps."""
    # Counted one by one, because loops can be nested: no single list needs to be long.
    for item in items_of(value):
        run.step()
        yield item


def is_forced(run: Rendering, number: int) -> bool:
    """Return whether a dry run forces this condition's outcome. The condition is then not evaluated."""
    return run.branches is not None and number in run.branches.forced


def branch_outcome(run: Rendering, number: int, value: Any) -> bool:
    """Return and record a condition's outcome in a dry run: the forced one if there is one, otherwise that of
    `value`.
    """
    outcome = bool(value)
    if run.branches is not None:
        outcome = run.branches.forced.get(number, outcome)
        run.branches.seen.add((number, outcome))
    return outcome


def item(run: Rendering, value: Any, key: Any) -> Any:
    """Evaluate `value[key]` for a string, a list or an object."""
    value, key = unwrap(value), unwrap(key)
    if not isinstance(value, str | list | tuple | dict):
        raise TypeError("no items")
    try:
        return items_of(value)[key] if isinstance(value, TypedList) else value[key]
    except (LookupError, TypeError):
        # The sample value does not have this item, but a caller's value may.
        if run.is_dry_run:
            return "__no_value__"
        raise RookeryError(TEMPLATE, f"no item {shown(key)}") from None


def slice_of(run: Rendering, value: Any, start: Any, stop: Any, step: Any) -> Any:
    """Evaluate `value[start:stop:step]` for a string or a list. An array keeps its type."""
    value = unwrap(value)
    if not isinstance(value, str | list | tuple):
        raise TypeError("no items")
    sliced = value[unwrap(start) : unwrap(stop) : unwrap(step)]
    if isinstance(value, TypedList):
        sliced = TypedList(sliced)
        sliced.sql_type = value.sql_type
    return sliced


def concat(run: Rendering, *values: Any) -> str:
    """Evaluate `a ~ b`: concatenate strings and numbers."""
    values = tuple(map(unwrap, values))
    run.spend(*values)
    if not all(isinstance(v, str | int | float) for v in values):
        raise TypeError("text or numbers")
    return _join("", [v if isinstance(v, str) else shown(v) for v in values])


def _join(separator: str, texts: list[str]) -> str:
    if sum(map(len, texts)) + len(separator) * len(texts) > MAX_VALUE_SIZE:
        raise RookeryError(TEMPLATE, f"text of more than {MAX_VALUE_SIZE} characters")
    return separator.join(texts)


def _replace(text: str, old: str, new: str) -> str:
    if len(text) + text.count(old) * len(new) > MAX_VALUE_SIZE:
        raise RookeryError(TEMPLATE, f"text of more than {MAX_VALUE_SIZE} characters")
    return text.replace(old, new)


METHODS: dict[str, Callable[..., Any]] = {
    "split": lambda text, *at: text.split(*at),
    "join": lambda text, items: _join(text, [unwrap(i) for i in items_of(items)]),
    "replace": _replace,
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "strip": lambda text, *what: text.strip(*what),
    "startswith": lambda text, start: text.startswith(start),
    "endswith": lambda text, end: text.endswith(end),
    "get": lambda object, key, default=None: object.get(key, default),
}


def method(run: Rendering, name: str, value: Any, *args: Any) -> Any:
    """Evaluate `value.name(…)`, for the string methods in METHODS and for `get` of objects."""
    value = unwrap(value)
    if not isinstance(value, dict if name == "get" else str):
        raise TypeError("method")
    # The checker has compared the name with METHODS, so that no attribute of Python is reachable.
    result = METHODS[name](value, *map(unwrap, args))
    run.spend(value, result)
    return result


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}


def binary(run: Rendering, symbol: str, left: Any, right: Any) -> Any:
    """Evaluate `left symbol right` for numbers, and `+` and `*` for strings and lists.

    Raises TEMPLATE for a result that is too large, before it is computed.
    """
    left, right = unwrap(left), unwrap(right)
    if isinstance(left, int | float) and isinstance(right, int | float):
        if right == 0 and run.is_dry_run and symbol in ("/", "//", "%"):
            return 0
        result = _OPERATORS[symbol](left, right)
        if isinstance(result, int) and result.bit_length() > 512:
            raise RookeryError(TEMPLATE, "the number is too large")
        return result
    run.spend(left, right)
    # The size is known before the result exists, so that `'a' * 10 ** 9` allocates nothing.
    if symbol == "+" and isinstance(left, str | list) and isinstance(right, str | list):
        size = len(left) + len(right)
    elif symbol == "*" and isinstance(left, str | list) and isinstance(right, int):
        size = len(left) * right
    else:
        raise TypeError("operands")
    if size > MAX_VALUE_SIZE:
        raise RookeryError(TEMPLATE, f"text of more than {MAX_VALUE_SIZE} characters")
    return _OPERATORS[symbol](left, right)


def unary(symbol: str, value: Any) -> Any:
    """Evaluate `-value` or `+value` for a number."""
    value = unwrap(value)
    if not isinstance(value, int | float):
        raise TypeError("operand")
    return -value if symbol == "-" else +value
