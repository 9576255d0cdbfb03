"""Records backfills before views are created, while no insert runs.

This module does not deliver rows. The record must exist before the views do: otherwise a crash at this point would
leave views whose targets lack the older rows, without any record of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from engine.compiler.storage import BATCH_COLUMN
from engine.plan.backfill import (
    Backfill,
    Journal,
    Range,
    backfill_of,
    block_ranges,
    blocks_of,
    missing_ranges,
    token_of,
)
from engine.plan.missing_blocks import MissedBlocks
from engine.plan.view_lock import ViewLock
from engine.schema import Name, View
from engine.warehouse.port import Warehouse


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
    # Records of an earlier attempt are void: their ranges are read again below, now that no insert runs.
    journal.delete([b for b in journal.outstanding() if b.view in names])
    nonempty = nonempty_tables(warehouse, {v.source for v in stored})
    pending = {
        v.source: view_lock.deliveries.pending_tokens(v.source, v.mark) for v in stored if v.source in nonempty
    }
    passed = _passed_ranges(warehouse, view_lock, journal, [v for v in views if v.log is not None])
    deferred = {v.name for v in stored if v.source in pending and pending[v.source] is None}
    deferred |= {name for name, ranges in passed.items() if ranges is None}
    created = [v for v in views if v.name not in deferred]
    # A block that will be delivered again reaches the new view then, so its backfill leaves it out.
    undelivered = _undelivered_tokens(warehouse, journal, {v.source for v in created if v.log is None} & nonempty)
    ranges = {
        s: block_ranges(warehouse, s, without=(pending.get(s) or set()) | tokens) for s, tokens in undelivered.items()
    }
    backfills = [backfill_of(v, own) for v in created if (own := passed.get(v.name) or ranges.get(v.source))]
    # Recorded before the caller creates the views. After a crash, the next run finds the record or makes it again.
    journal.record(backfills)
    journal.record_consumed(created, {v.name for v in created if v.log is None and v.source not in nonempty})
    # Uncertain batches are complete and no insert runs, so all blocks up to now have reached the existing views.
    journal.record_newest_blocks()
    return backfills, deferred


def record_missing(
    views: Sequence[tuple[View, Sequence[MissedBlocks]]], warehouse: Warehouse, view_lock: ViewLock, journal: Journal
) -> tuple[list[Backfill], set[Name]]:
    """Record what suspended views have missed, as they are about to be restored. The view lock must be held.

    Returns the backfills, and the views that cannot be restored yet because rows are still on their way to them.
    """
    names = {str(v.name) for v, _ in views}
    # An interrupted run may have recorded the same blocks. It has delivered none of them.
    journal.delete([b for b in journal.outstanding() if b.view in names and b.whole])
    passed = _passed_ranges(warehouse, view_lock, journal, [v for v, _ in views if v.log is not None])
    deferred = {name for name, ranges in passed.items() if ranges is None}
    backfills = []
    undelivered = _undelivered_tokens(warehouse, journal, {v.source for v, _ in views if v.log is None})
    for view, missed in views:
        pending = view_lock.deliveries.pending_tokens(view.source, view.mark) if view.log is None else set()
        if pending is None:
            deferred.add(view.name)
        if view.name in deferred:
            continue
        for blocks in missed:
            ranges = missing_ranges(
                warehouse, blocks, without=(pending or set()) | undelivered.get(view.source, set())
            )
            if view.log is not None:
                ranges = _intersection(ranges, passed[view.name] or [])
            if ranges:
                backfills.append(replace(backfill_of(blocks.view, ranges), whole=True))
    journal.record(backfills)
    journal.record_newest_blocks()
    return backfills, deferred


def _undelivered_tokens(warehouse: Warehouse, journal: Journal, tables: Collection[Name]) -> dict[Name, set[str]]:
    """For each table: the tokens of recorded backfills into it that are not complete.

    Such a range may have reached the table although a view that reads the table failed. It is delivered again, and
    new views receive it too.
    """
    if not tables:
        return {}
    outstanding = journal.outstanding()
    tokens = {t: {token_of(b, r) for b in outstanding if b.target == t.sql() for r in b.ranges} for t in tables}
    carrying = carrying_tokens(warehouse, {t for t, own in tokens.items() if own})
    return {t: own if t in carrying else set() for t, own in tokens.items()}


def carrying_tokens(warehouse: Warehouse, tables: Collection[Name]) -> set[Name]:
    """The tables whose rows contain the token with which they were inserted."""
    if not tables:
        return set()
    result = warehouse.query(
        "SELECT database, table FROM system.columns WHERE database IN {d:Array(String)} AND name = {b:String}",
        {"d": [*sorted({t.database for t in tables})], "b": BATCH_COLUMN},
    )
    return {*tables} & {Name(database, table) for database, table in result.rows}


def _intersection(ranges: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    pairs = ((max(a, c), min(b, d)) for a, b in ranges for c, d in others)
    return [(a, b) for a, b in pairs if a < b]


def _passed_ranges(
    warehouse: Warehouse, view_lock: ViewLock, journal: Journal, views: Sequence[View]
) -> dict[Name, list[Range] | None]:
    """For views on sources without stored rows: the ranges of the log that have passed through the source.

    None for a view whose source is being backfilled itself, since it is unknown how much has passed.
    """
    if not views:
        return {}
    # The view that copies landing into the Null table; without it, no row has passed.
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
            passed[view.name] = early + blocks_of(warehouse, view.log, delivered.batches)
        elif str(feeders[view.name]) in backfilled:
            passed[view.name] = None
        else:
            passed[view.name] = logs[view.log] if feeders[view.name] in existing else []
    return passed


def _existing_views(warehouse: Warehouse, views: set[Name]) -> set[Name]:
    return _tables_where(warehouse, views, "engine = 'MaterializedView'")


def nonempty_tables(warehouse: Warehouse, sources: set[Name]) -> set[Name]:
    """The tables that exist and have rows. Most nests are new, so one query here saves one per table later."""
    return _tables_where(warehouse, sources, "ifNull(total_rows, 1) > 0")


def _tables_where(warehouse: Warehouse, names: set[Name], condition: str) -> set[Name]:
    result = warehouse.query(
        f"SELECT database, name FROM system.tables WHERE database IN {{databases:Array(String)}} AND {condition}",
        {"databases": [*sorted({n.database for n in names})]},
    )
    return names & {Name(database, name) for database, name in result.rows}
