"""Expressions that the engine evaluates when it stores a row: keys, TTL and indexes of a datasource's table.

If one of them throws, the engine refuses the whole INSERT and names neither the row nor the expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engine.project.expressions import plain_name
from engine.project.model import Datasource

NAME = re.compile(r"'(?:[^'\\]|\\(?:.|\Z)|'')*+(?:'|\Z)|`[^`]+`|\"[^\"]+\"|[A-Za-z_]\w*", re.DOTALL)
"""A text, or what may be a name in an expression."""
SHOWN = 200
"""Characters of an expression that a reason shows."""
FLAGS: Mapping[str, tuple[int, ...]] = {"sign": (1, -1), "is_deleted": (0, 1)}
"""Values that the engine takes in columns which say what becomes of a row; for any other it refuses the INSERT."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An expression (SQL over the datasource's columns) and `what` it is.

    `column` is the only one in it, or empty.
    """

    what: str
    sql: str
    column: str


def evaluated(source: Datasource) -> tuple[Evaluated, ...]:
    """The expressions of a datasource that are evaluated for each row, in the order in which they are blamed."""
    columns = [c.name for c in source.columns]
    return tuple(
        Evaluated(f"{what} `{sql[:SHOWN]}`", sql, _only(names_in(sql), columns))
        for what, sql in _expressions(source)
        if plain_name(sql) is None
    )


def _expressions(source: Datasource) -> Iterator[tuple[str, str]]:
    engine = source.engine
    # The primary key is the beginning of the sorting key.
    yield from (("the sorting key", sql) for sql in engine.sorting_key)
    if engine.partition_key:
        yield "the partition key", engine.partition_key
    if engine.sampling_key:
        yield "the sampling key", engine.sampling_key
    if engine.ttl:
        yield "the TTL", engine.ttl
    yield from ((f"the index `{i.name}` on", i.expression) for i in source.indexes)


def names_in(expression: str) -> set[str]:
    """What may be names of columns in an expression."""
    return {text.strip('`"') for text in NAME.findall(expression)}


def _only(named: set[str], columns: list[str]) -> str:
    found = [name for name in columns if name in named]
    return found[0] if len(found) == 1 else ""


def flag_of(source: Datasource, column: str) -> str | None:
    """Which of the engine's `FLAGS` a column is, if any."""
    return next((flag for flag in FLAGS if getattr(source.engine, flag) == column), None)


def flag_check(source: Datasource, column: str, value: str) -> str:
    """The condition under which a value (SQL) is one that the engine takes in a column; empty if it takes any."""
    flag = flag_of(source, column)
    return f"toString({value}) IN {tuple(map(str, FLAGS[flag]))}" if flag else ""
