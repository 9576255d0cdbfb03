"""Results of the embedded engine as documents: small ones are read in one call, larger ones are streamed."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from engine import errors
from engine.cache import LruCache, size_of
from engine.observe.requests import note_read
from engine.warehouse import framing
from engine.warehouse.errors import EngineError, result_limit_of
from engine.warehouse.handles import Block, Handle
from engine.warehouse.parser import Selects
from engine.warehouse.part_watch import PartWatch
from engine.warehouse.pool import Pool
from engine.warehouse.port import Format, Statement
from engine.warehouse.render import (
    analyzed,
    explained,
    peak_memory,
    used_bindings,
    with_quoted_integers,
    with_settings,
)

MAX_BUFFERED_BYTES = 4 << 20
MAX_BUFFERED_ROWS = 25_000
"""Largest result that is read in a single call, which takes about a millisecond. Larger results are streamed."""
_LARGE_TEXTS = 512
"""Maximum number of statements that are remembered because their results are large."""
_TOO_MANY_ROWS_OR_BYTES = 396


class DocumentReader:
    """Runs statements on the readers' handles. Threads share it."""

    def __init__(
        self,
        readers: Pool[Handle],
        selects: Selects,
        defaults: Mapping[str, int | str],
        watch: PartWatch,
    ) -> None:
        """`defaults` are settings that all readers already have. `watch` repeats reads that failed on a damaged
        merge.
        """
        self._readers = readers
        self._selects = selects
        self._defaults = defaults
        self._watch = watch
        self._large: LruCache[tuple[str, Hashable], bool] = LruCache(_LARGE_TEXTS, weigh=size_of)

    def read(self, statement: Statement, format: Format) -> Generator[bytes, None, None]:
        """Yield the document of a statement's result. Raises EngineError, possibly after a part of the document.

        The first attempt is a single call. If the result is too large for that, the statement runs again as a stream,
        on a handle that stays borrowed until the reader has consumed it.
        """
        self._selects.check(statement.sql, statement.text_owner)
        statement = with_quoted_integers(statement, format)
        # Per owner: the form of a document depends on this, and must not show how large the results of others are.
        key = (statement.sql, statement.owner)
        if key not in self._large:
            document = self._watch.read(partial(self._buffered, statement, format))
            if document is not None:
                yield document
                return
            self._large.put(key, True)
        handle = self._readers.borrow()
        try:
            yield from _streamed(handle, statement, format)
        finally:
            # The stream has its own connection, so this handle is clean even after an error.
            self._readers.give_back(handle)

    def plan(self, statement: Statement) -> Any:
        """The engine's plan of a statement, as the JSON value of `EXPLAIN`."""
        return orjson.loads("\n".join(self._explained(explained, statement)))

    def peak_memory(self, statement: Statement) -> int | None:
        """The bytes that a run of a statement needs at most."""
        return peak_memory(self._explained(analyzed, statement))

    def _explained(self, text: Callable[[Statement], str], statement: Statement) -> list[str]:
        """The lines of an EXPLAIN statement."""
        self._selects.check(statement.sql, statement.text_owner)
        sql = text(replace(statement, settings={**statement.settings, **_query_name(statement)}))
        output = self._watch.read(partial(self._run, sql, "JSONCompact", statement))
        return [row[0] for row in orjson.loads(output.data)["data"]]

    def _run(self, sql: str, format: str, statement: Statement) -> Block:
        """Run SQL with the bindings of a statement, and return the complete output."""
        with self._readers.lend() as handle:
            return handle.read_output(sql, format, used_bindings(sql, statement.bindings))

    def _buffered(self, statement: Statement, format: Format) -> bytes | None:
        """Read the complete document in one call, or return None if it exceeds the limits for that."""
        ours = buffer_limits(statement.settings)
        settings = {**statement.settings, **ours, **_query_name(statement)}
        # Parsing a long SETTINGS clause takes time, so settings that the handle already has are omitted.
        added = {name: value for name, value in settings.items() if self._defaults.get(name) != value}
        sql = with_settings(statement.sql, added)
        try:
            output = self._run(sql, format.value, statement)
        except EngineError as exc:
            limit = result_limit_of(exc.detail or "") if exc.engine_code == _TOO_MANY_ROWS_OR_BYTES else None
            if limit is not None and f"max_result_{limit}" in ours:
                return None
            raise
        if format is Format.JSON and not output.data.startswith(b"{"):
            raise EngineError(errors.ENGINE_INTERNAL, "the engine's result is not a JSON document")
        note_read(output.rows, output.read_rows, output.read_bytes)
        return output.data


def buffer_limits(settings: Mapping[str, int | str]) -> dict[str, int | str]:
    """The limits for a buffered result that are stricter than the statement's own limits."""
    limits: dict[str, int | str] = {"result_overflow_mode": "throw"}
    for name, maximum in (("max_result_bytes", MAX_BUFFERED_BYTES), ("max_result_rows", MAX_BUFFERED_ROWS)):
        own = int(settings.get(name, 0))
        if not 0 < own <= maximum:
            limits[name] = maximum
    return limits


def _query_name(statement: Statement) -> Mapping[str, str]:
    """The setting by which `EmbeddedWarehouse.cancel` finds a running statement."""
    return {"log_comment": statement.id} if statement.id else {}


def _streamed(handle: Handle, statement: Statement, format: Format) -> Iterator[bytes]:
    """Stream a document, framed here around the engine's blocks of rows."""
    started = time.monotonic()
    settings = {**statement.settings, **_query_name(statement)}
    sql = with_settings(statement.sql, settings)
    parameters = used_bindings(sql, statement.bindings)
    totals = {"rows_read": 0, "bytes_read": 0}

    def counted(block: Block) -> bytes:
        totals["rows_read"] += block.read_rows
        totals["bytes_read"] += block.read_bytes
        note_read(block.rows, block.read_rows, block.read_bytes)
        return block.data

    def data(name: str) -> Iterator[bytes]:
        # No variable keeps a block, which may be large, until the client wants the next.
        yield from map(counted, handle.blocks(sql, name, parameters))

    def statistics() -> dict[str, float]:
        return {"elapsed": round(time.monotonic() - started, 6), **totals}

    if format is Format.NDJSON:
        return data("JSONEachRow")
    if format is Format.BARE_CSV:
        return data("CSV")
    if format is Format.PARQUET:
        empty = with_settings(f"SELECT * FROM ({statement.sql}\n) LIMIT 0", settings)
        return framing.parquet_document(
            lambda: handle.read_output(empty, "Parquet", parameters).data, data("Parquet")
        )
    # It may evaluate scalar subqueries. Its own rows are the columns, which the limits of the result do not count.
    limits = {name: value for name, value in settings.items() if not name.startswith("max_result_")}
    describe = with_settings(f"DESCRIBE TABLE ({statement.sql}\n)", limits)
    described = handle.read_output(describe, "JSONCompact", parameters).data
    columns = [(str(row[0]), str(row[1])) for row in orjson.loads(described)["data"]]
    if format is Format.CSV:
        return framing.csv_document(columns, data("CSV"))
    return framing.json_document(columns, data("JSONEachRow"), statistics)
