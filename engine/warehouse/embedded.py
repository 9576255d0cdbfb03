"""The embedded adapter: chDB in this process, through clickhouse-connect."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import structlog

from engine import errors
from engine.cache import LruCache
from engine.schema import Name, literal, quote
from engine.warehouse import framing, parser
from engine.warehouse.damaged_merges import can_be_undone, is_derived
from engine.warehouse.directory import Directory
from engine.warehouse.errors import TOO_LITTLE, EngineError, file_error, result_limit_of, storage_error
from engine.warehouse.handles import CORRECTNESS_SETTINGS, READER_SETTINGS, SHORT_QUERY_SETTINGS, Handle
from engine.warehouse.new_parts import NewParts
from engine.warehouse.parts import why_damaged
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
    Value,
    WarehouseOptions,
)
from engine.warehouse.render import is_insert, used_bindings, with_quoted_integers, with_settings
from engine.warehouse.stale_tokens import StaleTokens
from engine.warehouse.stream import ResultStream
from engine.warehouse.time_zone import UTC, named_zone, require_zone

log = structlog.get_logger("rookery.warehouse")

_NO_SUCH_PART = 232
_ATTACHES = re.compile(r"ALTER TABLE `([^`]+)`\.`([^`]+)` (?:ATTACH|REPLACE) PART")
"""Statements that add parts which are not in the deduplication log."""
UNDO_PAUSE_SECONDS = 1.0
"""Minimum pause between two checks of all parts, which follow reads that fail on a damaged part."""
MAX_BUFFERED_BYTES = 4 << 20
MAX_BUFFERED_ROWS = 25_000
"""Largest result that is read in a single call, which takes about a millisecond. Larger results are streamed."""

_LARGE_TEXTS = 512
"""Number of statements that are remembered for having large results."""


class EmbeddedWarehouse:
    """chDB in this process. One process per directory, and one directory per process."""

    def __init__(
        self, path: Path | None, options: WarehouseOptions, *, limits: Mapping[str, int | str] | None = None
    ) -> None:
        """Open a data directory, or a private temporary one if `path` is None.

        `limits` are settings that most statements have. Readers set them once, so that statements need not repeat
        them. Raises DIRECTORY_BUSY if another process has locked the directory, ZONE if its data has another time
        zone.
        """
        _close_private(self)
        self._temporary = Path(tempfile.mkdtemp(prefix="rookery-")) if path is None else None
        self._directory = Directory(path or self._temporary or Path())
        self._database = options.database
        self._large: LruCache[str, bool] = LruCache(_LARGE_TEXTS)
        self._selects = parser.Selects(self._ask)
        self._reader_settings: dict[str, int | str] = {}
        self._writer_settings: dict[str, int | str] = {}
        self._reader_defaults = {**limits, **_buffer_limits(limits)} if limits else {}
        self._zone = ""
        self._writers = Pool(self._writer, Handle.close, size=options.writers, timeout=options.borrow_timeout)
        self._readers = Pool(self._reader, Handle.close, size=options.readers, timeout=options.borrow_timeout)
        self._anchor: Handle | None = None
        self._parts, self._merges = NewParts(), NewParts(logs=False)
        self._noted: set[Name] = set()
        self._directories: dict[Name, str] = {}
        # Damaged parts that have the only copy of their rows. They are reported once and then ignored.
        self._staying: set[Path] = set()
        self._undoing = threading.Lock()
        self._next_undo = 0.0
        # Protects `_parts`, `_merges`, `_noted` and `_staying`, which threads of several inserts use.
        self._inspecting = threading.Lock()
        self._tables = StaleTokens(self._directory.path, self)
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
        self._directory.keep(self._zone)

    def query(
        self, sql: str, bindings: Mapping[str, Value] | None = None, settings: Mapping[str, int | str] | None = None
    ) -> Rows:
        try:
            with self._writers.lend() as handle:
                return handle.rows(with_settings(sql, settings), used_bindings(sql, bindings))
        except EngineError as exc:
            # If a file of statistics is empty, the engine's message does not mention a file.
            if exc.code is not errors.DAMAGED and exc.engine_code != TOO_LITTLE:
                raise
            if not self._undo_damaged():
                raise storage_error(exc) from exc
        with self._writers.lend() as handle:
            return handle.rows(with_settings(sql, settings), used_bindings(sql, bindings))

    def _undo_damaged(self) -> bool:
        """Undo merges with damaged results after a read has failed. Returns whether there were any.

        Only one thread does this at a time; the others return at once and report their error.
        """
        if not self._undoing.acquire(blocking=False):
            return False
        try:
            if time.monotonic() < self._next_undo:
                return False
            any_damaged = self._tables.mark_all_damaged()
            self._tables.undo_merges()
            self._next_undo = time.monotonic() + UNDO_PAUSE_SECONDS
            return any_damaged
        finally:
            self._undoing.release()

    def execute(
        self, sql: str, bindings: Mapping[str, Value] | None = None, settings: Mapping[str, int | str] | None = None
    ) -> None:
        with self._writers.lend() as handle:
            if is_insert(sql):
                handle.command(with_settings(sql, settings), used_bindings(sql, bindings))
            else:
                handle.command(sql, used_bindings(sql, bindings), settings)
        if (attached := _ATTACHES.match(sql)) is not None:
            # No insert made these parts, so they must not be removed in order to repeat one.
            self.note_parts([Name(attached[1], attached[2])], again=True)

    def insert(
        self,
        table: str,
        data: bytes | Iterable[bytes],
        format: Input,
        columns: Iterable[str] = (),
        settings: Mapping[str, int | str] | None = None,
    ) -> int:
        with self._writers.lend() as handle:
            return handle.insert(table, data, format.value, columns, settings or {})

    def stream(self, statement: Statement, format: Format) -> Stream:
        return ResultStream(self._document(statement, format))

    def cancel(self, id: str) -> None:
        # A query on the engine's own connection cannot have an id, but the list of processes shows its settings.
        self.execute(f"KILL QUERY WHERE Settings['log_comment'] = {literal(id)} ASYNC")

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
        unknown = [t for t in tables if again or t not in self._noted]
        if unknown:
            with self._inspecting:
                self._parts.note((d for t in unknown if (d := self._directory_of(t)) is not None), again=again)
                self._noted.update(unknown)

    def damaged_parts(self, tables: Iterable[Name]) -> list[DamagedPart]:
        names = tuple(tables)
        with self._inspecting:
            directories = [(t, d) for t in names if (d := self._directory_of(t)) is not None]
            try:
                damaged = self._parts.damaged_parts(directories)
            except OSError as exc:
                raise file_error(exc) from exc
            return [part for part in damaged if not self._must_stay(part)]

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

    def remove_part(self, table: Name, part: str) -> bool:
        directory = self._directory_of(table)
        if directory is None or not is_derived(Path(directory), part):
            try:
                self.execute(f"ALTER TABLE {table.sql()} DROP PART {literal(part)}")
            except EngineError as exc:
                if exc.engine_code != _NO_SUCH_PART:
                    raise
                # A merge has already replaced the part by a result with the same rows.
                path = Path(directory or "") / part
                if why_damaged(path) is None and path.is_dir():
                    # Its files are intact, but the log lacks its insert: undo the merge and repeat the insert.
                    self._tables.mark_damaged(table, path)
                    return True
                self._staying.add(path)
                return False
            return True
        self._tables.mark_damaged(table, Path(directory) / part)
        return False

    def note_damaged_merges(self) -> bool:
        any_damaged = False
        with self._inspecting:
            for damaged in self._merges.damaged_parts(list(self._directories.items())):
                directory = Path(self._directories[damaged.table])
                if is_derived(directory, damaged.part) and not self._must_stay(damaged):
                    self._tables.mark_damaged(damaged.table, directory / damaged.part)
                    any_damaged = True
        return any_damaged

    def undo_merges(self) -> None:
        self._tables.undo_merges()

    def _directory_of(self, table: Name) -> str | None:
        known = self._directories.get(table)
        if known is None or not Path(known).is_dir():
            result = self.query(
                "SELECT data_paths[1] FROM system.tables WHERE database = {d:String} AND name = {t:String}",
                {"d": table.database, "t": table.name},
            )
            known = str(result.rows[0][0]) if result.rows else None
            if known:
                self._directories[table] = known
        return known or None

    def is_running(self, text: str) -> bool:
        # The embedded engine only raises an error after the statement has ended.
        return False

    def disk_space(self) -> Space | None:
        try:
            usage = shutil.disk_usage(self._directory.path)
        except OSError as exc:
            raise file_error(exc) from exc
        return Space(str(self._directory.path), usage.free, usage.total)

    def close(self) -> None:
        """Close all handles and unlock the directory. Harmless when repeated."""
        _opened.discard(self)
        self._readers.close()
        self._writers.close()
        if self._anchor is not None:
            self._anchor.close()
            self._anchor = None
        self._directory.release()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _resolve_zone(self, configured: str | None) -> str:
        """Determine the time zone of the directory's data, and configure the engine with it.

        A new directory gets the configured zone, or UTC. A directory of an older program, which has no recorded zone,
        was written in the host's zone unless the settings say otherwise.
        """
        directory = self._directory
        zone = directory.mark.zone
        if zone is None and directory.fresh:
            zone = configured or UTC
            directory.keep(zone)
        if zone is None:
            zone = configured or self._host_zone()
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
        with self._writers.lend() as handle:
            handle.command(f"CREATE DATABASE IF NOT EXISTS {quote(self._database)}")
            # Other versions of the engine may lack some of the settings.
            known = {str(row[0]) for row in handle.rows("SELECT name FROM system.settings").rows}
            version = str(handle.rows("SELECT version()").rows[0][0])
            zoned: dict[str, int | str] = {"session_timezone": self._zone}
            self._writer_settings = {
                name: value for name, value in CORRECTNESS_SETTINGS.items() if name in known
            } | zoned
            handle.set(self._writer_settings)
        self._reader_settings = {
            name: value for name, value in {**READER_SETTINGS, **SHORT_QUERY_SETTINGS}.items() if name in known
        } | zoned
        return Capabilities(version=version, embedded=True, readers=readers, lazy_tables=True)

    def _writer(self) -> Handle:
        return self._handle(lambda handle: handle.set(self._writer_settings))

    def _reader(self) -> Handle:
        return self._handle(
            lambda handle: handle.restrict(self._database, self._reader_settings, self._reader_defaults)
        )

    def _handle(self, prepare: Callable[[Handle], None]) -> Handle:
        handle = Handle(self._directory.path, self._directory.config)
        try:
            prepare(handle)
        except BaseException:
            handle.close()
            raise
        return handle

    def _ask(self, sql: str, bindings: Mapping[str, Value]) -> Rows:
        with self._readers.lend() as handle:
            return handle.rows(sql, used_bindings(sql, bindings))

    def _document(self, statement: Statement, format: Format) -> Generator[bytes, None, None]:
        self._selects.check(statement.sql)
        statement = with_quoted_integers(statement, format)
        if statement.sql not in self._large:
            document = self._buffered_with_retry(statement, format)
            if document is not None:
                yield document
                return
            self._large.put(statement.sql, True)
        handle = self._readers.borrow()
        try:
            yield from _streamed(handle, statement, format)
        finally:
            # The stream has its own connection, so this handle is clean even after an error.
            self._readers.give_back(handle)

    def _buffered_with_retry(self, statement: Statement, format: Format) -> bytes | None:
        """Like `_buffered`, but retries once after undoing merges if the query read a damaged part."""
        try:
            return self._buffered(statement, format)
        except EngineError as exc:
            if exc.code is not errors.DAMAGED or not self._undo_damaged():
                raise
        return self._buffered(statement, format)

    def _buffered(self, statement: Statement, format: Format) -> bytes | None:
        """Read the complete document in one call, or return None if it exceeds the limits for that."""
        ours = _buffer_limits(statement.settings)
        settings = {**statement.settings, **ours, **_query_name(statement)}
        # Parsing a long SETTINGS clause takes time, so settings that the handle already has are omitted.
        added = {name: value for name, value in settings.items() if self._reader_defaults.get(name) != value}
        sql = with_settings(statement.sql, added)
        try:
            with self._readers.lend() as handle:
                document = handle.read_output(sql, format.value, used_bindings(sql, statement.bindings))
        except EngineError as exc:
            limit = result_limit_of(exc.detail or "") if exc.engine_code == 396 else None
            if limit is not None and f"max_result_{limit}" in ours:
                return None
            raise
        if format is Format.JSON and not document.startswith(b"{"):
            raise EngineError(errors.ENGINE_INTERNAL, "the engine's result is not a JSON document")
        return document


def _buffer_limits(settings: Mapping[str, int | str]) -> dict[str, int | str]:
    """The limits for a buffered result that are stricter than the statement's own limits."""
    limits: dict[str, int | str] = {"result_overflow_mode": "throw"}
    for name, maximum in (("max_result_bytes", MAX_BUFFERED_BYTES), ("max_result_rows", MAX_BUFFERED_ROWS)):
        own = int(settings.get(name, 0))
        if not 0 < own <= maximum:
            limits[name] = maximum
    return limits


