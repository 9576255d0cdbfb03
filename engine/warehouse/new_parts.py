"""Parts that have come into tables since somebody looked last, and what is wrong with them.

The engine stores a part, and says so, although a write has failed: into one of its files, or into its table's
deduplication log. Without an entry there, the part comes again when its insert is repeated after a restart.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine.schema import Name
from engine.warehouse.damaged_merges import Part
from engine.warehouse.dedup_log_repair import is_unlogged
from engine.warehouse.parts import why_damaged

UNLOGGED = "its table's deduplication log does not have it"
_OTHERS = ("tmp", "delete", "detached", "deduplication")
"""How names begin that are no part's."""


@dataclass(slots=True)
class _Look:
    """What a directory had: when it was changed, its parts, and the highest number of a block."""

    changed: int = 0
    known: set[str] = field(default_factory=set)
    newest: int = 0


class NewParts:
    """Remembers the parts of tables, which are given with their directories."""

    def __init__(self, *, logs: bool = True) -> None:
        """Without `logs`, it is not asked whether inserts have been logged."""
        self._logs = logs
        self._began = time.time()
        self._looks: dict[str, _Look] = {}

    def note(self, directories: Iterable[str], *, again: bool = False) -> None:
        """Remember the parts that are there, of tables that nobody has looked at yet, or `again` of all."""
        for directory in directories:
            if again or directory not in self._looks:
                try:
                    names = _parts(directory)
                except OSError:
                    continue
                self._looks[directory] = _Look(0, names, _newest(names))

    def damaged_parts(self, tables: Iterable[tuple[Name, str]]) -> list[tuple[Name, str, str]]:
        """Damaged parts that have come since: the table, the part, and why. They are found again if they stay."""
        found = []
        for table, directory in tables:
            path = Path(directory)
            look = self._looks.get(directory)
            try:
                changed = path.stat().st_mtime_ns
                if look is not None and changed == look.changed:
                    continue
                names = _parts(directory)
                if look is not None:
                    fresh = names - look.known
                else:
                    fresh = {n for n in names if (path / n).stat().st_mtime >= self._began}
            except OSError:
                # Merges take parts away meanwhile; the next look sees what is there then.
                continue
            bad = {n: why for n in sorted(fresh) if (why := self._why(path, n, look)) is not None}
            found += [(table, name, why) for name, why in bad.items()]
            names -= bad.keys()
            self._looks[directory] = _Look(0 if bad else changed, names, _newest(names))
        return found

    def _why(self, table: Path, name: str, look: _Look | None) -> str | None:
        """What is wrong with a part. Whether its insert was logged can be told of what has come since a look."""
        why = why_damaged(table / name)
        part = Part.of(name)
        if why is None and self._logs and look is not None and part is not None and part.first > look.newest:
            inserted = part.first == part.last and part.level <= 1 and not part.version
            if inserted and is_unlogged(table, part.partition, part.first):
                return UNLOGGED
        return why


def _parts(directory: str) -> set[str]:
    with os.scandir(directory) as entries:
        return {e.name for e in entries if e.name.count("_") >= 3 and not e.name.startswith(_OTHERS)}


def _newest(names: Iterable[str]) -> int:
    return max(_lasts(names), default=0)


def _lasts(names: Iterable[str]) -> Iterator[int]:
    for name in names:
        part = Part.of(name)
        if part is not None:
            yield part.last
