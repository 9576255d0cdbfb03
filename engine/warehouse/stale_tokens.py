"""Tables of the embedded engine that remember a token whose rows they do not have.

When the rename of a part fails, the table's log and its memory both keep the token, and a repeated INSERT is taken
for a duplicate. The memory is only read anew when the table is attached, so such a table is detached, its log is
repaired, and it is attached again. So are tables of which a merge has made a damaged part, without that part.
"""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Protocol

import structlog

from engine.errors import RookeryError
from engine.schema import Name
from engine.warehouse.damaged_merges import can_be_undone, damaged_merges, derived_parts, is_derived
from engine.warehouse.dedup_log_repair import repair_table, unfinished
from engine.warehouse.errors import file_error
from engine.warehouse.port import Rows

log = structlog.get_logger("rookery.warehouse")

OVERLAP_SECONDS = 2.0
"""Seconds by which logs are looked at again, since file systems are not exact about times."""


class Engine(Protocol):
    """What is needed of the engine that has the directory open."""

    def query(self, sql: str) -> Rows: ...
    def execute(self, sql: str) -> None: ...


class StaleTokens:
    """Finds and repairs such tables of one directory."""

    def __init__(self, data: Path, engine: Engine) -> None:
        self._data = data
        self._engine = engine
        self._since = time.time()
        self._detached: set[Name] = set()
        self._made: set[tuple[Name, Path]] = set()
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Repair every table whose log was written to since the last look. Raises when one cannot be attached."""
        with self._lock:
            self._attach_all()
            began = time.time()
            try:
                for directory in unfinished(self._data, self._since - OVERLAP_SECONDS):
                    self._repair(directory)
            except OSError as exc:
                raise file_error(exc) from exc
            self._since = began

    def mark_damaged(self, table: Name, part: Path) -> None:
        """Remember a damaged part that a merge has made, or has read, until it is undone."""
        with self._lock:
            self._made.add((table, part))

    def undo_merges(self) -> None:
        """Put back what damaged parts were made from. Raises when a table cannot be attached."""
        with self._lock:
            self._attach_all()
            for table in sorted({table for table, _ in self._made}):
                parts = {part for of, part in self._made if of == table}
                self._made -= {(table, part) for part in parts}
                self._undo(table, parts)

    def mark_all_damaged(self) -> bool:
        """Distrust every damaged part that can be undone; whether there is any."""
        found = damaged_merges(self._data)
        for part in found:
            table = self._table_of(part.parent)
            if table is not None:
                self.mark_damaged(table, part)
        return bool(found)

    def _table_of(self, directory: Path) -> Name | None:
        found = self._engine.query(f"SELECT database, name FROM system.tables WHERE uuid = '{directory.name}'").rows
        return Name(str(found[0][0]), str(found[0][1])) if found else None

    def _undo(self, table: Name, parts: set[Path]) -> None:
        unlogged = {p for p in parts if not is_derived(p.parent, p.name) and p.is_dir()}
        merges = {p.parent / n for p in unlogged for n in derived_parts(p.parent, p.name)} | (parts - unlogged)
        if not all(can_be_undone(m.parent, m.name) for m in merges if m.is_dir()):
            log.error("a merge cannot be undone", table=str(table), parts=[p.name for p in sorted(merges)])
            return
        self._detached.add(table)
        try:
            self._engine.execute(f"DETACH TABLE {table.sql()} SYNC")
            for part in (*merges, *unlogged):
                if part.is_dir():
                    shutil.rmtree(part)
                    log.warning("a part is removed with its table detached", table=str(table), part=part.name)
            # The engine refuses a log in which a write has failed half-way.
            for directory in {part.parent for part in parts}:
                repair_table(directory)
        except OSError as exc:
            raise file_error(exc) from exc
        finally:
            self._attach_all()

    def _repair(self, directory: Path) -> None:
        table = self._table_of(directory)
        if table is None:
            return
        # From here on the table is missing until it is attached, whatever fails in between.
        self._detached.add(table)
        try:
            # Waits for whoever still inserts into the table.
            self._engine.execute(f"DETACH TABLE {table.sql()} SYNC")
            cut = repair_table(directory)
            log.warning("a table forgets a block that it failed to store", table=str(table), entries=cut)
        finally:
            self._attach_all()

    def _attach_all(self) -> None:
        for table in sorted(self._detached):
            try:
                self._engine.execute(f"ATTACH TABLE IF NOT EXISTS {table.sql()}")
            except RookeryError as exc:
                log.error("a table could not be attached", table=str(table), error=exc)
                raise
            self._detached.discard(table)
