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
from engine.warehouse.handles import CORRECTNESS_SETTINGS, READER_SETTINGS, SHORT_QUERY_SETTINGS, Block, Handle
from engine.warehouse.new_parts import NewParts
from engine.warehouse.parts import why_damaged
from engine.warehouse.pool import Pool
from engine.warehouse.port import Capabilities, Format, Input, Rows, Space, Statement, Stream, Value
from engine.warehouse.render import is_insert, used_bindings, with_quoted_integers, with_settings
from engine.warehouse.stale_tokens import StaleTokens
from engine.warehouse.stream import ResultStream
from engine.warehouse.time_zone import UTC, named_zone, require_zone

log = structlog.get_logger("rookery.warehouse")

_NO_SUCH_PART = 232
_ATTACHES = re.compile(r"ALTER TABLE `([^`]+)`\.`([^`]+)` (?:ATTACH|REPLACE) PART")
"""Statements that bring parts which the deduplication log does not have."""
UNDO_PAUSE_SECONDS = 1.0
"""Seconds until all parts are looked at again after a read has failed on a damaged one."""
MAX_BUFFERED_BYTES = 4 << 20
MAX_BUFFERED_ROWS = 25_000
"""Up to here a result is taken whole, in one call of a millisecond; a larger one is streamed."""

_LARGE_TEXTS = 512
"""Number of statements that are remembered for having large results."""


