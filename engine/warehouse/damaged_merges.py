"""Undoes merges and mutations whose result is damaged, by restoring their source parts.

The engine keeps source parts for a while, and loads them instead of a missing result when the table is attached. A
damaged result is never simply dropped, because it contains rows of earlier inserts, which would not be sent again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.warehouse.parts import why_damaged

_NAME = re.compile(r"(?P<partition>.+?)_(?P<first>\d+)_(?P<last>\d+)_(?P<level>\d+)(?:_(?P<version>\d+))?")


@dataclass(frozen=True, slots=True)
class Part:
    """The name of a part, split into its fields."""

    partition: str
    """The id of its partition."""
    first: int
    """Number of the first block that the part contains."""
    last: int
    """Number of the last block that the part contains."""
    level: int
    """Number of merges that led to the part; an insert can produce level 1."""
    version: int
    """Number of the last mutation; 0 without mutations."""

    @classmethod
    def of(cls, name: str) -> Part | None:
        """Parse a directory's name; None if it is not the name of a part."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        numbers = (int(match[n] or 0) for n in ("first", "last", "level", "version"))
        return cls(match["partition"], *numbers)

    def covers(self, other: Part) -> bool:
        """Whether this part was merged from the other one, directly or in several steps."""
        return (
            self != other
            and self.partition == other.partition
            and self.first <= other.first <= other.last <= self.last
            and self.level >= other.level
            # A mutation keeps blocks and level, so only the version distinguishes its result from its source.
            and self.version >= other.version
        )


def source_parts(table: Path, name: str) -> list[str]:
    """The undamaged parts from which a part was merged, if they still exist in the directory of its table."""
    part = Part.of(name)
    if part is None:
        return []
    parts = ((d, other) for d in table.iterdir() if (other := Part.of(d.name)) is not None)
    return sorted(d.name for d, other in parts if part.covers(other) and why_damaged(d) is None)


def is_derived(table: Path, name: str) -> bool:
    """Whether a merge or a mutation produced a part, and not an insert. Inserts can also produce parts of level 1."""
    part = Part.of(name)
    if part is None:
        return False
    return part.first != part.last or part.level > 1 or part.version > 0 or bool(source_parts(table, name))


def can_be_undone(table: Path, name: str) -> bool:
    """Whether the source parts of a part still exist. The engine removes all of them at once, so two are checked."""
    part = Part.of(name)
    sources = [p for n in source_parts(table, name) if (p := Part.of(n)) is not None]
    return (
        part is not None and {part.first} <= {p.first for p in sources} and {part.last} <= {p.last for p in sources}
    )


def derived_parts(table: Path, name: str) -> list[str]:
    """The parts that were merged from a part, directly or in several steps."""
    part = Part.of(name)
    parts = ((d.name, other) for d in table.iterdir() if (other := Part.of(d.name)) is not None)
    return sorted(n for n, other in parts if part is not None and other.covers(part))


def damaged_merges(data: Path) -> list[Path]:
    """The directories of all damaged results whose source parts still exist."""
    return [
        table / name
        for table, parts in _tables(data)
        for name, part in parts.items()
        # Parts of level 0 come from inserts. They are most of the parts, and their files need not be read.
        if (part.level or part.version) and why_damaged(table / name) is not None and can_be_undone(table, name)
    ]


def _tables(data: Path) -> Iterator[tuple[Path, dict[str, Part]]]:
    """The directories of all tables, each with its parts by name."""
    for file in (data / "store").glob("*/*/format_version.txt"):
        table = file.parent
        yield table, {d.name: part for d in table.iterdir() if (part := Part.of(d.name)) is not None}


def undo_damaged(data: Path) -> None:
    """Remove damaged parts whose rows also exist in other parts. No engine may have the directory open.

    These are results whose source parts still exist, and source parts of an undamaged result.
    """
    for directory in damaged_merges(data):
        shutil.rmtree(directory)
    for table, _ in _tables(data):
        remove_damaged_sources(table)


def remove_damaged_sources(table: Path) -> None:
    """Remove the damaged parts in a table's directory from which an undamaged part was made. It must be detached.

    Otherwise the engine would find them when it attaches the table, and detach them as broken.
    """
    parts = {d.name: part for d in table.iterdir() if (part := Part.of(d.name)) is not None}
    for name in _covered(parts):
        if why_damaged(table / name) is None:
            continue
        if any(why_damaged(table / n) is None for n, other in parts.items() if other.covers(parts[name])):
            shutil.rmtree(table / name)


def active_parts(table: Path) -> list[Part]:
    """The parts in a table's directory that no other part there was made from."""
    parts = {d.name: part for d in table.iterdir() if (part := Part.of(d.name)) is not None}
    covered = {*_covered(parts)}
    return [part for name, part in parts.items() if name not in covered]


def _covered(parts: dict[str, Part]) -> Iterator[str]:
    """The parts from which another part was merged. Two parts of a partition never overlap partially."""
    outer: Part | None = None
    # Of parts that begin with the same block, the one that contains the others comes first.
    order = sorted(parts.items(), key=lambda i: (i[1].partition, i[1].first, -i[1].last, -i[1].level, -i[1].version))
    for name, part in order:
        if outer is not None and outer.covers(part):
            yield name
        else:
            outer = part
