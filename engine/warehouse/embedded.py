"""The embedded adapter: chDB in this process, through clickhouse-connect."""

from __future__ import annotations

import re
import shutil
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from engine import errors
from engine.schema import Name, literal, quote
from engine.warehouse import parser
from engine.warehouse.directory import Directory
from engine.warehouse.embedded_documents import DocumentReader, buffer_limits
from engine.warehouse.errors import TOO_LITTLE, EngineError, file_error, storage_error
from engine.warehouse.handles import READER_SETTINGS, SHORT_QUERY_SETTINGS, WRITER_SETTINGS, Handle
from engine.warehouse.mutation_wake import MutationWake
from engine.warehouse.part_watch import PartWatch
from engine.warehouse.pool import Pool
from engine.warehouse.port import (
    Capabilities,
    DamagedPart,
    Format,
    Input,
    Rows,
    Space,
    Statement,
    Stream,
    Usage,
    Value,
    WarehouseOptions,
)
from engine.warehouse.render import is_insert, used_bindings, with_settings
from engine.warehouse.stale_tokens import StaleTokens
from engine.warehouse.statement_gate import StatementGate
from engine.warehouse.stream import ResultStream
from engine.warehouse.time_zone import UTC, named_zone, require_zone
from engine.warehouse.unfinished import scratch_directory

_ATTACHES = re.compile(r"ALTER TABLE `([^`]+)`\.`([^`]+)` (?:ATTACH|REPLACE) PART")
"""Statements that add parts that are not in the deduplication log."""
_CREATES = ("CREATE", "ATTACH", "RENAME", "EXCHANGE", "RESTORE")
"""The first words of statements that may create tables."""


