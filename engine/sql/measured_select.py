"""A SELECT while the size of its query is measured: what each name means in it, and how large its value is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from engine.sql.constant_work import ANY_COLUMN, MAX_COLUMNS, Cost, Lengths, column_key, longest
from engine.sql.expanded_size import MAX_NUMBER, Extent, Sum
from engine.sql.tree import Node, members


@dataclass(frozen=True, slots=True)
class Measured:
    """An expression, measured."""

    parts: Sum
    number: int
    """Elements of its value."""
    cost: Cost


@dataclass(slots=True)
class MeasuredSelect:
    """One SELECT while it is measured."""

    aliases: dict[str, Node]
    """Alias → its expression."""
    with_aliases: dict[str, Node]
    """The aliases that are defined by WITH. Subqueries see only these."""
    tables: Mapping[str, Extent] = field(default_factory=dict)
    """The visible WITH queries."""
    measured: dict[str, Measured] = field(default_factory=dict)
    """The aliases that are measured."""
    entered: set[str] = field(default_factory=set)
    """Aliases that are currently being measured. Inside its own expression, an alias means a column."""
    columns: Sum = field(default_factory=dict)
    """The columns of all tables in FROM."""
    columns_by_table: dict[str, Sum] = field(default_factory=dict)
    """Table name or alias → its columns."""
    values: dict[str, int] = field(default_factory=dict)
    """Column → elements in one value."""
    lengths: dict[str, Lengths] = field(default_factory=dict)
    """Column → length of its value, for constants that are long."""
    bound: set[str] = field(default_factory=set)
    """The bound names that it reads, directly or through `*`."""

    def length_of(self, column: str) -> Lengths:
        """The length of a column's value."""
        bound = self.bound if len(self.bound) < MAX_COLUMNS else ()
        others = {column_key(name, column): 1 for name in bound} or dict.fromkeys([ANY_COLUMN] * bool(self.bound), 1)
        return longest([self.lengths.get(column, {}), others])

    def add_table(self, name: str, extent: Extent) -> None:
        """Add a table of FROM. Tables may share a column's name, which then has the largest value of any of them."""
        self.columns_by_table[name] = extent.columns
        for column, number in extent.values.items():
            self.values[column] = max(number, self.values.get(column, 1))
        for column, length in extent.lengths.items():
            self.lengths[column] = longest([length, self.lengths.get(column, {})])
        self.bound |= extent.passed

    def width(self, item: Node, number: int) -> Sum:
        """The number of columns that a SELECT item becomes, given the elements of its value."""
        kind = str(item.get("type", ""))
        if kind.startswith("Qualified"):
            name = str((item.get("qualifier") or {}).get("name", ""))
            return self.columns_by_table.get(name, self.columns)
        if kind.endswith(("Asterisk", "Matcher")):
            return self.columns
        return {"": number if str(item.get("name", "")).lower() == "untuple" else 1}


Selects = tuple[MeasuredSelect, ...]
"""The SELECTs around an expression, the innermost last."""


def add_parts(total: Counter[str], more: Sum, times: int = 1) -> None:
    """Add parts to a total. A number never exceeds MAX_NUMBER, however often subqueries repeat it."""
    for name, number in more.items():
        total[name] = min(total[name] + times * number, MAX_NUMBER)


def aliases_of(select: Node) -> dict[str, Node]:
    """Alias → expression for the aliases of a SELECT, without those of its tables and in its subqueries."""
    expressions: dict[str, Node] = {}
    pending: list[object] = [{k: v for k, v in select.items() if k != "tables"}]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(node)
        elif isinstance(node, dict) and node.get("type") != "WithElement":
            if isinstance(node.get("alias"), str):
                expressions.setdefault(node["alias"], node)
            if node.get("type") != "Subquery":
                pending.extend(node.values())
    return expressions


def listed_columns(node: Node, below: list[int], selects: Selects) -> tuple[Sum, int]:
    """The parts and elements of `*` or COLUMNS: all columns, and all of them again for each transformer."""
    copies = 1 + len(members(node.get("transformers")))
    parts: Counter[str] = Counter({"": copies})
    if selects:
        # Transformers become nested calls: the cost grows with the square of their number.
        add_parts(parts, selects[-1].width(node, 1), copies * (1 + copies // 8))
    widest = max(selects[-1].values.values(), default=1) if selects else 1
    return parts, min(MAX_NUMBER, widest * prod(below))


def output_name(item: Node) -> str:
    """The name of the column that a SELECT item becomes: its alias, or the column's name without its table."""
    return str(item.get("alias") or str(item.get("name", "")).rpartition(".")[2])