class EmbeddedWarehouse:
    """chDB in this process. One process per directory, and one directory per process."""

    def __init__(
        self,
        path: Path | None,
        *,
        readers: int = 8,
        writers: int = 4,
        borrow_timeout: float = 5.0,
        database: str,
        zone: str | None = None,
        limits: Mapping[str, int | str] | None = None,
    ) -> None:
        """Open the directory, or a private temporary one. Raises DIRECTORY_BUSY when another process holds it.

        `database` is made and stays empty: it is the readers' default, so that an unbound name does not exist.
        `zone` is the time zone that the settings name. Raises ZONE when the directory is kept in another.
        `limits` are settings that most statements bring: texts that need not spell them take less time to read.
        """
        _leave_private(self)
        self._temporary = Path(tempfile.mkdtemp(prefix="rookery-")) if path is None else None
        self._directory = Directory(path or self._temporary or Path())
        self._database = database
        self._large: LruCache[str, bool] = LruCache(_LARGE_TEXTS)
        self._selects = parser.Selects(self._ask)
        self._pinned: dict[str, int | str] = {}
        self._sound: dict[str, int | str] = {}
        self._standing = {**limits, **_whole_limits(limits)} if limits else {}
        self._zone = ""
        self._writers = Pool(self._writer, Handle.close, size=writers, timeout=borrow_timeout)
        self._readers = Pool(self._reader, Handle.close, size=readers, timeout=borrow_timeout)
        self._anchor: Handle | None = None
        self._parts, self._merges = NewParts(), NewParts(logs=False)
        self._noted: set[Name] = set()
        self._directories: dict[Name, str] = {}
        self._staying: set[Path] = set()
        self._undoing = threading.Lock()
        self._undo_again = 0.0
        self._looking = threading.Lock()
        self._tables = StaleTokens(self._directory.path, self)
        try:
            self._zone = self._settled_zone(zone)
            # The engine ends with its last handle, and with it what is in memory tables; this one is never retired.
            self._anchor = Handle(self._directory.path, self._directory.config)
            self._capabilities = self._prepare(readers)
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
            # Of an empty file of statistics, the engine does not say that it was reading a file.
            if exc.code is not errors.DAMAGED and exc.engine_code != TOO_LITTLE:
                raise
            if not self._undo_damaged():
                raise storage_error(exc) from exc
        with self._writers.lend() as handle:
            return handle.rows(with_settings(sql, settings), used_bindings(sql, bindings))

    def _undo_damaged(self) -> bool:
        """Undo merges that have made damaged parts, after a read has failed on one; whether any was undone."""
        if not self._undoing.acquire(blocking=False):
            return False
        try:
            if time.monotonic() < self._undo_again:
                return False
            found = self._tables.mark_all_damaged()
            self._tables.undo_merges()
            self._undo_again = time.monotonic() + UNDO_PAUSE_SECONDS
            return found
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
            # No insert has brought these parts, so none may be taken out to be repeated.
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
        # The engine's own connection has no way to name its query, but settings show in the list of processes.
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
            with self._looking:
                self._parts.note((d for t in unknown if (d := self._directory_of(t)) is not None), again=again)
                self._noted.update(unknown)

    def damaged_parts(self, tables: Iterable[Name]) -> list[tuple[Name, str, str]]:
        wanted = tuple(tables)
        with self._looking:
            found = self._parts.damaged_parts([(t, d) for t in wanted if (d := self._directory_of(t)) is not None])
            return [one for one in found if not self._must_stay(*one)]

    def _must_stay(self, table: Name, part: str, why: str) -> bool:
        """Whether a damaged part is all that there is of its rows. Inserts go on beside it; the doctor names it."""
        directory = Path(self._directory_of(table) or "")
        if directory / part in self._staying:
            return True
        if not is_derived(directory, part) or can_be_undone(directory, part):
            return False
        log.error("a part that a merge has made is damaged", table=str(table), part=part, why=why)
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
                # A merge has read it already, and what it made has the rows.
                place = Path(directory or "") / part
                if why_damaged(place) is None and place.is_dir():
                    self._tables.mark_damaged(table, place)
                    return True
                self._staying.add(place)
                return False
            return True
        self._tables.mark_damaged(table, Path(directory) / part)
        return False

    def note_damaged_merges(self) -> bool:
        any_found = False
        with self._looking:
            for table, part, why in self._merges.damaged_parts(list(self._directories.items())):
                directory = Path(self._directories[table])
                if is_derived(directory, part) and not self._must_stay(table, part, why):
                    self._tables.mark_damaged(table, directory / part)
                    any_found = True
        return any_found

    def undo_merges(self) -> None:
        self._tables.undo_merges()

    def _directory_of(self, table: Name) -> str | None:
        known = self._directories.get(table)
        if known is None or not Path(known).is_dir():
            found = self.query(
                "SELECT data_paths[1] FROM system.tables WHERE database = {d:String} AND name = {t:String}",
                {"d": table.database, "t": table.name},
            )
            known = str(found.rows[0][0]) if found.rows else None
            if known:
                self._directories[table] = known
        return known or None

    def is_running(self, text: str) -> bool:
        # An error of the embedded engine is raised when the statement has ended.
        return False

    def disk_space(self) -> Space | None:
        try:
            usage = shutil.disk_usage(self._directory.path)
        except OSError as exc:
            raise file_error(exc) from exc
        return Space(str(self._directory.path), usage.free, usage.total)

    def close(self) -> None:
        """Close all handles and let other processes take the directory. Harmless when repeated."""
        _opened.discard(self)
        self._readers.close()
        self._writers.close()
        if self._anchor is not None:
            self._anchor.close()
            self._anchor = None
        self._directory.release()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _settled_zone(self, wanted: str | None) -> str:
        """The zone that the directory is kept in; of an older program's, the host's unless `wanted` names it."""
        directory = self._directory
        found = directory.mark.zone
        if found is None and directory.fresh:
            found = wanted or UTC
            directory.keep(found)
        if found is None:
            found = wanted or self._host_zone()
        require_zone(found, wanted, f"data directory {directory.path}")
        directory.configure(found)
        return found

    def _host_zone(self) -> str:
        self._directory.configure(None)
        handle = Handle(self._directory.path, self._directory.config)
        try:
            return named_zone(str(handle.rows("SELECT serverTimezone()").rows[0][0]))
        finally:
            handle.close()

    def _prepare(self, readers: int) -> Capabilities:
        with self._writers.lend() as handle:
            handle.command(f"CREATE DATABASE IF NOT EXISTS {quote(self._database)}")
            known = {str(row[0]) for row in handle.rows("SELECT name FROM system.settings").rows}
            version = str(handle.rows("SELECT version()").rows[0][0])
            zoned: dict[str, int | str] = {"session_timezone": self._zone}
            self._sound = {name: value for name, value in CORRECTNESS_SETTINGS.items() if name in known} | zoned
            handle.set(self._sound)
        self._pinned = {
            name: value for name, value in {**READER_SETTINGS, **SHORT_QUERY_SETTINGS}.items() if name in known
        } | zoned
        return Capabilities(version=version, embedded=True, readers=readers, lazy_tables=True)

    def _writer(self) -> Handle:
        return self._handle(lambda handle: handle.set(self._sound))

    def _reader(self) -> Handle:
        return self._handle(lambda handle: handle.restrict(self._database, self._pinned, self._standing))

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
            whole = self._whole_again(statement, format)
            if whole is not None:
                yield whole
                return
            self._large.put(statement.sql, True)
        handle = self._readers.borrow()
        try:
            yield from _streamed(handle, statement, format)
        finally:
            # The stream ran on a connection of its own, so this handle is clean whatever happened.
            self._readers.give_back(handle)

    def _whole_again(self, statement: Statement, format: Format) -> bytes | None:
        """The same as `_whole`, and once more if a merge had made a damaged part."""
        try:
            return self._whole(statement, format)
        except EngineError as exc:
            if exc.code is not errors.DAMAGED or not self._undo_damaged():
                raise
        return self._whole(statement, format)

    def _whole(self, statement: Statement, format: Format) -> bytes | None:
        """The complete document, or None when it is larger than what is taken whole."""
        ours = _whole_limits(statement.settings)
        settings = {**statement.settings, **ours, **_named(statement)}
        spelled = {name: value for name, value in settings.items() if self._standing.get(name) != value}
        sql = with_settings(statement.sql, spelled)
        try:
            with self._readers.lend() as handle:
                document = handle.read_output(sql, format.value, used_bindings(sql, statement.bindings))
        except EngineError as exc:
            limit = result_limit_of(exc.detail or "") if exc.engine_code == 396 else None
            if limit is not None and f"max_result_{limit}" in ours:
                return None
            raise
        if format is Format.JSON and not document.startswith(b"{"):
            raise EngineError(errors.ENGINE_INTERNAL, "the engine's answer is not a JSON document")
        return document