class EmbeddedWarehouse:
    """chDB in this process. One process per directory, and one directory per process."""

    def __init__(
        self, path: Path | None, options: WarehouseOptions, *, limits: Mapping[str, int | str] | None = None
    ) -> None:
        """Open a data directory, or a private temporary one if `path` is None.

        `limits` are settings of most statements. Readers set them once, so that statements do not have to repeat
        them. Raises DIRECTORY_BUSY if another process has locked the directory, ZONE if its data has another time
        zone.
        """
        _close_private(self)
        self._scratch = ExitStack()
        self._directory = Directory(path or self._scratch.enter_context(scratch_directory()).path)
        self._database = options.database
        self._reader_settings: dict[str, int | str] = {}
        self._writer_settings: dict[str, int | str] = {"max_memory_usage": options.statement_memory}
        self._reader_defaults = {**limits, **buffer_limits(limits)} if limits else {}
        self._zone = ""
        self._gate = StatementGate()
        self._zone_is_assumed = False
        self._writers = Pool(self._writer, Handle.close, size=options.writers, timeout=options.borrow_timeout)
        self._readers = Pool(self._reader, Handle.close, size=options.readers, timeout=options.borrow_timeout)
        self._anchor: Handle | None = None
        self._mutations = MutationWake(self._on_anchor)
        self._tables = StaleTokens(self._directory.path, self)
        self._watch = PartWatch(self, self._tables)
        self._documents = DocumentReader(self._readers, parser.Selects(self._ask), self._reader_defaults, self._watch)
        try:
            self._zone = self._resolve_zone(options.zone)
            # The engine stops when its last handle is closed, and tables in memory are lost. This handle stays open.
            self._anchor = Handle(self._directory.path, self._directory.config)
            self._capabilities = self._prepare(options.readers)
        except BaseException:
            self.close()
            raise
        _opened.add(self)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def zone(self) -> str:
        return self._zone

    def keep_zone(self) -> None:
        self._directory.keep(self._zone, assumed=self._zone_is_assumed)

    def query(
        self, sql: str, bindings: Mapping[str, Value] | None = None, settings: Mapping[str, int | str] | None = None
    ) -> Rows:
        def run() -> Rows:
            with self._writers.lend() as handle:
                return handle.rows(with_settings(sql, settings), used_bindings(sql, bindings))

        try:
            # If a file with statistics is empty, the engine's message does not mention a file.
            return self._watch.read(run, damage=TOO_LITTLE)
        except EngineError as exc:
            if exc.engine_code != TOO_LITTLE or exc.code is errors.DAMAGED:
                raise
            raise storage_error(exc) from exc

    def execute(
        self, sql: str, bindings: Mapping[str, Value] | None = None, settings: Mapping[str, int | str] | None = None
    ) -> None:
        # Before a handle is borrowed: a query must not wait for the handle of a statement that waits.
        with self._gate.passing(), self._writers.lend() as handle, self._mutations.during(sql):
            if is_insert(sql):
                handle.command(with_settings(sql, settings), used_bindings(sql, bindings))
            else:
                handle.command(sql, used_bindings(sql, bindings), settings)
                if sql.lstrip().startswith(_CREATES):
                    self._watch.note_changes()
        if (attached := _ATTACHES.match(sql)) is not None:
            # These parts do not come from inserts, so they must not be removed in order to repeat an insert.
            self._watch.note([Name(attached[1], attached[2])], again=True)

    def insert(
        self,
        table: str,
        data: bytes | Iterable[bytes],
        format: Input,
        columns: Iterable[str] = (),
        settings: Mapping[str, int | str] | None = None,
    ) -> int:
        with self._gate.passing(), self._writers.lend() as handle:
            return handle.insert(table, data, format.value, columns, settings or {})

    def stream(self, statement: Statement, format: Format) -> Stream:
        return ResultStream(self._documents.read(statement, format))

    def plan(self, statement: Statement) -> Any:
        return self._documents.plan(statement)

    def peak_memory(self, statement: Statement) -> int | None:
        return self._documents.peak_memory(statement)

    def cancel(self, id: str) -> None:
        # A query on the engine's own connection cannot have an id, but the list of processes shows its settings.
        # It changes nothing, so it does not wait at the gate: the query may hold a reader of someone who has left.
        with self._writers.lend() as handle:
            handle.command(f"KILL QUERY WHERE Settings['log_comment'] = {literal(id)} ASYNC")

    def parse(self, sql: str) -> tuple[dict[str, Any], str]:
        return parser.parse(self._ask, sql)

    def format(self, tree: Mapping[str, Any]) -> str:
        return parser.format_tree(self._ask, tree)

    def functions(self) -> frozenset[str]:
        return frozenset(str(row[0]) for row in self.query("SELECT name FROM system.functions").rows)

    def forget_unstored_tokens(self) -> None:
        self._tables.undo_merges()
        self._tables.forget()

    def note_parts(self, tables: Iterable[Name], *, again: bool = False) -> None:
        self._watch.note(tables, again=again)

    def damaged_parts(self, tables: Iterable[Name]) -> list[DamagedPart]:
        return self._watch.damaged_parts(tables)

    def remove_part(self, table: Name, part: str) -> bool:
        return self._watch.remove(table, part)

    def remove_damaged_inserts(self, table: Name, after: int) -> None:
        self._watch.remove_damaged_inserts(table, after)

    def note_damaged_merges(self) -> bool:
        return self._watch.note_damaged_merges()

    def undo_merges(self) -> None:
        self._tables.undo_merges()

    def is_running(self, text: str) -> bool:
        # The embedded engine only raises an error after the statement has ended.
        return False

    def writers(self) -> Usage | None:
        return self._writers.usage()

    def disk_space(self) -> Space | None:
        try:
            usage = shutil.disk_usage(self._directory.path)
        except OSError as exc:
            raise file_error(exc) from exc
        return Space(str(self._directory.path), usage.free, usage.total)

    @property
    def directory(self) -> Path:
        return self._directory.path

    @contextmanager
    def frozen(self) -> Iterator[None]:
        with self._gate.closed():
            yield

    def close(self) -> None:
        """Close all handles and unlock the directory. Harmless when repeated."""
        _opened.discard(self)
        self._readers.close()
        self._writers.close()
        if self._anchor is not None:
            self._anchor.close()
            self._anchor = None
        self._directory.release()
        self._scratch.close()

    def _resolve_zone(self, configured: str | None) -> str:
        """Determine the time zone of the directory's data, and configure the engine with it.

        A new directory gets the configured zone, or UTC. A directory of an older program, which has no recorded zone,
        was written in the host's zone unless the settings say otherwise.
        """
        directory = self._directory
        zone = directory.mark.zone
        if directory.mark.assumed and configured is not None:
            # The host that migrated the directory may have been in another zone than the one that wrote it.
            zone = configured
        if zone is None and directory.fresh:
            zone = configured or UTC
            directory.keep(zone)
        if zone is None:
            zone = configured or self._host_zone()
        self._zone_is_assumed = configured is None and (directory.mark.assumed or directory.mark.zone is None)
        require_zone(zone, configured, f"data directory {directory.path}")
        directory.configure(zone)
        return zone

    def _host_zone(self) -> str:
        """The zone that the engine has without configuration."""
        self._directory.configure(None)
        handle = Handle(self._directory.path, self._directory.config)
        try:
            return named_zone(str(handle.rows("SELECT serverTimezone()").rows[0][0]))
        finally:
            handle.close()

    def _prepare(self, readers: int) -> Capabilities:
        """Create the database, and find out which settings this version of the engine has.

        Returns its capabilities.
        """
        with self._writers.lend() as handle:
            handle.command(f"CREATE DATABASE IF NOT EXISTS {quote(self._database)}")
            # Other versions of the engine may lack some of the settings.
            known = {str(row[0]) for row in handle.rows("SELECT name FROM system.settings").rows}
            version = str(handle.rows("SELECT version()").rows[0][0])
            zoned: dict[str, int | str] = {"session_timezone": self._zone}
            self._writer_settings |= {name: value for name, value in WRITER_SETTINGS.items() if name in known} | zoned
            handle.set(self._writer_settings)
        self._reader_settings = {
            name: value for name, value in {**READER_SETTINGS, **SHORT_QUERY_SETTINGS}.items() if name in known
        } | zoned
        return Capabilities(version=version, embedded=True, readers=readers, lazy_tables=True)

    def _writer(self) -> Handle:
        """A new handle that may change data."""
        return self._handle(lambda handle: handle.set(self._writer_settings))

    def _reader(self) -> Handle:
        """A new handle that can only read."""
        return self._handle(
            lambda handle: handle.restrict(self._database, self._reader_settings, self._reader_defaults)
        )

    def _handle(self, prepare: Callable[[Handle], None]) -> Handle:
        """A new handle, closed again if `prepare` fails on it."""
        handle = Handle(self._directory.path, self._directory.config, self._anchor)
        try:
            prepare(handle)
        except BaseException:
            handle.close()
            raise
        return handle

    def _on_anchor(self, sql: str) -> None:
        """Execute a statement, even while all other handles are lent and the gate is closed."""
        if self._anchor is not None:
            self._anchor.command(sql)

    def _ask(self, sql: str, bindings: Mapping[str, Value]) -> Rows:
        with self._readers.lend() as handle:
            return handle.rows(sql, used_bindings(sql, bindings))


# A process can have only one data directory open at a time, so its engines are registered here.
_opened: weakref.WeakSet[EmbeddedWarehouse] = weakref.WeakSet()
_private: list[EmbeddedWarehouse] = []
_engines_lock = threading.RLock()


def in_this_process() -> EmbeddedWarehouse:
    """The engine that this process has open, or otherwise a private one.

    Used to parse SQL if the ClickHouse server lacks the parser functions.
    """
    with _engines_lock:
        for warehouse in _opened:
            return warehouse
        _private.append(EmbeddedWarehouse(None, WarehouseOptions(database="rookery_empty", readers=2, writers=1)))
        return _private[0]


def _close_private(newcomer: EmbeddedWarehouse) -> None:
    """Close the private engine before `newcomer` opens the process's only data directory."""
    with _engines_lock:
        while _private:
            warehouse = _private.pop()
            if warehouse is not newcomer:
                warehouse.close()
