"""The names of parts, which say what a part contains: its partition, its blocks, and the merges that led to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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


def parts_in(table: Path) -> dict[str, Part]:
    """The parts in a table's directory, by the name of their directory."""
    return {d.name: part for d in table.iterdir() if (part := Part.of(d.name)) is not None}


def active_parts(table: Path) -> list[Part]:
    """The parts in a table's directory that no other part there was made from."""
    parts = parts_in(table)
    replaced = {*replaced_parts(parts)}
    return [part for name, part in parts.items() if name not in replaced]


def replaced_parts(parts: dict[str, Part]) -> Iterator[str]:
    """The parts from which another part was merged. Two parts of a partition never overlap partially."""
    outer: Part | None = None
    # Of parts that begin with the same block, the one that contains the others comes first.
    order = sorted(parts.items(), key=lambda i: (i[1].partition, i[1].first, -i[1].last, -i[1].level, -i[1].version))
    for name, part in order:
        if outer is not None and outer.covers(part):
            yield name
        else:
            outer = part
