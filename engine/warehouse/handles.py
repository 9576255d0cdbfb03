"""A handle on the embedded engine: a clickhouse-connect client whose errors are translated."""

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
from engine.warehouse.render import settings_list

CORRECTNESS_SETTINGS: Mapping[str, int | str] = {
    # A query that fails midway marks granules in this cache as not matching, and later queries then miss their rows.
    "use_query_condition_cache": 0,
    # With a skip index on x, `a OR (x, y) IN (…)` loses rows.
    "use_skip_indexes_for_disjunctions": 0,
    # Strings in a JSON object stay strings even if they look like times: to the engine, "1" is a day of this year,
    # and every month has a 31st.
    "input_format_try_infer_dates": 0,
    "input_format_try_infer_datetimes": 0,
    # Otherwise the engine puts a list in a JSON object into the type of an earlier row's list at the same path if it
    # can, even that of another sender: beside `[1.5]` it rounds large integers, and beside `[[1]]` it turns `[null]`
    # into `[[]]`. Without subcolumns, each list keeps its own type. Merges create the subcolumns.
    "max_dynamic_subcolumns_in_json_type_parsing": 0,
}
"""Settings that disable features of the engine that produce wrong results, for readers and writers."""

WRITER_SETTINGS: Mapping[str, int | str] = {
    **CORRECTNESS_SETTINGS,
    # The conditions for rows name every column of a datasource, and values in lists, maps and tuples several times.
    "max_query_size": 8 << 20,
    "max_ast_elements": 1_000_000,
    "max_expanded_ast_elements": 5_000_000,
    # Commands that copy or recompute a table insert its partitions together.
    "max_partitions_per_insert_block": 0,
}
"""Settings of all writers."""

READER_SETTINGS: Mapping[str, int | str] = {
    **CORRECTNESS_SETTINGS,
    # Otherwise the engine could move a condition of the query in front of the tenant filter.
    "optimize_prewhere_after_pushdown": 0,
    "apply_prewhere_after_final": 1,
    # Results of one tenant must never be served to another.
    "use_query_cache": 0,
    # A dictionary contains the values of all tenants, so it must not be part of a result.
    "output_format_arrow_low_cardinality_as_dictionary": 0,
    "output_format_json_quote_64bit_integers": 0,
    # Stored strings can contain any bytes, but a JSON document must be valid UTF-8.
    "output_format_json_validate_utf8": 1,
    # clickhouse-connect sets these two on its own connections; the engine's own connections need them as well.
    "date_time_input_format": "best_effort",
    "cast_string_to_dynamic_use_inference": 1,
    # Time limits do not apply to the planning of a query. The verifier already limits what is planned; these limits
    # are for cases that it does not cover.
    "max_expanded_ast_elements": 100_000,
    "query_plan_max_optimizations_to_apply": 4_000,
    "query_plan_optimize_join_order_max_searched_plans": 1_000,
}
"""Settings of all readers, which are set before a handle becomes read-only."""

SHORT_QUERY_SETTINGS: Mapping[str, int | str] = {
    # Starting threads takes longer than formatting a short result.
    "output_format_parallel_formatting": 0,
    # Statements already list the columns that they use, so the engine's search for unused columns finds none.
    "query_plan_remove_unused_columns": 0,
}
"""Settings that make short queries on the embedded engine faster without changing results."""

_CLIENT_FACTS = (
    "server_version",
    "server_tz",
    "server_settings",
    "protocol_version",
    "_dst_safe",
    "_apply_server_tz",
)
"""Attributes in which a client of clickhouse-connect stores what it has asked the engine."""

_CLIENT_SETTINGS = ("date_time_input_format", "cast_string_to_dynamic_use_inference")
"""Settings that clickhouse-connect sets on its own connections."""

# The blocks of a Parquet document are compressed once, when they are merged.
_UNCOMPRESSED_PARQUET = "SET output_format_parquet_compression_method = 'none'"


