"""The embedded engine's parts on disk: which are damaged, and how their rows are restored.

The engine does not notice a part whose files were damaged while they were written. A part of an insert is removed, so
that the insert can be repeated. The result of a merge is replaced with its source parts, which the engine keeps for
some time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from engine import errors
from engine.schema import Name, literal
from engine.warehouse.damaged_merges import can_be_undone, is_derived
from engine.warehouse.errors import EngineError, file_error
from engine.warehouse.new_parts import NewParts, broken_inserts, damaged_inserts
from engine.warehouse.parts import why_damaged
from engine.warehouse.port import DamagedPart, Rows, Value
from engine.warehouse.stale_tokens import StaleTokens

log = structlog.get_logger("rookery.warehouse")

UNDO_PAUSE_SECONDS = 1.0
"""Pause after a check of all parts that a failed read has started and that found nothing to undo."""
WAIT_SECONDS = 30.0
"""Longest time for which a failed read waits for the repair that another one has started."""
_NO_SUCH_PART = 232
_NO_SUCH_TABLE = frozenset({60, 218})
"""The engine's error numbers for reads of a table that is detached at that moment."""
_Result = TypeVar("_Result")


class Engine(Protocol):
    """The required methods of the engine that has the directory open."""

    def query(self, sql: str, bindings: Mapping[str, Value] | None = None) -> Rows: ...
    def execute(self, sql: str) -> None: ...


