"""How large a text becomes once the engine has expanded it: every use of a WITH query, a name or an alias is a copy.

No limit of time ends the planning of a query, so what it takes is bounded before the engine sees it. A text's extent
is a sum over the names that it reads, so the extent of a statement follows from those of its texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from engine.errors import TOO_COMPLEX, RookeryError

MOST = 50_000
"""Parts of a statement, expanded."""
WIDEST = 5_000
"""Values that one value consists of: elements of tuples and maps within each other."""
TABLE = 100
"""What planning a table takes, in parts."""
COLUMNS = "*"
"""Ends the name of a bound name's columns in a sum."""
CAP = 1 << 62
"""What numbers stop at."""

Sum = Mapping[str, int]
"""A number, under the empty name, and how often the extent of each bound name is added to it."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What one use of a query comes to.

    `parts` of the expanded tree and `columns` of the result are sums; in `parts`, a name with a star stands for the
    columns of a bound name, and without one for its parts. `values` tells how many values one value of a column has,
    by the column's name, where that is more than one.
    """

    parts: Sum = field(default_factory=dict)
    columns: Sum = field(default_factory=dict)
    values: Mapping[str, int] = field(default_factory=dict)

    def of(self, names: Mapping[str, Extent]) -> Extent:
        """The extent as numbers, where those of the bound names are known."""
        return Extent({"": _number(self.parts, names)}, {"": _number(self.columns, names)}, self.values)


class Columned(Protocol):
    """A datasource, of which only the number of columns matters."""

    @property
    def columns(self) -> tuple[str, ...]: ...


class Text(Protocol):
    """A verified text."""

    @property
    def reads(self) -> frozenset[str]: ...
    @property
    def extent(self) -> Extent: ...


def table_extent(columns: int) -> Extent:
    """The extent of a table with so many columns."""
    return Extent({"": TABLE + columns}, {"": columns})


def relation_extent(relation: Columned) -> Extent:
    return table_extent(len(relation.columns))


def extents_of(
    relations: Mapping[str, Columned], texts: Mapping[str, tuple[tuple[str, Text], ...]]
) -> dict[str, Extent]:
    """The extents of pipes, by name, from the texts of their nodes in order. No pipe may read itself."""
    found: dict[str, Extent] = {}

    def measure(name: str) -> Extent:
        if name in found:
            return found[name]
        known: dict[str, Extent] = {}
        for node, text in texts.get(name, ()):
            known |= {n: measure(n) for n in text.reads - known.keys()}
            known[node] = text.extent.of(known)
        found[name] = known[texts[name][-1][0]] if name in texts else relation_extent(relations[name])
        return found[name]

    for name in texts:
        measure(name)
    return found


def check_extent(found: Extent, part: str) -> None:
    """Refuse what takes the engine long to plan. Raises RK4040."""
    parts, values = found.parts.get("", 0), max(found.values.values(), default=1)
    if parts > MOST:
        raise RookeryError(
            TOO_COMPLEX,
            f"{part} is too complex: it has {_shown(parts)} parts once WITH queries, nodes, aliases and `*` are "
            f"expanded, and {MOST:,} are allowed",
            hint="each use of a WITH query, node or alias counts as a copy of it: use them less often",
        )
    if values > WIDEST:
        raise RookeryError(
            TOO_COMPLEX,
            f"{part} is too complex: one of its values consists of {_shown(values)} others; {WIDEST:,} are allowed",
            hint="put fewer values into tuples and maps within each other",
        )


def _shown(number: int) -> str:
    return f"{number:,}" if number < CAP else "very many"


def _number(sum: Sum, names: Mapping[str, Extent]) -> int:
    found = sum.get("", 0)
    for name, times in sum.items():
        known = names.get(name.removesuffix(COLUMNS))
        if known is not None:
            found += times * (known.columns if name.endswith(COLUMNS) else known.parts).get("", 0)
    return min(found, CAP)