def _whole_limits(settings: Mapping[str, int | str]) -> dict[str, int | str]:
    """Our limits for the first try, where they are narrower than the statement's own."""
    ours: dict[str, int | str] = {"result_overflow_mode": "throw"}
    for name, most in (("max_result_bytes", MAX_BUFFERED_BYTES), ("max_result_rows", MAX_BUFFERED_ROWS)):
        theirs = int(settings.get(name, 0))
        if not 0 < theirs <= most:
            ours[name] = most
    return ours


def _named(statement: Statement) -> Mapping[str, str]:
    return {"log_comment": statement.id} if statement.id else {}


def _streamed(handle: Handle, statement: Statement, format: Format) -> Iterator[bytes]:
    """A document put together from the engine's blocks."""
    started = time.monotonic()
    sql = with_settings(statement.sql, {**statement.settings, **_named(statement)})
    parameters = used_bindings(sql, statement.bindings)
    read = {"rows_read": 0, "bytes_read": 0}

    def data(name: str) -> Iterator[bytes]:
        for block in handle.blocks(sql, name, parameters):
            _count(read, block)
            yield block.data

    def statistics() -> dict[str, float]:
        return {"elapsed": round(time.monotonic() - started, 6), **read}

    if format is Format.NDJSON:
        return data("JSONEachRow")
    if format is Format.BARE_CSV:
        return data("CSV")
    if format is Format.PARQUET:
        none = with_settings(f"SELECT * FROM ({statement.sql}\n) LIMIT 0", statement.settings)
        return framing.parquet_document(lambda: handle.read_output(none, "Parquet", parameters), data("Parquet"))
    described = handle.read_output(f"DESCRIBE TABLE ({statement.sql}\n)", "JSONCompact", parameters)
    columns = [(str(row[0]), str(row[1])) for row in orjson.loads(described)["data"]]
    if format is Format.CSV:
        return framing.csv_document(columns, data("CSV"))
    return framing.json_document(columns, data("JSONEachRow"), statistics)


def _count(read: dict[str, int], block: Block) -> None:
    read["rows_read"] += block.read_rows
    read["bytes_read"] += block.read_bytes


_opened: weakref.WeakSet[EmbeddedWarehouse] = weakref.WeakSet()
_private: list[EmbeddedWarehouse] = []
_registry = threading.RLock()


def in_this_process() -> EmbeddedWarehouse:
    """The engine this process has open, or else a private one: for parsing, where a server cannot."""
    with _registry:
        for warehouse in _opened:
            return warehouse
        _private.append(EmbeddedWarehouse(None, readers=2, writers=1, database="rookery_empty"))
        return _private[0]


def _leave_private(newcomer: EmbeddedWarehouse) -> None:
    """Close the private engine: a process has one directory, and a real one goes first."""
    with _registry:
        while _private:
            warehouse = _private.pop()
            if warehouse is not newcomer:
                warehouse.close()
