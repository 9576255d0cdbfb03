"""Damaged parts that merges or mutations have made: the parts that they were made from take their place again.

The engine keeps those for some minutes. It loads them in place of a part that is gone, but only when the table is
attached. A damaged part is never dropped: its rows came with other inserts than the one that is under way.
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
    """What the name of a part says."""

    partition: str
    first: int
    last: int
    level: int
    version: int

    @classmethod
    def of(cls, name: str) -> Part | None:
        """None for a directory that is no part."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        numbers = (int(found[n] or 0) for n in ("first", "last", "level", "version"))
        return cls(found["partition"], *numbers)

    def covers(self, other: Part) -> bool:
        """Whether this part was made from another, perhaps by several steps."""
        return (
            self != other
            and self.partition == other.partition
            and self.first <= other.first <= other.last <= self.last
            and self.level >= other.level
            and self.version >= other.version
        )


def source_parts(table: Path, name: str) -> list[str]:
    """Names of the undamaged parts that a part was made from, as far as they are still in its table's directory."""
    part = Part.of(name)
    if part is None:
        return []
    there = ((d, other) for d in table.iterdir() if (other := Part.of(d.name)) is not None)
    return sorted(d.name for d, other in there if part.covers(other) and why_damaged(d) is None)


def is_derived(table: Path, name: str) -> bool:
    """Whether a part is the work of a merge or a mutation, and not of an insert, which may make parts of level 1."""
    part = Part.of(name)
    if part is None:
        return False
    return part.first != part.last or part.level > 1 or part.version > 0 or bool(source_parts(table, name))


def can_be_undone(table: Path, name: str) -> bool:
    """Whether the parts that a part was made from are there: the first and the last, as all are removed at once."""
    part = Part.of(name)
    sources = [p for n in source_parts(table, name) if (p := Part.of(n)) is not None]
    return (
        part is not None and {part.first} <= {p.first for p in sources} and {part.last} <= {p.last for p in sources}
    )


def derived_parts(table: Path, name: str) -> list[str]:
    """Names of the parts that have been made of a part, perhaps by several steps."""
    part = Part.of(name)
    there = ((d.name, other) for d in table.iterdir() if (other := Part.of(d.name)) is not None)
    return sorted(n for n, other in there if part is not None and other.covers(part))


def damaged_merges(data: Path) -> list[Path]:
    """Directories of damaged parts that can be undone."""
    return [
        table / name
        for table, parts in _tables(data)
        for name, part in parts.items()
        if (part.level or part.version) and why_damaged(table / name) is not None and can_be_undone(table, name)
    ]


def _tables(data: Path) -> Iterator[tuple[Path, dict[str, Part]]]:
    """Directories of tables, each with its parts by name."""
    for file in (data / "store").glob("*/*/format_version.txt"):
        table = file.parent
        yield table, {d.name: part for d in table.iterdir() if (part := Part.of(d.name)) is not None}


def undo_damaged(data: Path) -> None:
    """Remove damaged parts that others stand for, in a directory that no engine has open.

    Those are parts that can be undone, and what a sound part was made from.
    """
    for directory in damaged_merges(data):
        shutil.rmtree(directory)
    for table, parts in _tables(data):
        for name in _covered(parts):
            if why_damaged(table / name) is None:
                continue
            if any(why_damaged(table / n) is None for n, other in parts.items() if other.covers(parts[name])):
                shutil.rmtree(table / name)


def _covered(parts: dict[str, Part]) -> Iterator[str]:
    """Names of parts that others have been made of. Parts lie in each other or apart."""
    outer: Part | None = None
    order = sorted(parts.items(), key=lambda i: (i[1].partition, i[1].first, -i[1].last, -i[1].level, -i[1].version))
    for name, part in order:
        if outer is not None and outer.covers(part):
            yield name
        else:
            outer = part
