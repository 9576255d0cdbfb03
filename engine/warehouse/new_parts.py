"""Checks the parts that were added to tables since the last check.

The engine stores a part and reports success even if a write to one of its files or to the table's deduplication log
has failed. Without an entry in the log, a retry of the insert after a restart would store the rows a second time.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from engine.schema import Name
from engine.warehouse.dedup_log_repair import is_unlogged
from engine.warehouse.part_names import Part
from engine.warehouse.parts import why_damaged
from engine.warehouse.port import DamagedPart

UNLOGGED = "it is missing in its table's deduplication log"
_BROKEN = re.compile(r"broken[a-z-]*_(?P<part>.+?)(?:_try\d+)?")
_OTHERS = ("tmp", "delete", "detached", "deduplication")
"""Prefixes of names in a table's directory that are not parts."""


@dataclass(slots=True)
class _Check:
    """The state of a table's directory at its last check."""

    changed: int = 0
    """Modification time of the directory in nanoseconds; 0 if it must be checked again in any case."""
    known: set[str] = field(default_factory=set)
    """All names in the directory, without those of damaged parts."""
    newest: int = 0
    """Highest block number in a part."""


class NewParts:
    """Remembers which parts of each table have been checked. Not thread-safe."""

    def __init__(self, *, logs: bool = True) -> None:
        """With `logs`, parts of inserts must also be in the deduplication log."""
        self._logs = logs
        self._began = time.time()
        self._checks: dict[str, _Check] = {}

    def note(self, directories: Iterable[str], *, again: bool = False) -> None:
        """Record the current parts of tables as known. Tables with a record are skipped unless `again` is true."""
        for directory in directories:
            if again or directory not in self._checks:
                try:
                    names = _names(directory)
                except OSError:
                    continue
                self._checks[directory] = _Check(0, names, _newest(names))

    def damaged_parts(self, tables: Iterable[tuple[Name, str]]) -> list[DamagedPart]:
        """Check the new parts of tables, each with its directory, and return the damaged ones.

        A damaged part that stays in its table is returned by every call.
        """
        result = []
        for table, directory in tables:
            path = Path(directory)
            last = self._checks.get(directory)
            try:
                # Read before the parts are listed: a part that is added later changes it again.
                changed = path.stat().st_mtime_ns
                if last is not None and changed == last.changed:
                    continue
                # Only new names are examined: a busy table has thousands of parts that merges have replaced.
                names = _names(directory)
                fresh = _parts(names if last is None else names - last.known)
                if last is None:
                    fresh = {n for n in fresh if (path / n).stat().st_mtime >= self._began}
            except OSError:
                # A merge has removed a part in the meantime. The next call checks the directory.
                continue
            damaged = {n: reason for n in sorted(fresh) if (reason := self._damage(path, n, last)) is not None}
            result += [DamagedPart(table, name, reason) for name, reason in damaged.items()]
            names -= damaged.keys()
            newest = _newest(names) if last is None else max(last.newest, _newest(fresh - damaged.keys()))
            self._checks[directory] = _Check(0 if damaged else changed, names, newest)
        return result

    def _damage(self, table: Path, name: str, last: _Check | None) -> str | None:
        """What is wrong with a part, or None.

        Only blocks that are newer than the last check are looked up in the log, which drops older entries.
        """
        reason = why_damaged(table / name)
        part = Part.of(name)
        if reason is None and self._logs and last is not None and part is not None and part.first > last.newest:
            inserted = part.first == part.last and part.level <= 1 and not part.version
            if inserted and is_unlogged(table, part.partition, part.first):
                return UNLOGGED
        return reason


def damaged_inserts(table: Path, after: int) -> list[str]:
    """Parts in a table's directory that an insert has stored after a block, and that are damaged or not logged."""
    return sorted(
        name
        for name in _parts(_names(str(table)))
        if (part := Part.of(name)) is not None
        and part.first == part.last > after
        and part.level <= 1
        and not part.version
        and (why_damaged(table / name) is not None or is_unlogged(table, part.partition, part.first))
    )


def broken_inserts(table: Path, after: int) -> list[str]:
    """Parts in a table's directory that begin after a block, and that the engine has detached because of damage."""
    matches = [_BROKEN.fullmatch(d.name) for d in (table / "detached").glob("broken*")]
    parts = [(m[0], Part.of(m["part"])) for m in matches if m is not None]
    return sorted(name for name, part in parts if part is not None and part.first > after)


def _names(directory: str) -> set[str]:
    # As text, because paths for thousands of names would take milliseconds.
    return set(os.listdir(directory))  # noqa: PTH208


def _parts(names: Iterable[str]) -> set[str]:
    """The names of parts among the names in a table's directory."""
    return {name for name in names if name.count("_") >= 3 and not name.startswith(_OTHERS)}


def _newest(names: Iterable[str]) -> int:
    """The highest block number in the parts among these names."""
    parts = (Part.of(name) for name in _parts(names))
    return max((part.last for part in parts if part is not None), default=0)
