"""The interface to the database. It is small and synchronous, and does not depend on pipes or tenants.

Two adapters implement it: `embedded` (chDB in this process) and `server` (ClickHouse over HTTP). The same tests in
`tests/warehouse` run against both.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from engine.schema import Name

Value = str | int | float | bool | None | date | datetime | Decimal | list["Value"]
"""What can be bound to a `{name:Type}` placeholder."""

MAX_PARTITIONS = 100
"""Partitions of a table that the rows of one INSERT may belong to. Each is a block with a token, and tables of nests
remember the tokens of 128 blocks.
"""

SINGLE_BLOCK_SETTINGS: Mapping[str, int] = {
    "use_strict_insert_block_limits": 1,
    "max_insert_threads": 1,
    "min_insert_block_size_rows": 1_000_000_000,
    "min_insert_block_size_bytes": 0,
    "max_insert_block_size": 1_000_000_000,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "max_partitions_per_insert_block": MAX_PARTITIONS,
}
"""Settings that make an INSERT exactly one block, so that its deduplication token identifies all its rows."""


class Format(StrEnum):
    """Output formats of a stream, with their ClickHouse names."""

    JSON = "JSON"
    CSV = "CSVWithNames"
    BARE_CSV = "CSV"
    NDJSON = "JSONEachRow"
    PARQUET = "Parquet"


class Input(StrEnum):
    """Input formats of an insert, with their ClickHouse names."""

    NDJSON = "JSONEachRow"
    CSV = "CSVWithNames"
    PARQUET = "Parquet"


@dataclass(frozen=True, slots=True)
class Statement:
    """One SELECT, ready to run on a reader handle."""

    sql: str
    """The text. It never contains values from a request, only placeholders `{name:Type}`."""
    bindings: Mapping[str, Value] = field(default_factory=dict)
    """The values of the placeholders."""
    settings: Mapping[str, int | str] = field(default_factory=dict)
    """Settings that are appended to the text as a SETTINGS clause."""
    tag: str = ""
    """Names the query in logs."""
    id: str = ""
    """Identifies the query for `cancel`."""
    quoted: bool = False
    """Whether JSON documents contain 64-bit and larger integers as strings."""
    owner: Hashable = None
    """For whom it runs. What is remembered of its result is only used for the same owner."""
    is_sent: bool = False
    """Whether the owner sent the text, which then contains the owner's values."""

    @property
    def text_owner(self) -> Hashable:
        """Who shares what is remembered of the text; None for a text of the workspace's files."""
        return self.owner if self.is_sent else None


def limit_settings(*, seconds: float, memory: int, total_memory: int, rows: int) -> dict[str, int | str]:
    """The settings that limit a query.

    `memory` is for the query and `total_memory` for all queries of the user, both in bytes. `rows` limits the result.
    """
    return {
        "max_execution_time": str(seconds),
        "timeout_overflow_mode": "throw",
        "max_memory_usage": memory,
        "max_memory_usage_for_user": total_memory,
        "max_result_rows": rows,
        "result_overflow_mode": "throw",
        "function_range_max_elements_in_block": 10_000_000,
    }


@dataclass(frozen=True, slots=True)
class Rows:
    """A small result in memory."""

    names: tuple[str, ...]
    """The names of the columns. The embedded engine does not return them for a result without rows."""
    types: tuple[str, ...]
    """The ClickHouse types of the columns, if there are names."""
    rows: list[tuple[Any, ...]]
    """Python values, one tuple per row."""

    def dicts(self) -> list[dict[str, Any]]:
        """The rows as dictionaries by column name."""
        return [dict(zip(self.names, row, strict=True)) for row in self.rows]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the connected database can do."""

    version: str
    """The engine's own version."""
    embedded: bool
    """Whether the engine runs in this process, so that its files are on this machine."""
    readers: int
    """Number of queries that can run at once."""
    lazy_tables: bool = False
    """Whether the engine loads a nest's tables only when they are first used."""


@dataclass(frozen=True, slots=True)
class Space:
    """The state of a disk."""

    path: str
    """A directory on the disk."""
    free: int
    """Bytes that this process can still write."""
    total: int
    """Size of the disk in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarehouseOptions:
    """Options of both adapters."""

    database: str
    """The default database of readers. It is created and stays empty, so undefined names in a query do not exist."""
    readers: int = 8
    """Number of queries that can run at once."""
    writers: int = 4
    """Number of handles for inserts and DDL. A server has no limit."""
    borrow_timeout: float = 5.0
    """How long a query waits for a handle, in seconds."""
    statement_memory: int = 0
    """Maximum memory of a writer's statement without a limit of its own, in bytes; 0 for the engine's default."""
    zone: str | None = None
    """The time zone from the settings, if they name one."""


class DamagedPart(NamedTuple):
    """A part whose files are damaged, or that is missing from its table's deduplication log."""

    table: Name
    part: str
    reason: str


class Stream(Protocol):
    """The output of a running query: the bytes of one well-formed document.

    It must be closed; closing it twice is harmless. `next()` raises the query's errors, as soon as the engine reports
    them.
    """

    def __iter__(self) -> Iterator[bytes]: ...
    def __next__(self) -> bytes: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Usage:
    """How busy a set of database handles is."""

    size: int
    in_use: int
    waiting: int
    """Callers that wait for a handle."""


