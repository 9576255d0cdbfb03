"""The port to a database: small, synchronous, without knowledge of pipes or tenants.

Two adapters implement it, `embedded` (chDB in this process) and `server` (ClickHouse over HTTP); one contract
suite (`tests/warehouse`) holds for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol

from engine.schema import Name

Value = str | int | float | bool | None | date | datetime | Decimal | list["Value"]
"""What can be bound to a `{name:Type}` placeholder."""

SINGLE_BLOCK_SETTINGS: Mapping[str, int] = {
    "use_strict_insert_block_limits": 1,
    "max_insert_threads": 1,
    "min_insert_block_size_rows": 1_000_000_000,
    "min_insert_block_size_bytes": 0,
    "max_insert_block_size": 1_000_000_000,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
}
"""Insert settings under which a deduplication token identifies an INSERT exactly: it becomes one block."""


class Format(StrEnum):
    """Output formats of a stream, by their ClickHouse names."""

    JSON = "JSON"
    CSV = "CSVWithNames"
    BARE_CSV = "CSV"
    NDJSON = "JSONEachRow"
    PARQUET = "Parquet"


class Input(StrEnum):
    """Input formats of an insert, by their ClickHouse names."""

    NDJSON = "JSONEachRow"
    CSV = "CSVWithNames"
    PARQUET = "Parquet"


@dataclass(frozen=True, slots=True)
class Statement:
    """One SELECT, ready to run by a reader.

    `sql` holds no value of a request: those are in `bindings`, and every binding occurs in `sql` as
    `{name:Type}`. `settings` are rendered as the SETTINGS clause at the very end. `tag` names the query in logs, and
    `id` is what `cancel` takes. `quoted`: JSON documents have integers of 64 bits and more as text.
    """

    sql: str
    bindings: Mapping[str, Value] = field(default_factory=dict)
    settings: Mapping[str, int | str] = field(default_factory=dict)
    tag: str = ""
    id: str = ""
    quoted: bool = False


def limit_settings(*, seconds: float, memory: int, total_memory: int, rows: int) -> dict[str, int | str]:
    """The settings that bound a caller's statement. Memory is in bytes, of the query and of all queries."""
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
    """A small result in memory: column names, ClickHouse types and Python values."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def dicts(self) -> list[dict[str, Any]]:
        return [dict(zip(self.names, row, strict=True)) for row in self.rows]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the database behind the port can do. `lazy_tables`: tables of nests are loaded when they are used."""

    version: str
    embedded: bool
    readers: int
    lazy_tables: bool = False


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes on a disk: free for this process, and in all."""

    path: str
    free: int
    total: int


class Stream(Protocol):
    """A running query's output as bytes of one well-formed document. Must be closed; closing twice is harmless.

    Errors of the query are raised by the first `next()` where the engine knows them by then, else by a later one.
    """

    def __iter__(self) -> Iterator[bytes]: ...
    def __next__(self) -> bytes: ...
    def close(self) -> None: ...


class Warehouse(Protocol):
    """A ClickHouse, embedded or a server. Every method raises `RookeryError` with an RK6xxx code,
    whose `detail` is the engine's own text and whose `engine_code` attribute is the engine's number (or None)."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def zone(self) -> str:
        """The time zone in which every statement runs, and every view and default is evaluated."""
        ...

    def keep_zone(self) -> None:
        """Record the zone with the data, where the database has a place for it."""
        ...

    def query(
        self, sql: str, bindings: Mapping[str, Value] | None = None, settings: Mapping[str, int | str] | None = None
    ) -> Rows:
        """Run a trusted SELECT on a writer handle and return its rows."""
        ...

    def execute(
        self, sql: str, bindings: Mapping[str, Value] | None = None, settings: Mapping[str, int | str] | None = None
    ) -> None:
        """Run a trusted statement without a result: DDL, or INSERT … SELECT (settings go before its SELECT's end)."""
        ...

    def insert(
        self,
        table: str,
        data: bytes | Iterable[bytes],
        format: Input,
        columns: Iterable[str] = (),
        settings: Mapping[str, int | str] | None = None,
    ) -> int:
        """Insert encoded rows into a table (quoted SQL name) and return how many were read."""
        ...

    def stream(self, statement: Statement, format: Format) -> Stream:
        """Run a SELECT on a reader handle: read-only, its default database empty. Memory is bounded."""
        ...

    def cancel(self, id: str) -> None:
        """Ask the database to end the statement of that id; it does between two blocks. Does not wait for it."""
        ...

    def parse(self, sql: str) -> tuple[dict[str, Any], str]:
        """One SELECT's syntax tree and the engine's canonical text of it. Raises ENGINE on anything else."""
        ...

    def format(self, tree: Mapping[str, Any]) -> str:
        """The engine's canonical text of a syntax tree."""
        ...

    def functions(self) -> frozenset[str]:
        """Names of all functions the database knows, user-defined ones included."""
        ...

    def forget_unstored_tokens(self) -> None:
        """Let tables forget tokens of blocks that a failed INSERT noted and did not store.

        Must be called before an INSERT that failed is repeated under its token, while no other INSERT runs. Raises
        when a table cannot be brought back; calling it again tries that again.
        """
        ...

    def note_parts(self, tables: Iterable[Name], *, again: bool = False) -> None:
        """Remember the parts that tables have, if nobody has looked at them yet, or `again`: they are not new."""
        ...

    def damaged_parts(self, tables: Iterable[Name]) -> list[tuple[Name, str, str]]:
        """Damaged parts among those that came into tables since the last look: table, part, why.

        So is a part that its table's deduplication log does not have: repeated after a restart, it would come twice.

        Always empty where the files are not this host's.
        """
        ...

    def remove_part(self, table: Name, part: str) -> bool:
        """Take a damaged part out of its table; whether its insert must be repeated.

        A merged part is only noted: `undo_merges`, and so `forget_unstored_tokens`, brings back what it was
        made from, if that is still there. Otherwise it stays.
        """
        ...

    def note_damaged_merges(self) -> bool:
        """Note damaged parts that merges have lately made in tables that were written to; whether there are any."""
        ...

    def undo_merges(self) -> None:
        """Put back what noted parts were made from; their tables are away meanwhile."""
        ...

    def is_running(self, text: str) -> bool:
        """Whether a statement with this text in it still runs, although its caller has been told otherwise."""
        ...

    def disk_space(self) -> Space | None:
        """Room on the fullest disk of the database; None where it cannot be known."""
        ...

    def close(self) -> None: ...
