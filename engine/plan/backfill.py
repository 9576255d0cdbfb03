"""Backfills: deliver to a new view the rows that its source held before the view was created.

A backfill is recorded while no insert runs, as ranges of block numbers. Its ranges are delivered after inserts have
resumed, each as one block under its own token. After an interruption, the next run finds the record and delivers the
remaining ranges; targets recognize the tokens of those that had already arrived.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, Protocol

from engine.compiler.storage import BATCH_COLUMN
from engine.compiler.views import in_block_range
from engine.errors import APPLY_FAILED, BUSY, RookeryError
from engine.plan.missing_blocks import MissedBlocks
from engine.plan.view_lock import ViewLock
from engine.schema import Name, View, literal
from engine.warehouse import ddl
from engine.warehouse.port import Warehouse

RANGE_ROWS = 1_000_000
"""Rows of a source in one range, at most. A single block may be larger."""

BACKFILL_THREADS = 2
"""Ranges that are delivered at the same time. The other writers' connections are left to inserts."""

RANGES_PER_RECORD = 16
"""Ranges after which the record is updated: far fewer than the tokens that a target remembers."""

Range = tuple[int, int]
"""Block numbers of a source: all after the first, up to and including the second."""


@dataclass(frozen=True, slots=True)
class Backfill:
    """A recorded delivery of ranges of one source to the target of one view."""

    id: str
    """Part of the tokens of its ranges."""
    view: str
    source: str
    """The source table, as SQL."""
    sql: str
    """The SELECT of the view's rows, with placeholders for the bounds of a range."""
    columns: tuple[str, ...]
    target: str
    """The target table, as SQL."""
    ranges: tuple[Range, ...]
    tenant: str | None = None
    whole: bool = False
    """Whether it belongs to the view for all tenants. It is void while the view excludes some."""

    def as_dict(self) -> dict[str, Any]:
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
        }

    @staticmethod
    def of(body: dict[str, Any]) -> Backfill:
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
        )


class Journal(Protocol):
    """Where backfills are recorded before they start and deleted when they are complete."""

    def record(self, backfills: Sequence[Backfill]) -> None: ...
    def delete(self, backfills: Sequence[Backfill]) -> None: ...
    def outstanding(self) -> list[Backfill]: ...
    def record_consumed(self, views: Sequence[View], empty: Collection[Name]) -> None:
        """Record from which part of their sources the targets of views are made. No insert may run.

        The sources of the views in `empty` have no rows.
        """
        ...

    def record_continued(self, views: Sequence[View]) -> None:
        """Record that targets contain rows of earlier queries up to now. No insert may run."""
        ...

    def record_deferred(self, deferred: Sequence[View], created: Sequence[View]) -> None:
        """Record views that cannot be created yet, and delete the records of views that are created now."""
        ...

    def record_newest_blocks(self) -> None:
        """Record the newest blocks of the workspace's tables, which have reached all views. No insert may run."""
        ...


Progress = Callable[[str, int, int], None]
"""Called with the name of the current operation, the amount done, and the total."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Report no progress."""


def record_backfills(
    views: Sequence[View], warehouse: Warehouse, view_lock: ViewLock, journal: Journal
) -> tuple[list[Backfill], set[Name]]:
    """Record the backfills of views that are about to be created. The view lock must be held.

    Returns the backfills, and the views that cannot be created yet because rows are still on their way to them.
    """
    view_lock.completion.complete_all()
    # The sources of the other views keep no rows (Null engine), so their backfill reads the landing log.
    stored = [v for v in views if v.log is None]
    names = {str(v.name) for v in views}
    journal.delete([b for b in journal.outstanding() if b.view in names])
    nonempty = _nonempty(warehouse, {v.source for v in stored})
    pending = {
        v.source: view_lock.deliveries.pending_tokens(v.source, v.mark) for v in stored if v.source in nonempty
    }
    passed = _passed(warehouse, view_lock, journal, [v for v in views if v.log is not None])
    deferred = {v.name for v in stored if v.source in pending and pending[v.source] is None}
    deferred |= {name for name, ranges in passed.items() if ranges is None}
    created = [v for v in views if v.name not in deferred]
    # A block that will be delivered again reaches the new view then, so its backfill leaves it out.
    ranges = {
        s: block_ranges(warehouse, s, without=pending.get(s) or ())
        for s in {v.source for v in created if v.log is None} & nonempty
    }
    backfills = [backfill_of(v, own) for v in created if (own := passed.get(v.name) or ranges.get(v.source))]
    journal.record(backfills)
    journal.record_consumed(created, {v.name for v in created if v.log is None and v.source not in nonempty})
    journal.record_newest_blocks()
    return backfills, deferred


