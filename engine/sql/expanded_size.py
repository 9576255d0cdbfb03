"""Computes how large a query becomes when the engine expands it: each use of a WITH query, node or alias is a copy.

The engine has no time limit for planning a query, so the size is limited before the engine sees the query. The extent
of a piece of SQL is a linear sum over the names that it reads. The extent of a statement follows from the extents of
its parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from engine.errors import TOO_COMPLEX, RookeryError
from engine.sql.constant_work import ANY_COLUMN, COLUMN_MARK, WORK_PER_PART, Lengths

MAX_EXPANDED_PARTS = 50_000
"""Maximum number of parts (nodes of the expanded tree) of a statement."""
MAX_VALUE_ELEMENTS = 5_000
"""Maximum number of elements of one value, including those of nested tuples and maps."""
TABLE_PARTS = 100
"""The cost of planning a table, in parts."""
COLUMNS_SUFFIX = "*"
"""Suffix in a `Sum` for the number of columns of a bound name, instead of its parts."""
MAX_NUMBER = 1 << 62
"""Largest number in an extent; larger numbers are reduced to this."""

Sum = Mapping[str, int]
"""A linear sum: a constant under the empty name, and for each bound name how often its extent is added."""


@dataclass(frozen=True, slots=True)
class Extent:
    """The size of one use of a query."""

    parts: Sum = field(default_factory=dict)
    """Nodes of the expanded tree."""
    columns: Sum = field(default_factory=dict)
    """Columns of the result."""
    values: Mapping[str, int] = field(default_factory=dict)
    """Column name → elements in one value of the column, if more than one."""
    lengths: Mapping[str, Lengths] = field(default_factory=dict)
    """Column name → length of its value, for constants that are long."""
    passed: frozenset[str] = frozenset()
    """Bound names whose columns are columns of the result."""

    def evaluated(self, names: Mapping[str, Extent]) -> Extent:
        """The extent as plain numbers, given the extents of the bound names."""
        lengths = {c: number for c, length in self.lengths.items() if (number := _length(length, names))}
        for name in self.passed & names.keys():
            for column, length in names[name].lengths.items():
                lengths[column] = max(lengths.get(column, 0), length.get("", 0))
        return Extent(
            {"": _evaluated(self.parts, names)},
            {"": _evaluated(self.columns, names)},
            self.values,
            {column: {"": number} for column, number in lengths.items()},
        )


class HasColumns(Protocol):
    """A datasource. Only the number of its columns matters here."""

    @property
    def columns(self) -> tuple[str, ...]: ...


class MeasuredText(Protocol):
    """A verified text."""

    @property
    def reads(self) -> frozenset[str]: ...
    @property
    def extent(self) -> Extent: ...


def table_extent(columns: int) -> Extent:
    """The extent of a table with `columns` columns."""
    return Extent({"": TABLE_PARTS + columns}, {"": columns})


def relation_extent(relation: HasColumns) -> Extent:
    """The extent of a datasource."""
    return table_extent(len(relation.columns))


def extents_of(
    relations: Mapping[str, HasColumns], texts: Mapping[str, tuple[tuple[str, MeasuredText], ...]]
) -> dict[str, Extent]:
    """Pipe name → extent. `texts` has each pipe's verified nodes in order. The pipes must not form a cycle."""
    extents: dict[str, Extent] = {}

    def measure(name: str) -> Extent:
        if name in extents:
            return extents[name]
        known: dict[str, Extent] = {}
        for node, text in texts.get(name, ()):
            # A node's name hides a datasource or pipe of the same name, as in the statement.
            known |= {n: measure(n) for n in text.reads - known.keys()}
            known[node] = text.extent.evaluated(known)
        extents[name] = known[texts[name][-1][0]] if name in texts else relation_extent(relations[name])
        return extents[name]

    for name in texts:
        measure(name)
    return extents


def check_extent(extent: Extent, part: str) -> None:
    """Refuse a statement that the engine would plan for too long. `part` names it in the message. Raises RK4040."""
    parts, values = extent.parts.get("", 0), max(extent.values.values(), default=1)
    if parts > MAX_EXPANDED_PARTS:
        raise RookeryError(
            TOO_COMPLEX,
            f"{part} is too complex: it has {_shown(parts)} parts after WITH queries, nodes, aliases and `*` are "
            f"expanded; at most {MAX_EXPANDED_PARTS:,} are allowed",
            hint="each use of a WITH query, node or alias counts as a copy; use them less often",
        )
    if values > MAX_VALUE_ELEMENTS:
        raise RookeryError(
            TOO_COMPLEX,
            f"{part} is too complex: one of its values has {_shown(values)} elements; at most "
            f"{MAX_VALUE_ELEMENTS:,} are allowed",
            hint="put fewer values into nested tuples and maps",
        )


def _shown(number: int) -> str:
    return f"{number:,}" if number < MAX_NUMBER else "very many"


def _length(length: Lengths, names: Mapping[str, Extent]) -> int:
    """A length as a number. Columns without a known length are short."""
    numbers = [length.get("", 0)]
    for key in length:
        name, _, column = key.partition(COLUMN_MARK)
        if key == ANY_COLUMN:
            numbers += [n.get("", 0) for known in names.values() for n in known.lengths.values()]
        elif column and name in names:
            numbers.append(names[name].lengths.get(column, {}).get("", 0))
    return max(numbers)


def _evaluated(sum: Sum, names: Mapping[str, Extent]) -> int:
    """A linear sum as a number. Names without a known extent count as nothing."""
    total = sum.get("", 0)
    for name, times in sum.items():
        if COLUMN_MARK in name:
            total += times * _length({name: 1}, names) // WORK_PER_PART
            continue
        known = names.get(name.removesuffix(COLUMNS_SUFFIX))
        if known is not None:
            total += times * (known.columns if name.endswith(COLUMNS_SUFFIX) else known.parts).get("", 0)
    # Nested uses multiply, so without a limit the numbers would grow to thousands of digits.
    return min(total, MAX_NUMBER)