class Warehouse(Protocol):
    """A ClickHouse database, embedded or on a server. All methods can be called from any thread.

    Errors of the database are raised as `EngineError`, whose `detail` is the engine's own message and whose
    `engine_code` is the engine's error number, or None.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def zone(self) -> str:
        """The time zone in which statements, views and column defaults are evaluated."""
        ...

    def keep_zone(self) -> None:
        """Store the zone with the data, if the database can store it."""
        ...

    def query(
        self, sql: str, bindings: Mapping[str, Value] | None = None, settings: Mapping[str, int | str] | None = None
    ) -> Rows:
        """Run a trusted SELECT on a writer handle and return all rows."""
        ...

    def execute(
        self, sql: str, bindings: Mapping[str, Value] | None = None, settings: Mapping[str, int | str] | None = None
    ) -> None:
        """Run a trusted statement that returns no rows: DDL, or INSERT … SELECT."""
        ...

    def insert(
        self,
        table: str,
        data: bytes | Iterable[bytes],
        format: Input,
        columns: Iterable[str] = (),
        settings: Mapping[str, int | str] | None = None,
    ) -> int:
        """Insert encoded rows and return how many were read. `table` is a quoted SQL name."""
        ...

    def stream(self, statement: Statement, format: Format) -> Stream:
        """Run a SELECT on a reader handle, which is read-only and has an empty default database.

        The result is not held in memory as a whole.
        """
        ...

    def plan(self, statement: Statement) -> Any:
        """The engine's plan of a SELECT, with its use of indexes, on a reader handle: the JSON value of `EXPLAIN`."""
        ...

    def peak_memory(self, statement: Statement) -> int | None:
        """The bytes that a run of a SELECT needs at most, on a reader handle. None if the engine cannot measure it.

        The statement runs to its end, without returning its rows.
        """
        ...

    def cancel(self, id: str) -> None:
        """Ask the database to stop the statement with this id. It stops after its current block. Does not wait."""
        ...

    def parse(self, sql: str) -> tuple[dict[str, Any], str]:
        """The syntax tree of a SELECT and its canonical text. Raises SQL_SYNTAX for anything else."""
        ...

    def format(self, tree: Mapping[str, Any]) -> str:
        """The canonical text of a syntax tree."""
        ...

    def functions(self) -> frozenset[str]:
        """The names of all functions in the database, including user-defined ones."""
        ...

    def forget_unstored_tokens(self) -> None:
        """Remove deduplication tokens that a failed INSERT recorded without storing its block.

        Must be called before a failed INSERT is repeated with the same token, and while no other INSERT runs. Raises
        if a table cannot be attached again; the next call retries that.
        """
        ...

    def note_parts(self, tables: Iterable[Name], *, again: bool = False) -> None:
        """Record the present parts of tables, so that `damaged_parts` only reports later ones.

        Tables that are already recorded are skipped unless `again` is true.
        """
        ...

    def damaged_parts(self, tables: Iterable[Name]) -> list[DamagedPart]:
        """Damaged parts among those added since the previous call.

        A part that is missing from its table's deduplication log counts as damaged, because a retry after a restart
        would store its rows a second time. The result is always empty if the files are on another host.
        """
        ...

    def remove_part(self, table: Name, part: str) -> bool:
        """Remove a damaged part from its table. Returns whether the insert that produced it must be repeated.

        The result of a merge is only recorded. `undo_merges` and `forget_unstored_tokens` replace it with its source
        parts if they still exist; otherwise it stays.
        """
        ...

    def remove_damaged_inserts(self, table: Name, after: int) -> None:
        """Remove the remains of an interrupted INSERT of an earlier process, so that it can be repeated with its
        token.

        These are damaged parts and parts that are missing in the deduplication log, if they begin after a block, and
        tokens without a part. Does nothing if the files are on another host.
        """
        ...

    def note_damaged_merges(self) -> bool:
        """Record damaged parts that recent merges produced in tables with inserts. Returns whether there are any."""
        ...

    def undo_merges(self) -> None:
        """Replace recorded parts with their source parts. Their tables are detached in the meantime."""
        ...

    def is_running(self, text: str) -> bool:
        """Whether a statement that contains this text is still running, although its caller has received an error."""
        ...

    def writers(self) -> Usage | None:
        """How busy the handles for inserts and DDL are; None if the adapter has no handles."""
        ...

    def disk_space(self) -> Space | None:
        """The state of the fullest disk of the database; None if it is unknown."""
        ...

    @property
    def directory(self) -> Path | None:
        """The directory of an embedded engine's data; None for a ClickHouse server."""
        ...

    def frozen(self) -> AbstractContextManager[None]:
        """While the context is active, no other thread of this process changes the data; merges continue.

        Statements of other threads that change something wait. Raises BUSY if a running statement does not end in
        time.
        """
        ...

    def close(self) -> None:
        """Close all connections. Harmless when repeated."""
        ...
