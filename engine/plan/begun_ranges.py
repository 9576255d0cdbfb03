"""Completes recorded backfills that may have been delivered in part, before new views read what they have stored.

A range may have reached a table and failed in a view behind it. It stays recorded and is delivered again under its
token, which also reaches views that were created in the meantime. The backfill of such a view would contain the same
rows, because rows of a derived table do not show the range that they come from. So these ranges are completed first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from engine.errors import RookeryError
from engine.plan.backfill import Backfill, Journal
from engine.plan.backfill_delivery import RANGES_PER_GROUP, deliver_range, described, record_delivery
from engine.plan.backfill_records import carrying_tokens, nonempty_tables
from engine.schema import Name, View
from engine.warehouse.catalog import read_schema
from engine.warehouse.port import Warehouse


def complete_begun_ranges(views: Sequence[View], warehouse: Warehouse, journal: Journal) -> None:
    """Complete the ranges that may be in the sources of views that are about to be created.

    Call it before the view lock is taken: inserts continue. Raises RK3010 if a range cannot be completed, because
    the views would count its rows twice.
    """
    if not views:
        return
    created = {str(v.name) for v in views}
    # The records of views that are created again are void.
    outstanding = [b for b in journal.outstanding() if b.view not in created]
    if not outstanding:
        return
    sources = nonempty_tables(warehouse, {v.source for v in views if v.log is None})
    for backfill in _leading_to(sources, outstanding, views, warehouse):
        _complete(backfill, warehouse, journal)


def _leading_to(
    sources: Collection[Name], backfills: Sequence[Backfill], views: Sequence[View], warehouse: Warehouse
) -> list[Backfill]:
    """The backfills that fill one of the sources, directly or through existing views."""
    marks = [v.mark for v in views if v.mark is not None]
    if not sources or not marks:
        return []
    workspace = marks[0].workspace
    live = read_schema(warehouse, workspace, {workspace, *(s.database for s in sources)}).views
    carrying = carrying_tokens(warehouse, sources)
    found = []
    for backfill in backfills:
        # A backfill of a view that does not exist is not delivered again.
        view = next((v for v in live.values() if str(v.name) == backfill.view), None)
        if view is None:
            continue
        reached = _reached_from(view.target, live.values())
        # A range that is in a table with tokens is left out of the new view's backfill instead.
        if (reached & {*sources}) - ({view.target} & carrying):
            found.append(backfill)
    return found


def _reached_from(table: Name, views: Collection[View]) -> set[Name]:
    """A table, and the tables that views fill from it."""
    reached = {table}
    # In order of data flow, so that one pass is enough.
    for view in views:
        if view.source in reached:
            reached.add(view.target)
    return reached


def _complete(backfill: Backfill, warehouse: Warehouse, journal: Journal) -> None:
    """Deliver the ranges that may have been delivered in part: never more than are tried together."""
    remaining = backfill
    try:
        for block_range in backfill.ranges[:RANGES_PER_GROUP]:
            deliver_range(warehouse, backfill, block_range)
            remaining = record_delivery(remaining, block_range, journal)
    except RookeryError as exc:
        raise described(backfill, exc) from exc