def record_missing(
    views: Sequence[tuple[View, Sequence[MissedBlocks]]], warehouse: Warehouse, view_lock: ViewLock, journal: Journal
) -> tuple[list[Backfill], set[Name]]:
    """Record what suspended views have missed, as they are about to be put back. The view lock must be held.

    Returns the backfills, and the views that cannot be put back yet because rows are still on their way to them.
    """
    names = {str(v.name) for v, _ in views}
    # An interrupted run may have recorded the same blocks. It has delivered none of them.
    journal.delete([b for b in journal.outstanding() if b.view in names and b.whole])
    passed = _passed(warehouse, view_lock, journal, [v for v, _ in views if v.log is not None])
    deferred = {name for name, ranges in passed.items() if ranges is None}
    backfills = []
    for view, missed in views:
        pending = view_lock.deliveries.pending_tokens(view.source, view.mark) if view.log is None else set()
        if pending is None:
            deferred.add(view.name)
        if view.name in deferred:
            continue
        for blocks in missed:
            ranges = missing_ranges(warehouse, blocks, without=pending or ())
            if view.log is not None:
                ranges = _intersection(ranges, passed[view.name] or [])
            if ranges:
                backfills.append(replace(backfill_of(blocks.view, ranges), whole=True))
    journal.record(backfills)
    journal.record_newest_blocks()
    return backfills, deferred


def missing_ranges(warehouse: Warehouse, missed: MissedBlocks, *, without: Collection[str] = ()) -> list[Range]:
    """The ranges of blocks that a view has missed and that its source still has."""
    source = missed.view.log or missed.view.source
    early = [r for r in _blocks_of(warehouse, source, set(missed.batches) - set(without)) if r[1] <= missed.after]
    return early + block_ranges(warehouse, source, after=missed.after, without=without)


