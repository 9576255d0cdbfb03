"""One handle on the embedded engine: a clickhouse-connect client, with errors translated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import chdb
import clickhouse_connect
from clickhouse_connect.driver.binding import bind_query
from clickhouse_connect.driver.client import Client

from engine import errors
from engine.schema import quote
from engine.warehouse.directory import busy
from engine.warehouse.errors import EngineError, engine_code, translate
from engine.warehouse.port import Rows
from engine.warehouse.render import is_select, settings_list

CORRECTNESS_SETTINGS: Mapping[str, int | str] = {
    # A query that fails on its way leaves rows in this cache as if they did not match, and they are missing after it.
    "use_query_condition_cache": 0,
    # `a OR (x, y) IN (…)` loses rows where x has a skip index.
    "use_skip_indexes_for_disjunctions": 0,
}
"""Features of the engine that give wrong answers, off for readers and writers alike."""

READER_SETTINGS: Mapping[str, int | str] = {
    **CORRECTNESS_SETTINGS,
    # A filter moved into PREWHERE would run before the tenant's own.
    "optimize_prewhere_after_pushdown": 0,
    "apply_prewhere_after_final": 1,
    # Answers of one tenant are not kept for another.
    "use_query_cache": 0,
    # A whole dictionary holds the values of all tenants.
    "output_format_arrow_low_cardinality_as_dictionary": 0,
    "output_format_json_quote_64bit_integers": 0,
    # Stored bytes may be no text; a JSON document must be.
    "output_format_json_validate_utf8": 1,
    # The client sets these two on its own connections; here they hold on all.
    "date_time_input_format": "best_effort",
    "cast_string_to_dynamic_use_inference": 1,
    # No limit of time ends the planning of a query. What is planned is bounded before it gets here; this is for what
    # was not foreseen.
    "max_expanded_ast_elements": 100_000,
    "query_plan_max_optimizations_to_apply": 4_000,
    "query_plan_optimize_join_order_max_searched_plans": 1_000,
}
"""What every reader runs under; set before the handle becomes read-only."""

SHORT_QUERY_SETTINGS: Mapping[str, int | str] = {
    # Writing a short result with threads of its own takes longer than the result.
    "output_format_parallel_formatting": 0,
    # Statements list the columns they use, so that a search for others takes time and finds none.
    "query_plan_remove_unused_columns": 0,
}
"""What makes short queries of the embedded engine cheaper and changes no answer."""


# Blocks of a Parquet document are packed once, when it is put together.
_UNPACKED = "SET output_format_parquet_compression_method = 'none'"


class Handle:
    """A client with a session of its own. After any error it may hold output of the failed query: retire it."""

    def __init__(self, path: Path, config: Path) -> None:
        """Connect, starting the engine if this is the first handle. Raises DIRECTORY_BUSY when that fails."""
        self._path = path
        self._restriction: tuple[str, ...] = ()
        self._reading: Any = None
        try:
            self._client: Client = clickhouse_connect.get_client(
                interface="chdb", path=str(path), chdb_options={"config-file": str(config)}
            )
        except Exception as exc:
            if "Invalid time zone" in str(exc):
                message = "the engine does not know the time zone that the settings, or the data directory, name"
                hint = "ROOKERY_TIMEZONE takes a name such as UTC or Europe/Berlin"
                raise EngineError(errors.SETTING, message, hint=hint, detail=str(exc)) from exc
            if engine_code(exc) is not None and "EmbeddedServer" not in str(exc):
                raise translate(exc) from exc
            raise busy(path, "another process or another engine in this one", str(exc)) from exc

    def set(self, settings: Mapping[str, int | str]) -> None:
        """Settings for the life of the handle."""
        if settings:
            self.command(f"SET {settings_list(settings)}")

    def restrict(
        self, database: str, settings: Mapping[str, int | str], standing: Mapping[str, int | str] | None = None
    ) -> None:
        """Make the handle a reader: its default database, pinned settings, and then read-only for good.

        `standing` settings hold for `whole` only.
        """
        self._restriction = (f"USE {quote(database)}", f"SET {settings_list({**settings, 'readonly': 2})}")
        for statement in self._restriction:
            self.command(statement)
        self._reading = chdb.connect(str(self._path))
        for statement in self._restriction:
            self._reading.query(statement)
        if standing:
            self._reading.query(f"SET {settings_list(standing)}")

    def rows(self, sql: str, parameters: dict[str, Any] | None = None) -> Rows:
        try:
            result = self._client.query(sql, parameters=parameters)
            names, types = tuple(result.column_names), tuple(kind.name for kind in result.column_types)
            if not names and is_select(sql):
                # The engine says nothing at all about an empty result.
                described = self._client.query(f"DESCRIBE TABLE ({sql}\n)", parameters=parameters).result_rows
                names, types = tuple(row[0] for row in described), tuple(row[1] for row in described)
            return Rows(names, types, [tuple(row) for row in result.result_rows])
        except Exception as exc:
            raise translate(exc) from exc

    def command(
        self,
        sql: str,
        parameters: dict[str, Any] | None = None,
        settings: Mapping[str, int | str] | None = None,
    ) -> None:
        try:
            self._client.command(sql, parameters=parameters, settings=dict(settings or {}))
        except Exception as exc:
            raise translate(exc) from exc

    def read_output(self, sql: str, format: str, parameters: dict[str, Any] | None) -> bytes:
        """The complete output of a query.

        A reader asks the engine itself: the client looks through every text more than once, and short calls feel it.
        """
        try:
            if self._reading is None:
                return self._client.raw_query(sql, parameters=parameters, fmt=format)
            text, named = self._bound(sql, parameters)
            return self._reading.query(text, format, params=named).bytes() or b""
        except Exception as exc:
            raise translate(exc) from exc

    def _bound(self, sql: str, parameters: dict[str, Any] | None) -> tuple[str, dict[str, str]]:
        """A text and its values as the engine itself takes them."""
        text, texts = bind_query(sql, parameters, self._client.server_tz)
        # No parameter is bytes, so the text stays text.
        query = text if isinstance(text, str) else text.decode()
        return query, {name.removeprefix("param_"): value for name, value in texts.items()}

    def insert(
        self,
        table: str,
        data: bytes | Iterable[bytes],
        format: str,
        columns: Iterable[str],
        settings: Mapping[str, int | str],
    ) -> int:
        """Insert encoded rows and return how many were read."""
        block: Any = data if isinstance(data, bytes) else iter(data)
        try:
            summary = self._client.raw_insert(
                table, column_names=list(columns) or None, insert_block=block, settings=dict(settings), fmt=format
            )
        except Exception as exc:
            raise translate(exc) from exc
        return int(summary.written_rows)

    def blocks(self, sql: str, format: str, parameters: dict[str, Any] | None) -> Iterator[Block]:
        """A query's output, one document per engine block, over a connection that lives as long as the iterator.

        The client materializes what it cannot concatenate, so the engine's own connection is asked.
        """
        try:
            query, named = self._bound(sql, parameters)
            with closing(chdb.connect(str(self._path))) as connection:
                for statement in (*self._restriction, _UNPACKED):
                    connection.query(statement)
                with closing(connection.send_query(query, format, params=named)) as stream:
                    for block in stream:
                        yield Block(block.bytes(), block.storage_rows_read(), block.storage_bytes_read())
        except Exception as exc:
            raise translate(exc) from exc

    def close(self) -> None:
        """Close the client; whatever it says then is of no use to anyone."""
        try:
            if self._reading is not None:
                self._reading.close()
            self._client.close()
        except Exception as exc:
            raise EngineError(
                errors.ENGINE_INTERNAL, "a database handle could not be closed", detail=str(exc)
            ) from exc


class Block:
    """One block of a streamed result, and what the engine read for it."""

    __slots__ = ("data", "read_bytes", "read_rows")

    def __init__(self, data: bytes, read_rows: int, read_bytes: int) -> None:
        self.data = data
        self.read_rows = read_rows
        self.read_bytes = read_bytes
