"""Operators, loops, items and methods of templates: what expressions become, with their work and sizes bounded."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

from engine.errors import TEMPLATE, RookeryError, shown
from engine.template.values import MAX_VALUE_SIZE, Rendering, TypedList, items_of, plain


def each(run: Rendering, value: Any) -> Iterator[Any]:
    """The items of a loop, counted."""
    for item in items_of(value):
        run.step()
        yield item


def forced(run: Rendering, number: int) -> bool:
    """Whether a dry run forces this condition, which is then not evaluated."""
    return run.arms is not None and number in run.arms.forced


def arm(run: Rendering, number: int, value: Any) -> bool:
    """The outcome of a condition in a dry run: the forced one, or its own."""
    outcome = bool(value)
    if run.arms is not None:
        outcome = run.arms.forced.get(number, outcome)
        run.arms.seen.add((number, outcome))
    return outcome


def item(run: Rendering, value: Any, key: Any) -> Any:
    """`value[key]` of text, a list or an object; nothing else can be looked into."""
    value, key = plain(value), plain(key)
    if not isinstance(value, str | list | tuple | dict):
        raise TypeError("no items")
    try:
        return items_of(value)[key] if isinstance(value, TypedList) else value[key]
    except (LookupError, TypeError):
        if run.sample:
            return "__no_value__"
        raise RookeryError(TEMPLATE, f"no item {shown(key)}") from None


def part(run: Rendering, value: Any, start: Any, stop: Any, step: Any) -> Any:
    """`value[start:stop:step]` of text or a list; an array keeps its type."""
    value = plain(value)
    if not isinstance(value, str | list | tuple):
        raise TypeError("no items")
    cut = value[plain(start) : plain(stop) : plain(step)]
    if isinstance(value, TypedList):
        cut = TypedList(cut)
        cut.sql_type = value.sql_type
    return cut


def concat(run: Rendering, *values: Any) -> str:
    """`a ~ b`: joined text."""
    values = tuple(map(plain, values))
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
    "join": lambda text, items: _join(text, [plain(i) for i in items_of(items)]),
    "replace": _replace,
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "strip": lambda text, *what: text.strip(*what),
    "startswith": lambda text, start: text.startswith(start),
    "endswith": lambda text, end: text.endswith(end),
    "get": lambda found, key, default=None: found.get(key, default),
}


def method(run: Rendering, name: str, value: Any, *args: Any) -> Any:
    """`value.name(…)`, for a few methods of text, and `get` of objects."""
    value = plain(value)
    if not isinstance(value, dict if name == "get" else str):
        raise TypeError("method")
    result = METHODS[name](value, *map(plain, args))
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
    """`left symbol right` for numbers, and `+` and `*` of text and lists; the result's size is bounded."""
    left, right = plain(left), plain(right)
    if isinstance(left, int | float) and isinstance(right, int | float):
        if right == 0 and run.sample and symbol in ("/", "//", "%"):
            return 0
        result = _OPERATORS[symbol](left, right)
        if isinstance(result, int) and result.bit_length() > 512:
            raise RookeryError(TEMPLATE, "number too large")
        return result
    run.spend(left, right)
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
    """`-value` or `+value` of a number."""
    value = plain(value)
    if not isinstance(value, int | float):
        raise TypeError("operand")
    return -value if symbol == "-" else +value
