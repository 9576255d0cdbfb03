"""Backfills: deliver to a new view the rows that its source held before the view was created.

A backfill is recorded while no insert runs, as ranges of block numbers. Its ranges are delivered after inserts have
resumed, each as one block under its own token. After an interruption, the next run finds the record and delivers the
remaining ranges; targets recognize the tokens of those that had already arrived.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.compiler.storage import BATCH_COLUMN
from engine.plan.missing_blocks import MissedBlocks
from engine.schema import Name, View, literal
from engine.warehouse.port import Warehouse

RANGE_ROWS = 1_000_000
"""Maximum number of a source's rows in one range. A single block may have more."""
RANGE_BYTES = 128 << 20
"""About how many bytes a range may have, uncompressed: its rows are inserted as one block, which takes several times
the memory.
"""

Range = tuple[int, int]
"""Block numbers of a source: all after the first, up to and including the second."""


@dataclass(frozen=True, slots=True)
class Backfill:
    """A recorded delivery of ranges of one source to the target of one view."""

    id: str
    """The part that the tokens of its ranges have in common."""
    view: str
    """The name of the view, with its database."""
    source: str
    """The source table, as SQL."""
    sql: str
    """The SELECT of the view's rows, with placeholders for the bounds of a range."""
    columns: tuple[str, ...]
    """The target's columns that the SELECT fills, in order."""
    target: str
    """The target table, as SQL."""
    ranges: tuple[Range, ...]
    """The ranges that have not been delivered."""
    tenant: str | None = None
    """The tenant of a nest's view, for messages."""
    whole: bool = False
    """Whether it belongs to the form of the view for all tenants. It is void while the view excludes some tenants."""
    stored: tuple[tuple[int, int, int], ...] = ()
    """Ranges that the target has, although a view behind it failed; each with the target's newest block then."""

    def as_dict(self) -> dict[str, Any]:
        """The form in the registry, whose keys must not change."""
        return {
            "id": self.id,
            "view": self.view,
            "source": self.source,
            "sql": self.sql,
            "columns": list(self.columns),
            "target": self.target,
            "ranges": [list(r) for r in self.ranges],
            "tenant": self.tenant,
            "whole": self.whole,
            "stored": [list(s) for s in self.stored],
        }

    @staticmethod
    def of(body: dict[str, Any]) -> Backfill:
        """Read the form in the registry. Records of earlier versions lack the last three keys."""
        ranges = tuple((int(a), int(b)) for a, b in body["ranges"])
        return Backfill(
            body["id"],
            body["view"],
            body["source"],
            body["sql"],
            tuple(body["columns"]),
            body["target"],
            ranges,
            body.get("tenant"),
            bool(body.get("whole")),
            tuple((int(a), int(b), int(newest)) for a, b, newest in body.get("stored", ())),
        )


class Journal(Protocol):
    """Where backfills are recorded before they start and deleted when they are complete."""

    def record(self, backfills: Sequence[Backfill]) -> None: ...
    def delete(self, backfills: Sequence[Backfill]) -> None: ...
    def outstanding(self) -> list[Backfill]: ...
    def record_consumed(self, views: Sequence[View], empty: Collection[Name]) -> None:
        """Record from which part of their sources the targets of views are computed. Inserts must be blocked.

        The sources of the views in `empty` have no rows.
        """
        ...

    def record_continued(self, views: Sequence[View]) -> None:
        """Record that targets contain rows of earlier queries up to now. Inserts must be blocked."""
        ...

    def record_deferred(self, deferred: Sequence[View], created: Sequence[View]) -> None:
        """Record views that cannot be created yet, and delete the records of views that are created now."""
        ...

    def record_newest_blocks(self) -> None:
        """Record the newest blocks of the workspace's tables, which have reached all views. Inserts must be
        blocked.
        """
        ...


def missing_ranges(warehouse: Warehouse, missed: MissedBlocks, *, without: Collection[str] = ()) -> list[Range]:
    """The ranges of blocks that a view has missed and that its source still has."""
    source = missed.view.log or missed.view.source
    # Batches before the gap, whose delivery failed alone. Those after it are in the other ranges.
    early = [r for r in blocks_of(warehouse, source, set(missed.batches) - set(without)) if r[1] <= missed.after]
    return early + block_ranges(warehouse, source, after=missed.after, without=without)


def blocks_of(warehouse: Warehouse, table: Name, batches: Collection[str]) -> list[Range]:
    """The blocks of batches, each as a range."""
    if not batches:
        return []
    result = warehouse.query(
        f"SELECT DISTINCT _block_number AS b FROM {table.sql()} "
        f"WHERE {BATCH_COLUMN} IN {{batches:Array(String)}} ORDER BY b",
        {"batches": [*sorted(batches)]},
    )
    return [(int(row[0]) - 1, int(row[0])) for row in result.rows]


def backfill_of(view: View, ranges: Sequence[Range]) -> Backfill:
    """A backfill of a view, with a new id."""
    return Backfill(
        secrets.token_hex(8),
        str(view.name),
        (view.log or view.source).sql(),
        view.backfill,
        view.columns,
        view.target.sql(),
        tuple(ranges),
        view.mark.tenant if view.mark else None,
    )


def token_of(backfill: Backfill, block_range: Range) -> str:
    """The token under which a range of a backfill is inserted."""
    return f"history:{backfill.id}:{block_range[0]}:{block_range[1]}"


def block_ranges(warehouse: Warehouse, source: Name, *, after: int = 0, without: Collection[str] = ()) -> list[Range]:
    """Ranges that cover the blocks of a table, each of at most RANGE_ROWS rows and RANGE_BYTES where blocks allow.

    Skips blocks up to `after`, and those that were inserted under one of the tokens in `without`. Call it with the
    view lock held: otherwise a running insert may add a block below the newest one afterwards.
    """
    skipped = f"{BATCH_COLUMN} IN ({', '.join(map(literal, sorted(without)))})" if without else "0"
    # A block has the rows of one insert, all with the same token, so `max` tells whether the block is skipped.
    blocks = warehouse.query(
        f"SELECT _block_number AS b, count() AS n, max({skipped}) AS p FROM {source.sql()} "
        f"WHERE _block_number > {after} GROUP BY b ORDER BY b"
    ).rows
    most = min(RANGE_ROWS, RANGE_BYTES // _row_bytes(warehouse, source)) if blocks else 0
    ranges: list[Range] = []
    rows, last = 0, after
    for number, count, skip in blocks:
        # A range ends before a block that is skipped, because everything inside a range is delivered.
        if rows and (skip or rows + count > most):
            ranges.append((after, last))
            after, rows = last, 0
        if skip:
            after = number
        else:
            rows += count
        last = number
    if rows:
        ranges.append((after, last))
    return ranges


def _row_bytes(warehouse: Warehouse, table: Name) -> int:
    """The average size of a row, uncompressed, in bytes; at least 1."""
    size = warehouse.query(
        "SELECT intDiv(sum(data_uncompressed_bytes), sum(rows) + 1) FROM system.parts "
        "WHERE active AND database = {d:String} AND table = {t:String}",
        {"d": table.database, "t": table.name},
    )
    return max(1, int(size.rows[0][0]))
