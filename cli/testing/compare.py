"""Compares the answer of a call with what a test expects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli.testing.model import Answer, Difference, Sign
from cli.testing.values import Column, Comparison, Row, cell_of_json
from engine.errors import (
    RookeryError,
    did_you_mean,
)
from engine.plurals import counted

MAX_ALIGNED = 250_000
"""Largest number of pairs of rows that are compared to align two results."""
Line = tuple[Sign, Row]


@dataclass(frozen=True, slots=True)
class Rules:
    """How results are compared."""

    tolerance: float
    zone: str
    """Time zone of columns without one."""
    unordered: bool = False
    columns: Sequence[str] = ()
    """Columns to compare; all if empty."""


def against_rows(expected: Sequence[Row], answer: Answer, rules: Rules) -> Difference | None:
    """The difference between expected rows and a result; None if they are equal."""
    if answer.error is not None:
        return _unexpected_error(answer.error)
    names = [column.name for column in answer.columns]
    if fault := _column_fault(expected, names, rules.columns):
        return fault
    compared = [c for c in answer.columns if not rules.columns or c.name in rules.columns]
    comparison = Comparison(compared, rules.tolerance, rules.zone)
    one = [comparison.expected(row) for row in expected]
    other = [comparison.actual(row) for row in answer.rows]
    matches = _any_order(one, other, comparison) if rules.unordered else _in_order(one, other, comparison)
    if len(matches) == len(one) == len(other):
        return None
    lines = _lines(expected, [_cells(row, compared) for row in answer.rows], matches)
    return Difference(_summary(len(one), len(other)), columns=[c.name for c in compared], lines=lines)


def against_error(code: str, answer: Answer) -> Difference | None:
    """The difference between an expected error and an answer; None if it has the error."""
    if answer.error is None:
        rows = counted(len(answer.rows), "row")
        return Difference(f"expected the error {code}, but the call returned {rows}")
    if answer.error.code.id == code:
        return None
    found = _unexpected_error(answer.error)
    return Difference(f"expected the error {code}, but it was {found.message}", hint=found.hint)


def between(full: Answer, alone: Answer, rules: Rules) -> Difference | None:
    """The difference between a tenant's result with and without other tenants' rows; None if there is none."""
    if full.error is not None:
        return against_error(full.error.code.id, alone)
    if alone.error is not None:
        return _unexpected_error(alone.error)
    if [c.name for c in full.columns] != [c.name for c in alone.columns]:
        return Difference("the columns depend on other tenants' rows")
    found = against_rows([_cells(row, alone.columns) for row in alone.rows], full, rules)
    if found is None:
        return None
    return Difference("the result depends on other tenants' rows", columns=found.columns, lines=found.lines)


def _unexpected_error(error: RookeryError) -> Difference:
    place = f"{error.place}: " if error.place else ""
    return Difference(f"{place}{error.code.id} {error.message}", hint=error.hint)


def _column_fault(expected: Sequence[Row], names: Sequence[str], compared: Sequence[str]) -> Difference | None:
    """The difference if a result does not have the columns that a test names, or the test lacks some of them."""
    written = list(dict.fromkeys(name for row in expected for name in row))
    for name in (*compared, *written):
        if name not in names:
            hint = did_you_mean(name, names, f"its columns: {', '.join(names)}")
            return Difference(f"the result has no column `{name}`", hint=hint)
    for number, row in enumerate(expected, 1):
        lacking = [name for name in compared or names if name not in row]
        if lacking:
            hint = "add it, or name the columns to compare in `columns`"
            return Difference(f"expected row {number} has no value for `{lacking[0]}`", hint=hint)
    return None


def _summary(expected: int, actual: int) -> str:
    if expected == actual:
        return "the rows differ"
    rows = "row was" if expected == 1 else "rows were"
    return f"{expected} {rows} expected, and the result has {actual}"


def _cells(row: Mapping[str, Any], columns: Sequence[Column]) -> Row:
    return {column.name: cell_of_json(row[column.name]) for column in columns}


Matches = list[tuple[int, int]]
"""Positions of equal rows, in the first and in the second list, in increasing order."""
Values = Sequence[tuple[Any, ...]]


def _any_order(one: Values, other: Values, comparison: Comparison) -> Matches:
    """Pairs of equal rows, whatever their order."""
    free: dict[str, list[int]] = defaultdict(list)
    for position, row in enumerate(other):
        free[comparison.key(row)].append(position)
    matches: Matches = []
    for position, row in enumerate(one):
        candidates = free[comparison.key(row)]
        found = next((c for c in candidates if comparison.equal(row, other[c])), None)
        if found is not None:
            candidates.remove(found)
            matches.append((position, found))
    return matches


def _in_order(one: Values, other: Values, comparison: Comparison) -> Matches:
    """Pairs of equal rows in the same order: as many as possible, unless the results are very long."""
    start, ends = 0, (len(one), len(other))
    while start < min(ends) and comparison.equal(one[start], other[start]):
        start += 1
    tail = 0
    while tail < min(ends) - start and comparison.equal(one[-1 - tail], other[-1 - tail]):
        tail += 1
    middle = _aligned(one[start : ends[0] - tail], other[start : ends[1] - tail], comparison)
    return [
        *((n, n) for n in range(start)),
        *((a + start, b + start) for a, b in middle),
        *((ends[0] - n, ends[1] - n) for n in range(tail, 0, -1)),
    ]


def _aligned(one: Values, other: Values, comparison: Comparison) -> Matches:
    """A longest common subsequence."""
    if len(one) * len(other) > MAX_ALIGNED:
        return [(n, n) for n, (a, b) in enumerate(zip(one, other, strict=False)) if comparison.equal(a, b)]
    lengths = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    same = [[comparison.equal(a, b) for b in other] for a in one]
    for a in reversed(range(len(one))):
        for b in reversed(range(len(other))):
            longest = max(lengths[a + 1][b], lengths[a][b + 1])
            lengths[a][b] = lengths[a + 1][b + 1] + 1 if same[a][b] else longest
    matches, a, b = [], 0, 0
    while a < len(one) and b < len(other):
        if same[a][b]:
            matches.append((a, b))
            a, b = a + 1, b + 1
        elif lengths[a + 1][b] >= lengths[a][b + 1]:
            a += 1
        else:
            b += 1
    return matches


def _lines(expected: Sequence[Row], actual: Sequence[Row], matches: Matches) -> list[Line]:
    """The rows as lines of a diff."""
    partner = dict(matches)
    matched = set(partner.values())
    lines: list[Line] = []
    position = 0
    for number, row in enumerate(expected):
        if number in partner:
            # In any order, rows of the result may already have been passed.
            while position < partner[number]:
                if position not in matched:
                    lines.append(("+", actual[position]))
                position += 1
            lines.append((" ", row))
            position = max(position, partner[number] + 1)
        else:
            lines.append(("-", row))
    lines += [("+", row) for n, row in enumerate(actual) if n >= position and n not in matched]
    return lines