class PartWatch:
    """Finds damaged parts, and removes them or undoes their merges. Thread-safe: several inserts use it at a time."""

    def __init__(self, engine: Engine, tables: StaleTokens) -> None:
        self._engine = engine
        self._tables = tables
        # Two records, because an insert and the watch over merges check the same directories independently.
        self._parts, self._merges = NewParts(), NewParts(logs=False)
        self._noted: set[Name] = set()
        self._directories: dict[Name, str] = {}
        # Tables that do not exist, or whose engine stores nothing, until tables are created.
        self._without_parts: set[Name] = set()
        # Damaged parts that have the only copy of their rows. They are reported once and then ignored. The set only
        # grows, one atomic addition at a time.
        self._staying: set[Path] = set()
        # Held while all parts are checked after a failed read. `_next_undo` is on the monotonic clock.
        self._undoing = threading.Lock()
        self._next_undo = 0.0
        # Protects `_parts`, `_merges` and `_noted`, which threads of several inserts use.
        self._inspecting = threading.Lock()

    def note(self, tables: Iterable[Name], *, again: bool = False) -> None:
        """Record the present parts of tables as checked. Tables with a record are skipped unless `again` is true."""
        unknown = [t for t in tables if again or t not in self._noted]
        if unknown:
            with self._inspecting:
                self._parts.note((d for t in unknown if (d := self._directory_of(t)) is not None), again=again)
                self._noted.update(unknown)

    def note_changes(self) -> None:
        """Call this after a statement that may have created tables."""
        # A new set: a thread that has asked the engine before the table existed adds it to the old one.
        self._without_parts = set()

    def damaged_parts(self, tables: Iterable[Name]) -> list[DamagedPart]:
        """The damaged parts that were added to tables since the last call, without those that must stay."""
        names = tuple(tables)
        with self._inspecting:
            directories = [(t, d) for t in names if (d := self._directory_of(t)) is not None]
            try:
                damaged = self._parts.damaged_parts(directories)
            except OSError as exc:
                raise file_error(exc) from exc
            return [part for part in damaged if not self._must_stay(part)]

    def remove(self, table: Name, part: str) -> bool:
        """Remove a damaged part, or mark it for `StaleTokens.undo_merges` if a merge made it.

        Returns whether the insert that made it must be repeated.
        """
        directory = self._directory_of(table)
        if directory is not None and is_derived(Path(directory), part):
            # Its source parts have the rows, so the insert does not have to be repeated.
            self._tables.mark_damaged(table, Path(directory) / part)
            return False
        try:
            self._engine.execute(f"ALTER TABLE {table.sql()} DROP PART {literal(part)}")
        except EngineError as exc:
            if exc.engine_code != _NO_SUCH_PART:
                raise
            return self._mark_merged(table, Path(directory or "") / part)
        return True

    def remove_damaged_inserts(self, table: Name, after: int) -> None:
        """Remove damaged and unlogged parts of inserts after a block, and tokens without a part."""
        directory = self._directory_of(table)
        if directory is None:
            return
        path = Path(directory)
        try:
            damaged, detached = damaged_inserts(path, after), broken_inserts(path, after)
        except OSError as exc:
            raise file_error(exc) from exc
        for part in damaged:
            log.error("a damaged part of an interrupted insert is removed", table=str(table), part=part)
            self.remove(table, part)
        for part in detached:
            # The engine has not loaded it, and its rows are about to be inserted again.
            clause = f"DROP DETACHED PART {literal(part)} SETTINGS allow_drop_detached = 1"
            self._engine.execute(f"ALTER TABLE {table.sql()} {clause}")
        self._tables.forget_in(path, after)

    def _mark_merged(self, table: Name, part: Path) -> bool:
        """Handle a part that a merge has already replaced with a result that has the same rows."""
        if why_damaged(part) is None and part.is_dir():
            # Its files are intact, but the log lacks its insert: undo the merge and repeat the insert.
            self._tables.mark_damaged(table, part)
            return True
        self._staying.add(part)
        return False

    def note_damaged_merges(self) -> bool:
        """Mark new damaged results of merges, for `StaleTokens.undo_merges`. Returns whether there are any."""
        any_damaged = False
        with self._inspecting:
            for damaged in self._merges.damaged_parts(list(self._directories.items())):
                directory = Path(self._directories[damaged.table])
                if is_derived(directory, damaged.part) and not self._must_stay(damaged):
                    self._tables.mark_damaged(damaged.table, directory / damaged.part)
                    any_damaged = True
        return any_damaged

    def read(self, run: Callable[[], _Result], damage: int | None = None) -> _Result:
        """Run a read. Runs it again if it failed on the damaged result of a merge, which is undone first, or if
        its table was detached for a repair.

        `damage` is a further error number of the engine that means damage for this read.
        """
        attached = self._tables.attached
        try:
            return run()
        except EngineError as exc:
            damaged = exc.code is errors.DAMAGED or exc.engine_code == damage
            if not damaged and exc.engine_code not in _NO_SUCH_TABLE:
                raise
            if not self._is_repaired(attached, undo=damaged):
                raise
        return run()

    def _is_repaired(self, attached: int, *, undo: bool) -> bool:
        """Whether a table was repaired since the count of attached tables was read.

        With `undo`, merges with damaged results are undone now.
        """
        # Reads that fail at the same time wait here for the first one, whose repair is theirs too.
        if not self._undoing.acquire(timeout=WAIT_SECONDS):
            return False
        try:
            self._tables.wait(WAIT_SECONDS)
            if undo and self._tables.attached == attached and time.monotonic() >= self._next_undo:
                any_damaged = self._tables.mark_all_damaged()
                self._tables.undo_merges()
                if not any_damaged:
                    self._next_undo = time.monotonic() + UNDO_PAUSE_SECONDS
            return self._tables.attached != attached
        finally:
            self._undoing.release()

    def _must_stay(self, damaged: DamagedPart) -> bool:
        """Whether a damaged part has the only copy of its rows. Inserts continue, and `rookery doctor` reports it."""
        table, part, reason = damaged
        directory = Path(self._directory_of(table) or "")
        if directory / part in self._staying:
            return True
        if not is_derived(directory, part) or can_be_undone(directory, part):
            return False
        log.error("the result of a merge is damaged and cannot be undone", table=str(table), part=part, why=reason)
        self._staying.add(directory / part)
        return True

    def _directory_of(self, table: Name) -> str | None:
        """The directory of a table's parts; None if the table does not exist.

        Queries the engine only for tables that are new, or that were dropped and created again.
        """
        without_parts = self._without_parts
        if table in without_parts:
            return None
        known = self._directories.get(table)
        if known is None or not Path(known).is_dir():
            result = self._engine.query(
                "SELECT data_paths[1] FROM system.tables WHERE database = {d:String} AND name = {t:String}",
                {"d": table.database, "t": table.name},
            )
            known = str(result.rows[0][0]) if result.rows else None
            if known:
                self._directories[table] = known
            else:
                without_parts.add(table)
        return known or None