class Handle:
    """A client with its own session, used by one thread at a time.

    After an error it may still contain output of the failed query, so it must be closed and not used again.
    """

    def __init__(self, path: Path, config: Path, first: Handle | None = None) -> None:
        """Connect, and start the engine if this is the first handle. Raises DIRECTORY_BUSY if that fails.

        A `first` handle on the same engine spares this one the question for the engine's settings.
        """
        self._path = path
        self._restriction: tuple[str, ...] = ()
        self._reading: Any = None
        try:
            options: dict[str, Any] = {"path": str(path), "chdb_options": {"config-file": str(config)}}
            self._client: Client = (
                first._client_class(**options)
                if first
                else clickhouse_connect.get_client(interface="chdb", **options)
            )
            self._client_class: type[Client] = first._client_class if first else _further_client(self._client)
        except Exception as exc:
            if "Invalid time zone" in str(exc):
                message = "the engine does not know the time zone that the settings, or the data directory, name"
                hint = "ROOKERY_TIMEZONE takes a name such as UTC or Europe/Berlin"
                raise EngineError(errors.SETTING, message, hint=hint, detail=str(exc)) from exc
            if engine_code(exc) is not None and "EmbeddedServer" not in str(exc):
                raise translate(exc) from exc
            raise busy(path, "another process, or another engine in this process", str(exc)) from exc

    def set(self, settings: Mapping[str, int | str]) -> None:
        """Set settings for the lifetime of the handle."""
        if settings:
            self.command(f"SET {settings_list(settings)}")

    def restrict(
        self, database: str, settings: Mapping[str, int | str], standing: Mapping[str, int | str] | None = None
    ) -> None:
        """Make the handle a reader with this default database and these settings. It is read-only from then on.

        `standing` settings only apply to `read_output`.
        """
        # Mode 2, unlike 1, allows the limits in the SETTINGS clauses of statements.
        self._restriction = (f"USE {quote(database)}", f"SET {settings_list({**settings, 'readonly': 2})}")
        for statement in self._restriction:
            self.command(statement)
        self._reading = chdb.connect(str(self._path))
        for statement in self._restriction:
            self._reading.query(statement)
        if standing:
            self._reading.query(f"SET {settings_list(standing)}")

    def rows(self, sql: str, parameters: dict[str, Any] | None = None) -> Rows:
        """Run a query and return all rows."""
        try:
            result = self._client.query(sql, parameters=parameters)
            names, types = tuple(result.column_names), tuple(kind.name for kind in result.column_types)
            return Rows(names, types, [tuple(row) for row in result.result_rows])
        except Exception as exc:
            raise translate(exc) from exc

    def command(
        self,
        sql: str,
        parameters: dict[str, Any] | None = None,
        settings: Mapping[str, int | str] | None = None,
    ) -> None:
        """Run a statement without a result."""
        try:
            self._client.command(sql, parameters=parameters, settings=dict(settings or {}))
        except Exception as exc:
            raise translate(exc) from exc

    def read_output(self, sql: str, format: str, parameters: dict[str, Any] | None) -> Block:
        """Run a query and return its complete output in a format.

        A reader calls the engine directly, because the client parses every statement several times, which takes too
        long for short queries.
        """
        try:
            if self._reading is None:
                return Block(self._client.raw_query(sql, parameters=parameters, fmt=format), 0, 0, 0)
            text, values = self._bind(sql, parameters)
            return _block(self._reading.query(text, format, params=values))
        except Exception as exc:
            raise translate(exc) from exc

    def _bind(self, sql: str, parameters: dict[str, Any] | None) -> tuple[str, dict[str, str]]:
        """Format a statement's values as strings, which is the form that the engine itself accepts."""
        text, values = bind_query(sql, parameters, self._client.server_tz)
        # `bind_query` only returns bytes if a parameter is bytes.
        query = text if isinstance(text, str) else text.decode()
        return query, {name.removeprefix("param_"): value for name, value in values.items()}

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
        """Stream a query's output, one document per engine block, over a separate connection.

        The connection is closed when the iterator is. The client would hold formats that it cannot concatenate in
        memory, so this calls the engine directly.
        """
        try:
            query, values = self._bind(sql, parameters)
            with closing(chdb.connect(str(self._path))) as connection:
                for statement in (*self._restriction, _UNCOMPRESSED_PARQUET):
                    connection.query(statement)
                with closing(connection.send_query(query, format, params=values)) as stream:
                    # No variable keeps the engine's copy of a block until the client wants the next.
                    yield from map(_block, stream)
        except Exception as exc:
            raise translate(exc) from exc

    def close(self) -> None:
        """Close the handle. Raises ENGINE_INTERNAL if that fails."""
        try:
            if self._reading is not None:
                self._reading.close()
            self._client.close()
        except Exception as exc:
            raise EngineError(
                errors.ENGINE_INTERNAL, "a database handle could not be closed", detail=str(exc)
            ) from exc


def _further_client(first: Client) -> type[Client]:
    """The class of further clients of an engine.

    A client reads all settings of the engine, about 1,800, when it is created. That takes 12 ms, and a handle is
    replaced after every failed query.
    """
    kind: Any = type(first)

    class FurtherClient(kind):  # type: ignore[misc]
        """A client that copies what the first one has asked."""

        def _init_common_settings(self, *args: Any) -> None:
            known = {name: getattr(first, name) for name in _CLIENT_FACTS if hasattr(first, name)}
            if len(known) < len(_CLIENT_FACTS):
                # Another version of the library keeps them under other names.
                super()._init_common_settings(*args)
                return
            self.__dict__.update(known)
            for name in _CLIENT_SETTINGS:
                if (value := first.get_client_setting(name)) is not None:
                    self.set_client_setting(name, value)

    return FurtherClient


class Block:
    """A block of a result, with its number of rows, and the number of rows and bytes that the engine read for it."""

    __slots__ = ("data", "read_bytes", "read_rows", "rows")

    def __init__(self, data: bytes, rows: int, read_rows: int, read_bytes: int) -> None:
        self.data = data
        self.rows = rows
        self.read_rows = read_rows
        self.read_bytes = read_bytes


def _block(result: Any) -> Block:
    return Block(result.bytes() or b"", result.rows_read(), result.storage_rows_read(), result.storage_bytes_read())
