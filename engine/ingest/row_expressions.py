"""Expressions that the engine evaluates when it stores a row: keys, TTL and indexes of a datasource's table.

If one of them throws, the engine refuses the whole INSERT and names neither the row nor the expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engine.project.datasource import Datasource
from engine.project.expressions import plain_name

NAME = re.compile(r"'(?:[^'\\]|\\(?:.|\Z)|'')*+(?:'|\Z)|`[^`]+`|\"[^\"]+\"|[A-Za-z_]\w*", re.DOTALL)
"""A string literal, or what may be a name in an expression."""
MAX_EXPRESSION_CHARACTERS = 200
"""Characters of an expression that a reason shows."""
FLAGS: Mapping[str, tuple[int, ...]] = {"sign": (1, -1), "is_deleted": (0, 1)}
"""The allowed values of sign and deletion columns. The engine refuses an INSERT with any other value."""


@dataclass(frozen=True, slots=True)
class RowExpression:
    """An expression that is evaluated for each row."""

    name: str
    """What the expression is, for messages, such as "the TTL `at + INTERVAL 1 DAY`"."""
    sql: str
    """SQL over the datasource's columns."""
    column: str
    """The only column in the expression; empty if there are none or several."""


def row_expressions(source: Datasource) -> tuple[RowExpression, ...]:
    """The expressions that are evaluated for each row of a datasource, in the order in which they are reported."""
    columns = [c.name for c in source.columns]
    return tuple(
        RowExpression(f"{kind} `{sql[:MAX_EXPRESSION_CHARACTERS]}`", sql, _only_column(names_in(sql), columns))
        for kind, sql in _expressions(source)
        if plain_name(sql) is None
    )


def _expressions(source: Datasource) -> Iterator[tuple[str, str]]:
    engine = source.engine
    # The primary key is a prefix of the sorting key, so it needs no check of its own.
    yield from (("the sorting key", sql) for sql in engine.sorting_key)
    if engine.partition_key:
        yield "the partition key", engine.partition_key
    if engine.sampling_key:
        yield "the sampling key", engine.sampling_key
    if engine.ttl:
        yield "the TTL", engine.ttl
    yield from ((f"the index `{i.name}` on", i.expression) for i in source.indexes)


def names_in(expression: str) -> set[str]:
    """Possible column names in an expression, which include functions, keywords and string literals."""
    return {text.strip('`"') for text in NAME.findall(expression)}


def _only_column(names: set[str], columns: list[str]) -> str:
    used = [name for name in columns if name in names]
    return used[0] if len(used) == 1 else ""


def flag_of(source: Datasource, column: str) -> str | None:
    """Which of the `FLAGS` a column is, or None."""
    return next((flag for flag in FLAGS if getattr(source.engine, flag) == column), None)


def flag_check(source: Datasource, column: str, value: str) -> str:
    """The SQL condition for a value that the engine accepts in a column; empty if it accepts any."""
    flag = flag_of(source, column)
    return f"toString({value}) IN {tuple(map(str, FLAGS[flag]))}" if flag else ""
