"""The ways in which a table can differ from its sources, and the outcome of comparing and repairing it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from engine.control.doctor.detached_parts import Detached
from engine.plurals import counted
from engine.schema import Name

MISSING, LESS, MIXED, DIFFERS, MORE, SURPLUS = "missing", "less", "mixed", "differs", "more", "surplus"
"""Kinds of difference between one key of a table and the result over the table's sources."""
SHORTAGES = (MISSING, LESS, MIXED)
"""Kinds that prove missing rows even if the sources have lost rows."""
EXCESSES = (MIXED, MORE, SURPLUS)
"""Kinds in which the table has more than the sources yield."""

_DESCRIPTIONS = {
    MISSING: "missing",
    LESS: "below the source's result",
    MIXED: "below the source's result in some columns and above it in others",
    DIFFERS: "different from the source's result",
    MORE: "above the source's result",
    SURPLUS: "not in the source",
}


@dataclass(slots=True)
class Difference:
    """The differing keys of one table and one tenant."""

    table: Name
    tenant: str | None
    """The owner of the rows; None in a table without a tenant column."""
    counts: dict[str, int] = field(default_factory=dict)
    """Number of differing keys by kind."""
    example: str = ""
    """One of the keys, as a string."""

    def text(self) -> str:
        """The difference as one sentence."""
        parts = [f"{counted(count, 'key')} {_DESCRIPTIONS[kind]}" for kind, count in sorted(self.counts.items())]
        return f"{', '.join(parts)}, for example {self.example[:200]}"


@dataclass(frozen=True, slots=True)
class RepairOutcome:
    """The outcome of comparing, and possibly repairing, one table."""

    table: Name
    differences: tuple[Difference, ...] = ()
    """Of each tenant with differing keys."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Columns that were not compared, each with the reason."""
    uncompared: str | None = None
    """Why nothing was compared."""
    repaired: int = 0
    """Number of repaired keys."""
    lost: str | None = None
    """Why the sources no longer prove what the table should contain; None if they do."""
    detached: tuple[Detached, ...] = ()
    """What was done with the table's detached parts."""
    excess: bool = False
    """Whether the repair was allowed to remove excess rows."""

    def stays_wrong(self, *, repaired: bool) -> bool:
        """Whether the table is known to be wrong after a repair (`repaired`) or after a comparison."""
        if repaired:
            wrong: tuple[str, ...] = (MIXED,) if self.lost is not None else () if self.excess else EXCESSES
        else:
            wrong = SHORTAGES if self.lost is not None else (*SHORTAGES, DIFFERS, MORE, SURPLUS)
        return count_keys(self.differences, wrong) > 0


def count_keys(differences: Sequence[Difference], kinds: Collection[str]) -> int:
    """The number of keys that differ in one of the given ways."""
    return sum(count for d in differences for kind, count in d.counts.items() if kind in kinds)
