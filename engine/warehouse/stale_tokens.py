"""Repairs tables of the embedded engine while it runs: tokens without rows, and merges with damaged results.

If the rename of a part fails, the token of its block remains in the table's deduplication log and in memory, and the
engine drops a repeated INSERT as a duplicate. The engine only reloads the log when the table is attached, so the
table is detached, its log is repaired, and it is attached again. In the same way, a damaged result of a merge is
removed while its table is detached; the engine then loads its source parts.
"""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import structlog

from engine.errors import RookeryError
from engine.schema import Name
from engine.warehouse.damaged_merges import (
    can_be_undone,
    damaged_merges,
    derived_parts,
    is_derived,
    remove_damaged_sources,
)
from engine.warehouse.dedup_log_repair import is_unfinished, repair_table, unfinished
from engine.warehouse.errors import file_error
from engine.warehouse.part_names import Part
from engine.warehouse.parts import why_damaged
from engine.warehouse.port import Rows

log = structlog.get_logger("rookery.warehouse")

_BROKEN = "broken-on-start_"
"""Prefix of the parts that the engine could not load when it attached their table."""
OVERLAP_SECONDS = 2.0
"""Seconds before the last check from which logs are examined again, because timestamps of file systems are not
exact.
"""


class Engine(Protocol):
    """The required methods of the engine that has the directory open."""

    def query(self, sql: str) -> Rows: ...
    def execute(self, sql: str) -> None: ...


class StaleTokens:
    """Finds and repairs such tables in a data directory. Thread-safe: one repair runs at a time."""

    def __init__(self, data: Path, engine: Engine) -> None:
        self._data = data
        self._engine = engine
        self._since = time.time()
        self._detached: dict[Name, Path] = {}
        """The directories of the tables that must be attached."""
        self._marked: set[tuple[Name, Path]] = set()
        self._lock = threading.Lock()
        self._attached = 0

    @property
    def attached(self) -> int:
        """How many times a table was attached again. A read during which this grows may have failed because of it."""
        return self._attached

    def wait(self, seconds: float) -> None:
        """Wait until no repair is running, but no longer than some seconds."""
        if self._lock.acquire(timeout=seconds):
            self._lock.release()

    def forget(self) -> None:
        """Repair the logs that were written since the last call. Raises if a table cannot be attached again."""
        with self._lock:
            self._attach_all()
            began = time.time()
            try:
                for directory in unfinished(self._data, self._since - OVERLAP_SECONDS):
                    self._repair(directory)
            except OSError as exc:
                raise file_error(exc) from exc
            self._since = began

    def forget_in(self, directory: Path, after: int) -> None:
        """Repair the log of the table in a directory, whenever it was written: tokens of blocks after a number."""
        with self._lock:
            self._attach_all()
            try:
                if is_unfinished(directory, after):
                    self._repair(directory, after)
            except OSError as exc:
                raise file_error(exc) from exc

    def mark_damaged(self, table: Name, part: Path) -> None:
        """Record a damaged part, or an intact part whose insert was not logged, for `undo_merges`."""
        with self._lock:
            self._marked.add((table, part))

    def undo_merges(self) -> None:
        """Replace marked parts with their source parts. Raises if a table cannot be attached again."""
        with self._lock:
            self._attach_all()
            for table in sorted({table for table, _ in self._marked}):
                parts = {part for of, part in self._marked if of == table}
                # Done first: if undoing fails, the next check of the parts marks what is still damaged.
                self._marked -= {(table, part) for part in parts}
                self._undo(table, parts)

    def mark_all_damaged(self) -> bool:
        """Mark all damaged parts in the directory that can be undone. Returns whether there are any."""
        parts = damaged_merges(self._data)
        for part in parts:
            table = self._table_of(part.parent)
            if table is not None:
                self.mark_damaged(table, part)
        return bool(parts)

    def _table_of(self, directory: Path) -> Name | None:
        rows = self._engine.query(f"SELECT database, name FROM system.tables WHERE uuid = '{directory.name}'").rows
        return Name(str(rows[0][0]), str(rows[0][1])) if rows else None

    def _undo(self, table: Name, parts: set[Path]) -> None:
        """Remove marked parts, and the results of merges that contain them, while their table is detached."""
        unlogged = {p for p in parts if not is_derived(p.parent, p.name) and p.is_dir()}
        merges = {p.parent / n for p in unlogged for n in derived_parts(p.parent, p.name)} | (parts - unlogged)
        if not all(can_be_undone(m.parent, m.name) for m in merges if m.is_dir()):
            log.error("a merge cannot be undone", table=str(table), parts=[p.name for p in sorted(merges)])
            return
        self._detached[table] = next(iter(parts)).parent
        try:
            self._engine.execute(f"DETACH TABLE {table.sql()} SYNC")
            for part in (*merges, *unlogged):
                if part.is_dir():
                    shutil.rmtree(part)
                    log.warning("a damaged part was removed", table=str(table), part=part.name)
            # The engine refuses to attach a table whose log contains half a line.
            for directory in {part.parent for part in parts}:
                repair_table(directory)
                remove_damaged_sources(directory)
        except OSError as exc:
            raise file_error(exc) from exc
        finally:
            self._attach_all()

    def _repair(self, directory: Path, after: int | None = None) -> None:
        """Repair the log of one table. Waits for the table's running inserts."""
        table = self._table_of(directory)
        if table is None:
            return
        # Recorded first: if anything below fails, the next call attaches the table.
        self._detached[table] = directory
        try:
            # This waits for inserts into the table that are still running.
            self._engine.execute(f"DETACH TABLE {table.sql()} SYNC")
            cut = repair_table(directory, after)
            remove_damaged_sources(directory)
            log.warning("tokens of blocks that were not stored were removed", table=str(table), entries=cut)
        finally:
            self._attach_all()

    def _attach_all(self) -> None:
        """Attach every detached table. Raises the first failure; the next call tries the other tables."""
        for table, directory in sorted(self._detached.items()):
            broken = _intact_but_broken(directory)
            self._attach(table)
            lost = _intact_but_broken(directory) - broken
            if lost:
                # The engine failed to open a file of the part, and a second attempt may succeed.
                self._engine.execute(f"DETACH TABLE {table.sql()} SYNC")
                with suppress(OSError):
                    for name in lost:
                        (directory / "detached" / name).rename(directory / name.removeprefix(_BROKEN))
                self._attach(table)
                log.warning("intact parts were put back", table=str(table), parts=sorted(lost))
            del self._detached[table]
            self._attached += 1

    def _attach(self, table: Name) -> None:
        """Attach a table, unless it is attached."""
        try:
            self._engine.execute(f"ATTACH TABLE IF NOT EXISTS {table.sql()}")
        except RookeryError as exc:
            log.error("a table could not be attached", table=str(table), error=exc)
            raise


def _intact_but_broken(directory: Path) -> set[str]:
    """The intact parts that the engine has detached as broken, and that have no replacement."""
    return {
        d.name
        for d in (directory / "detached").glob(f"{_BROKEN}*")
        if Part.of(name := d.name.removeprefix(_BROKEN)) and not (directory / name).exists() and not why_damaged(d)
    }
