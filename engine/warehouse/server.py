"""The server adapter: ClickHouse over HTTP, through clickhouse-connect.

One client writes and another reads, each with its own credentials. They have no sessions, so requests can run
concurrently. The number of concurrent queries is limited, and a query that waits too long for its turn fails with
BUSY.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import orjson
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.httputil import get_pool_manager

from engine import errors
from engine.observe.requests import note_read
from engine.schema import Name, literal, quote
from engine.warehouse import embedded, parser
from engine.warehouse.error_trailer import ErrorTrailer
from engine.warehouse.errors import EngineError, translate
from engine.warehouse.handles import READER_SETTINGS, WRITER_SETTINGS
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
from engine.warehouse.render import (
    analyzed,
    explained,
    is_insert,
    peak_memory,
    used_bindings,
    with_quoted_integers,
    with_settings,
)
from engine.warehouse.server_client import Credentials, open_client, translated
from engine.warehouse.statement_gate import StatementGate
from engine.warehouse.stream import ResultStream
from engine.warehouse.time_zone import named_zone

_READ_BYTES = 1 << 18
_SYNTAX_ERROR = 62
_READER_HINT = (
    "the reader needs a profile with readonly = 2 (not 1), so that each query can set its limits; "
    "see deploy/clickhouse/users.xml"
)


class ServerWarehouse:
    """A ClickHouse server, connected to over HTTP."""

    def __init__(
        self, url: str, options: WarehouseOptions, writer: Credentials, reader: Credentials | None = None
    ) -> None:
        """Connect as the writer and as the reader. Without a reader, the writer's user also runs queries, read-only.

        The time zone of the data is always the server's own, because tables get it when they are loaded. Raises
        UNREACHABLE, AUTHENTICATION, ENGINE if the reader lacks permissions, ZONE if the settings name another zone.
        """
        self._borrow_timeout = options.borrow_timeout
        self._query_slots = threading.BoundedSemaphore(options.readers)
        self._closed = False
        self._gate = StatementGate()
        self._selects = parser.Selects(self._ask)
        self._pool = get_pool_manager(maxsize=options.readers + 4, block=False)
        try:
            with translated():
                self._writer = open_client(url, writer, {}, self._pool)
                self._writer.command(f"CREATE DATABASE IF NOT EXISTS {quote(options.database)}")
            known = {str(row[0]) for row in self.query("SELECT name FROM system.settings").rows}
            for name, value in WRITER_SETTINGS.items():
                if name in known:
                    self._writer.set_client_setting(name, value)
            if options.statement_memory:
                self._writer.set_client_setting("max_memory_usage", options.statement_memory)
            self._zone = self._server_zone(options.zone)
            self._writer.set_client_setting("session_timezone", self._zone)
            self._reader = self._open_reader(url, reader or writer, options.database, known)
            with translated():
                version = str(self._writer.command("SELECT version()"))
                self._parses = self._can_parse()
        except BaseException:
            self._pool.clear()
            raise
        self._capabilities = Capabilities(version=version, embedded=False, readers=options.readers)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def zone(self) -> str:
        return self._zone

    def keep_zone(self) -> None:
        """Do nothing: the zone is part of the server's configuration. The registry records it."""

    def query(
        self, sql: str, bindings: Mapping[str, Value] | None = None, settings: Mapping[str, int | str] | None = None
    ) -> Rows:
        return self._rows(self._writer, with_settings(sql, settings), bindings)

    def execute(
        self, sql: str, bindings: Mapping[str, Value] | None = None, settings: Mapping[str, int | str] | None = None
    ) -> None:
        self._check_open()
        with self._gate.passing(), translated():
            if is_insert(sql):
                self._writer.command(with_settings(sql, settings), parameters=used_bindings(sql, bindings))
            else:
                self._writer.command(sql, parameters=used_bindings(sql, bindings), settings=dict(settings or {}))

    def insert(
        self,
        table: str,
        data: bytes | Iterable[bytes],
        format: Input,
        columns: Iterable[str] = (),
        settings: Mapping[str, int | str] | None = None,
    ) -> int:
        self._check_open()
        # If a connection breaks, the client repeats the request unless its body is an iterator. An insert must not be
        # repeated here, because its rows could be stored twice.
        body: Any = iter([data] if isinstance(data, bytes) else data)
        with self._gate.passing(), translated():
            summary = self._writer.raw_insert(
                table,
                column_names=list(columns) or None,
                insert_block=body,
                settings=dict(settings or {}),
                fmt=format.value,
            )
        # The number of written rows would include those of views.
        return int(summary.summary.get("read_rows", 0) or summary.written_rows)

    def stream(self, statement: Statement, format: Format) -> Stream:
        return ResultStream(self._document(statement, format))

    def plan(self, statement: Statement) -> Any:
        return orjson.loads("\n".join(self._explained(explained(statement), statement)))

    def peak_memory(self, statement: Statement) -> int | None:
        try:
            return peak_memory(self._explained(analyzed(statement), statement))
        except EngineError as exc:
            # Older servers do not know EXPLAIN ANALYZE.
            if exc.engine_code == _SYNTAX_ERROR:
                return None
            raise

    def _explained(self, sql: str, statement: Statement) -> list[str]:
        """The lines of an EXPLAIN statement."""
        self._check_open()
        if self._parses:
            self._selects.check(statement.sql, statement.text_owner)
        with self._query_slot(), translated():
            output = self._reader.raw_query(
                sql,
                parameters=used_bindings(sql, statement.bindings),
                settings={"query_id": statement.id} if statement.id else None,
                fmt="JSONCompact",
            )
        return [row[0] for row in orjson.loads(output)["data"]]

    def cancel(self, id: str) -> None:
        # These are the reader's own queries, so it may end them without a grant, although it can only read.
        self._check_open()
        with translated():
            self._reader.command("KILL QUERY WHERE query_id = {id:String} ASYNC", parameters={"id": id})

    def parse(self, sql: str) -> tuple[dict[str, Any], str]:
        return parser.parse(self._ask, sql) if self._parses else embedded.in_this_process().parse(sql)

    def format(self, tree: Mapping[str, Any]) -> str:
        return parser.format_tree(self._ask, tree) if self._parses else embedded.in_this_process().format(tree)

    def functions(self) -> frozenset[str]:
        return frozenset(str(row[0]) for row in self.query("SELECT name FROM system.functions").rows)

    def forget_unstored_tokens(self) -> None:
        """Do nothing: the logs are files on the server. `rookery doctor --deep` compares rows instead."""

    def note_parts(self, tables: Iterable[Name], *, again: bool = False) -> None:
        """Do nothing: the parts are files on the server."""

    def damaged_parts(self, tables: Iterable[Name]) -> list[DamagedPart]:
        return []

    def remove_part(self, table: Name, part: str) -> bool:
        self.execute(f"ALTER TABLE {table.sql()} DROP PART {literal(part)}")
        return True

    def remove_damaged_inserts(self, table: Name, after: int) -> None:
        """Do nothing: the parts and the logs are files of the server."""

    def note_damaged_merges(self) -> bool:
        return False

    def undo_merges(self) -> None:
        """Do nothing: merges are never recorded, because the parts are files on the server."""

    def is_running(self, text: str) -> bool:
        result = self.query(
            "SELECT count() FROM system.processes WHERE position(query, {text:String}) > 0 "
            "AND query_id != queryID() AND is_initial_query",
            {"text": text},
        )
        return bool(result.rows[0][0])

    def writers(self) -> Usage | None:
        return None

    def disk_space(self) -> Space | None:
        disks = self.query(
            # Tables are on the disks of a policy. A disk for backups may be full.
            "SELECT path, unreserved_space, total_space FROM system.disks WHERE total_space > 0 "
            "AND name IN (SELECT arrayJoin(disks) FROM system.storage_policies) "
            "ORDER BY unreserved_space / total_space LIMIT 1"
        )
        return Space(str(disks.rows[0][0]), int(disks.rows[0][1]), int(disks.rows[0][2])) if disks.rows else None

    @property
    def directory(self) -> None:
        return None

    def frozen(self) -> AbstractContextManager[None]:
        """Hold the statements of this process. Other programs may change the data."""
        return self._gate.closed()

    def close(self) -> None:
        """Close the connections. Harmless when repeated."""
        if not self._closed:
            self._closed = True
            self._writer.close()
            self._reader.close()
            self._pool.clear()

    def _server_zone(self, configured: str | None) -> str:
        """The server's time zone. Raises ZONE if the settings name another one."""
        zone = named_zone(str(self.query("SELECT serverTimezone()").rows[0][0]))
        if configured not in (None, zone):
            raise EngineError(
                errors.ZONE,
                f"the time zone of the ClickHouse server is {zone}, but ROOKERY_TIMEZONE is {configured}",
                hint=f"set ROOKERY_TIMEZONE={zone}, or set <timezone>{configured}</timezone> on the server",
            )
        return zone

    def _open_reader(self, url: str, reader: Credentials, database: str, known: set[str]) -> Client:
        """Connect as the reader, and check that its user can run queries and set their limits."""
        candidates = {
            **READER_SETTINGS,
            "session_timezone": self._zone,
            "http_write_exception_in_output_format": 0,
            "readonly": 2,
        }
        # Older servers lack some of the settings, and would refuse queries with them.
        settings = {name: value for name, value in candidates.items() if name in known}
        try:
            client = open_client(url, reader, settings, self._pool)
            client.database = database
            client.query("SELECT 1 SETTINGS max_execution_time = 5, max_memory_usage = 1000000000")
        except Exception as exc:
            error = translate(exc)
            if error.code not in (errors.ENGINE, errors.BAD_PARAMETER):
                raise error from exc
            raise EngineError(
                error.code,
                f"user `{reader.user}` cannot be the reader: {error.message}",
                engine_code=error.engine_code,
                hint=_READER_HINT,
                detail=error.detail,
            ) from exc
        return client

    def _can_parse(self) -> bool:
        count = self._reader.command(
            "SELECT count() FROM system.functions WHERE name IN {names:Array(String)}",
            parameters={"names": list(parser.PARSER_FUNCTIONS)},
        )
        return count == len(parser.PARSER_FUNCTIONS)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(errors.CLOSED, "the warehouse is closed")

    def _rows(self, client: Client, sql: str, bindings: Mapping[str, Value] | None) -> Rows:
        """Run a statement on a client and read its whole result."""
        self._check_open()
        with translated():
            result = client.query(sql, parameters=used_bindings(sql, bindings))
            return Rows(
                tuple(result.column_names),
                tuple(kind.name for kind in result.column_types),
                [tuple(row) for row in result.result_rows],
            )

    def _ask(self, sql: str, bindings: Mapping[str, Value]) -> Rows:
        """Run one of the parser's queries. It takes a slot like any other query."""
        with self._query_slot():
            return self._rows(self._reader, sql, bindings)

    @contextmanager
    def _query_slot(self) -> Iterator[None]:
        """Wait for one of the slots for concurrent queries. Raises BUSY if none becomes free in time."""
        if not self._query_slots.acquire(timeout=self._borrow_timeout):
            raise EngineError(
                errors.BUSY,
                f"no database connection became free within {self._borrow_timeout:g} seconds",
                hint="try again, or raise ROOKERY_READERS",
                headers={"Retry-After": "1"},
            )
        try:
            yield
        finally:
            self._query_slots.release()

    def _document(self, statement: Statement, format: Format) -> Generator[bytes, None, None]:
        """Yield the document of a result, without the error that the server may append to it."""
        self._check_open()
        if self._parses:
            self._selects.check(statement.sql, statement.text_owner)
        statement = with_quoted_integers(statement, format)
        sql = with_settings(statement.sql, statement.settings)
        with self._query_slot():
            response: Any = self._reader.raw_stream(
                sql,
                parameters=used_bindings(sql, statement.bindings),
                settings={"query_id": statement.id} if statement.id else None,
                fmt=format.value,
            )
            try:
                tail = ErrorTrailer(format, response.headers.get("X-ClickHouse-Exception-Tag"))
                _note_summary(response.headers.get("X-ClickHouse-Summary"))
                while chunk := response.read(_READ_BYTES):
                    yield from tail.push(chunk)
                yield from tail.finish()
            finally:
                # Closing a response before its end also cancels the query.
                response.close()


def _note_summary(header: str | None) -> None:
    """Note what the server had read for a query when it sent the headers of its response."""
    summary = orjson.loads(header) if header else {}
    note_read(*(int(summary.get(name, 0)) for name in ("result_rows", "read_rows", "read_bytes")))