def _query_name(statement: Statement) -> Mapping[str, str]:
    return {"log_comment": statement.id} if statement.id else {}


def _streamed(handle: Handle, statement: Statement, format: Format) -> Iterator[bytes]:
    """Stream a document, framed here around the engine's blocks of rows."""
    started = time.monotonic()
    sql = with_settings(statement.sql, {**statement.settings, **_query_name(statement)})
    parameters = used_bindings(sql, statement.bindings)
    totals = {"rows_read": 0, "bytes_read": 0}

    def data(name: str) -> Iterator[bytes]:
        for block in handle.blocks(sql, name, parameters):
            totals["rows_read"] += block.read_rows
            totals["bytes_read"] += block.read_bytes
            yield block.data

    def statistics() -> dict[str, float]:
        return {"elapsed": round(time.monotonic() - started, 6), **totals}

    if format is Format.NDJSON:
        return data("JSONEachRow")
    if format is Format.BARE_CSV:
        return data("CSV")
    if format is Format.PARQUET:
        empty = with_settings(f"SELECT * FROM ({statement.sql}\n) LIMIT 0", statement.settings)
        return framing.parquet_document(lambda: handle.read_output(empty, "Parquet", parameters), data("Parquet"))
    described = handle.read_output(f"DESCRIBE TABLE ({statement.sql}\n)", "JSONCompact", parameters)
    columns = [(str(row[0]), str(row[1])) for row in orjson.loads(described)["data"]]
    if format is Format.CSV:
        return framing.csv_document(columns, data("CSV"))
    return framing.json_document(columns, data("JSONEachRow"), statistics)


# A process can have only one data directory open at a time, so its engines are registered here.
_opened: weakref.WeakSet[EmbeddedWarehouse] = weakref.WeakSet()
_private: list[EmbeddedWarehouse] = []
_engines_lock = threading.RLock()


def in_this_process() -> EmbeddedWarehouse:
    """The engine that this process has open, or else a private one.

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
