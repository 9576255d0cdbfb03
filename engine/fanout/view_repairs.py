"""Determines what suspended views must deliver when they are restored, and whether they would fail again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from engine.compiler.build import Build
from engine.errors import RookeryError
from engine.fanout.failing_tenants import Limits, find_failure, find_failure_on_history
from engine.fanout.shared_views import ViewFactory, shared_view
from engine.fanout.source_blocks import table_ids
from engine.fanout.suspension_records import SUSPENDED_KIND, suspended
from engine.plan.backfill import missing_ranges
from engine.plan.missing_blocks import Gap, MissedBlocks, Missing
from engine.schema import Name, Schema, View
from engine.warehouse.catalog import read_schema
from engine.workspace.workspace import Workspace


def repairable(
    workspace: Workspace, build: Build, desired: Schema, live: Schema, continued: Collection[str] = ()
) -> dict[Name, tuple[MissedBlocks, ...]]:
    """Suspended views that can be restored by delivering exactly the blocks that they have missed, with these blocks.

    A view is not included if its source or target is now another table, if the missed blocks are unknown, or if its
    query has changed (unless it belongs to one of the `continued` pipes).
    """
    repaired = {}
    for text, record in workspace.registry.read(SUSPENDED_KIND).items():
        database, _, name = text.partition(".")
        view, current = desired.views.get(Name(database, name)), live.views.get(Name(database, name))
        # The view is no longer declared, or it runs in full, which makes the record void.
        if view is None or (current is not None and not current.excluded_tenants):
            continue
        if view.mark and view.mark.resource in continued:
            # The new query processes the rows that the view has missed.
            record = {**record, "fingerprint": view.mark.fingerprint}
        missed = _missed(workspace, build, view, record, current.excluded_tenants if current else None)
        if missed:
            repaired[view.name] = missed
    return repaired


def _missed(
    workspace: Workspace, build: Build, view: View, record: dict[str, Any], excluded: tuple[str, ...] | None
) -> tuple[MissedBlocks, ...]:
    """The blocks that must be delivered to one view; none if it cannot be restored in this way."""
    missing = Missing.of(record.get("missing"))
    if missing is None or view.mark is None or _query(view.mark.fingerprint) != _query(str(record["fingerprint"])):
        return ()
    source = view.log or view.source
    gaps = missing.effective(excluded)
    if source != missing.source or not gaps or any(g.after is None for g in gaps) or not all(missing.ids):
        return ()
    # The live view excludes a tenant whose gap is not recorded, or a gap is recorded for a tenant that it does not
    # exclude.
    if excluded is not None and {*excluded} != {g.tenant for g in gaps}:
        return ()
    if table_ids(workspace, source, view.target) != missing.ids:
        return ()
    own = tuple(sorted(g.tenant for g in gaps if g.tenant is not None))
    make = shared_view(build, view, source) if own else None
    # Only a view that tenants share has a form for a single tenant.
    if own and make is None:
        return ()
    return tuple(_blocks_of_gap(view, gap, make, own) for gap in gaps)


def _blocks_of_gap(view: View, gap: Gap, make: ViewFactory | None, own: tuple[str, ...]) -> MissedBlocks:
    """The blocks of a gap. A gap without a tenant applies to all tenants except those with their `own` gaps."""
    assert gap.after is not None
    if make is not None:
        view = make((gap.tenant,), ()) if gap.tenant is not None else make((), own)
    return MissedBlocks(view, gap.after, gap.batches)


def _query(fingerprint: str) -> str:
    """The part of a fingerprint that encodes the query; the other part encodes its spelling."""
    return fingerprint.partition(":")[0]


def still_failing(
    workspace: Workspace, desired: Schema, missed: Mapping[Name, tuple[MissedBlocks, ...]]
) -> dict[Name, str]:
    """Suspended views with an unchanged query that would fail again, each with the error.

    Their queries are run over the blocks that they have missed or, if these are unknown, over all rows of their
    source.
    """
    errors: dict[Name, str] = {}
    tables = read_schema(workspace.warehouse, workspace.name).tables.keys()
    for record in suspended(workspace):
        database, _, name = record["view"].partition(".")
        view = desired.views.get(Name(database, name))
        if view is None or view.mark is None or view.mark.fingerprint != record.get("fingerprint"):
            continue
        if not {view.source, view.target} <= tables:
            continue
        known = missed.get(view.name)
        exc = find_failure_on_history(workspace, view) if known is None else _failure_on(workspace, known)
        if exc is not None:
            errors[view.name] = exc.detail or exc.message
    return errors


def _failure_on(workspace: Workspace, missed: tuple[MissedBlocks, ...]) -> RookeryError | None:
    """The first error of a view on the blocks that it has missed."""
    limits = Limits(workspace.settings.delivery_memory())
    for blocks in missed:
        for after, upto in missing_ranges(workspace.warehouse, blocks):
            exc = find_failure(workspace, blocks.view, (after, upto), limits)
            if exc is not None:
                return exc
    return None