def _intersection(ranges: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    pairs = ((max(a, c), min(b, d)) for a, b in ranges for c, d in others)
    return [(a, b) for a, b in pairs if a < b]


def _passed(
    warehouse: Warehouse, view_lock: ViewLock, journal: Journal, views: Sequence[View]
) -> dict[Name, list[Range] | None]:
    """For views on sources without stored rows: the ranges of the log that have passed through the source.

    None for a view whose source is being backfilled itself, since it is unknown how much has passed.
    """
    if not views:
        return {}
    feeders = {v.name: Name(v.source.database, f"_rk_{v.source.name}") for v in views}
    existing = _existing_views(warehouse, set(feeders.values()))
    backfilled = {b.view for b in journal.outstanding()}
    consumed = view_lock.deliveries.consumed({v.source: v.mark for v in views})
    logs = {v.log: block_ranges(warehouse, v.log) for v in views if v.log is not None}
    passed: dict[Name, list[Range] | None] = {}
    for view in views:
        assert view.log is not None
        delivered = consumed.get(view.source)
        if delivered is not None:
            # A fan-out worker feeds the source: its offset says what has passed.
            early = [(after, min(upto, delivered.upto)) for after, upto in logs[view.log] if after < delivered.upto]
            passed[view.name] = early + _blocks_of(warehouse, view.log, delivered.batches)
        elif str(feeders[view.name]) in backfilled:
            passed[view.name] = None
        else:
            passed[view.name] = logs[view.log] if feeders[view.name] in existing else []
    return passed


def _blocks_of(warehouse: Warehouse, table: Name, batches: Collection[str]) -> list[Range]:
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
    """A backfill of a view under a new id."""
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


def _existing_views(warehouse: Warehouse, views: set[Name]) -> set[Name]:
    return _matching(warehouse, views, "engine = 'MaterializedView'")


def _nonempty(warehouse: Warehouse, sources: set[Name]) -> set[Name]:
    """The tables that exist and have rows. Most nests are new, so one query here saves one per table later."""
    return _matching(warehouse, sources, "ifNull(total_rows, 1) > 0")


def _matching(warehouse: Warehouse, names: set[Name], condition: str) -> set[Name]:
    result = warehouse.query(
        f"SELECT database, name FROM system.tables WHERE database IN {{databases:Array(String)}} AND {condition}",
        {"databases": [*sorted({n.database for n in names})]},
    )
    return names & {Name(database, name) for database, name in result.rows}


def block_ranges(warehouse: Warehouse, source: Name, *, after: int = 0, without: Collection[str] = ()) -> list[Range]:
    """Ranges that cover the blocks of a table, each of at most RANGE_ROWS rows where blocks allow.

    Skips blocks up to `after`, and those that were inserted under one of the tokens in `without`. Call it with the
    view lock held: otherwise a running insert may add a block below the newest one afterwards.
    """
    skipped = f"{BATCH_COLUMN} IN ({', '.join(map(literal, sorted(without)))})" if without else "0"
    blocks = warehouse.query(
        f"SELECT _block_number AS b, count() AS n, max({skipped}) AS p FROM {source.sql()} "
        f"WHERE _block_number > {after} GROUP BY b ORDER BY b"
    ).rows
    ranges: list[Range] = []
    rows, last = 0, after
    for number, count, skip in blocks:
        if rows and (skip or rows + count > RANGE_ROWS):
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


OnFailure = Callable[[Backfill, RookeryError], None]
"""Called once for each backfill that fails."""


def deliver(
    backfills: Sequence[Backfill],
    warehouse: Warehouse,
    journal: Journal,
    progress: Progress = silent,
    on_failure: OnFailure | None = None,
) -> dict[str, int]:
    """Deliver recorded backfills, several ranges at a time. Returns the number of ranges by view.

    Delivered ranges are deleted from the record every RANGES_PER_RECORD ranges, even when others fail, since a target
    recognizes a token only for a limited number of later inserts. Raises the first failure; with `on_failure`,
    reports it and continues with the other backfills.
    """
    pending = [(backfill, block_range) for backfill in backfills for block_range in backfill.ranges]
    remaining = {b.id: list(b.ranges) for b in backfills}
    journal.delete([b for b in backfills if not b.ranges])
    failed: set[str] = set()
    with ThreadPoolExecutor(BACKFILL_THREADS) as pool:
        for start in range(0, len(pending), RANGES_PER_RECORD):
            group = [(b, r) for b, r in pending[start : start + RANGES_PER_RECORD] if b.id not in failed]
            if not group:
                continue
            running = [pool.submit(_deliver_range, warehouse, b, r) for b, r in group]
            wait(running)
            for (backfill, block_range), delivery in zip(group, running, strict=True):
                if delivery.exception() is None:
                    remaining[backfill.id].remove(block_range)
            _update_record({b.id: b for b, _ in group}.values(), remaining, journal)
            failed |= _report_failures([b for b, _ in group], running, failed, on_failure)
            progress(f"backfill of {group[-1][0].view}", min(start + RANGES_PER_RECORD, len(pending)), len(pending))
    return {b.view: len(b.ranges) for b in backfills if b.id not in failed}


def _report_failures(
    backfills: Sequence[Backfill], running: Sequence[Future[None]], known: set[str], on_failure: OnFailure | None
) -> set[str]:
    """Report each failed backfill once, or raise its error. Returns the ids of those that failed."""
    failed: set[str] = set()
    for backfill, delivery in zip(backfills, running, strict=True):
        exc = delivery.exception()
        if exc is None:
            continue
        if on_failure is None or not isinstance(exc, RookeryError):
            raise _described(backfill, exc) from exc
        if backfill.id not in known | failed:
            failed.add(backfill.id)
            on_failure(backfill, exc)
    return failed


def _described(backfill: Backfill, exc: BaseException) -> BaseException:
    """A failure as RK3010, with the view and the tenant; any other exception, and RK6003, unchanged."""
    if not isinstance(exc, RookeryError) or exc.code is BUSY:
        return exc
    tenant = f" for tenant `{backfill.tenant}`" if backfill.tenant is not None else ""
    return RookeryError(
        APPLY_FAILED,
        f"the backfill of `{backfill.view}` failed{tenant}: {exc.message}",
        hint="fix the pipe or the rows, then run the command again; delivered ranges are not repeated",
        detail=exc.detail,
    )


def _deliver_range(warehouse: Warehouse, backfill: Backfill, block_range: Range) -> None:
    """Insert one range as one block. Runs in a pool thread, without the insert lock."""
    after, upto = block_range
    token = f"history:{backfill.id}:{after}:{upto}"
    warehouse.execute(
        ddl.insert_block(backfill.target, backfill.columns, token, in_block_range(backfill.sql, after, upto))
    )


def _update_record(backfills: Iterable[Backfill], remaining: dict[str, list[Range]], journal: Journal) -> None:
    """Reduce the recorded backfills to their remaining ranges."""
    complete = [b for b in backfills if not remaining[b.id]]
    begun = [b for b in backfills if 0 < len(remaining[b.id]) < len(b.ranges)]
    journal.record([replace(b, ranges=tuple(remaining[b.id])) for b in begun])
    journal.delete(complete)
