"""Suspends failing views, which would block every insert: drops them, and records what they miss.

A view that tenants share is restricted instead if only a few tenants' rows make it fail: it runs without these
tenants. The blocks that the view has missed are recorded. A push, or `rookery fanout repair`, restores the view and
delivers these blocks; its target keeps its rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from engine.errors import RookeryError
from engine.fanout.failing_tenants import without_failing_tenants
from engine.fanout.handover import BatchBlocks
from engine.fanout.source_blocks import (
    blocks_of_batch,
    has_batch_column,
    keeps_block_numbers,
    log_of,
    newest_block,
    rows_by_tenant,
)
from engine.fanout.suspension_records import SUSPENDED_KIND, gaps_of, write_record
from engine.fanout.view_errors import failed_view
from engine.plan.missing_blocks import Gap, Missing
from engine.schema import Name, View
from engine.warehouse import ddl
from engine.warehouse.catalog import read_schema
from engine.warehouse.errors import exceeds_own_memory, has_too_many_partitions
from engine.workspace.journal import RegistryJournal
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.fanout")


@dataclass(frozen=True, slots=True)
class SuspendedView:
    """A view that was just suspended."""

    view: View
    record: dict[str, Any]
    """Its record in the registry."""
    newest: int
    """The newest block of its source at that moment."""


def suspend(workspace: Workspace, exc: RookeryError, block: BatchBlocks | None) -> SuspendedView | None:
    """Drop the view that made an INSERT fail, or restrict it to the tenants whose rows it accepts.

    The insert lock must be held exclusively. None if the error names no view, or one that rookery did not create.
    """
    error = exc.detail or exc.message
    view = failed_view(workspace, error)
    if view is None or view.mark is None:
        return None
    restricted = None
    if block is not None:
        of_size = exceeds_own_memory(exc) or has_too_many_partitions(exc)
        restricted = without_failing_tenants(workspace, view, block, of_size=of_size)
    excluded = restricted.excluded_tenants if restricted is not None else ()
    record = _new_record(view, error[:1000], block.datasource if block is not None else None)
    known_gaps = gaps_of(workspace, view)
    source = log_of(workspace, view)
    newest = newest_block(workspace, source)
    gap = _gap_from(workspace, source, newest, block)
    if gap.batches and block is not None:
        record["rows"] = {**_missed_rows(workspace, view), block.batch: rows_by_tenant(workspace, block)}
    # Recorded before the drop. If the process is killed before the drop, the view still runs in full, which makes the
    # record void; if it is killed later, the view no longer exists and misses what the record says.
    record = write_record(workspace, view, record, source, (*known_gaps, gap))
    workspace.warehouse.execute(ddl.drop_view(view.name))
    if restricted is not None:
        workspace.warehouse.execute(ddl.create_view(restricted))
        # Done only now: after a kill before the view exists, the record says that all tenants miss the view.
        own = {g.tenant: g for g in known_gaps}
        gaps = tuple(own.get(t, replace(gap, tenant=t)) for t in excluded)
        record = write_record(workspace, view, {**record, "without": [*excluded]}, source, gaps)
    _keep_backfills(workspace, view)
    workspace.refresh()
    outcome = "a view failed and now runs without some tenants" if excluded else "a view failed and was suspended"
    log.error(outcome, view=str(view.name), without=excluded, error=error)
    return SuspendedView(view, record, newest)


def _gap_from(workspace: Workspace, source: Name, newest: int, block: BatchBlocks | None) -> Gap:
    """What a view misses if it stops now: the batch that is being stored, and all later blocks of its source.

    If rows contain their batch's id, the batch is part of the gap, because some of its blocks may already exist.
    Elsewhere the gap begins before it. A source that does not keep block numbers has an unknown gap.
    """
    if not keeps_block_numbers(workspace, source):
        return Gap(None, None)
    if block is not None and has_batch_column(workspace, source):
        return Gap(None, newest, (block.batch,))
    return Gap(None, _newest_block_before(workspace, source, block))


def _new_record(view: View, error: str, datasource: str | None) -> dict[str, Any]:
    """A record without gaps, of a view in full."""
    assert view.mark is not None
    return {
        "error": error,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "fingerprint": view.mark.fingerprint,
        "datasource": datasource,
        "tenant": view.mark.tenant,
        "without": [],
    }


def _newest_block_before(workspace: Workspace, source: Name, block: BatchBlocks | None) -> int | None:
    """The newest block before a batch, in the table that the batch was inserted into; None if it is unknown."""
    if block is None or source != Name(workspace.name, block.datasource):
        return None
    return block.after


def _keep_backfills(workspace: Workspace, view: View) -> None:
    """Keep the outstanding backfills of a view valid while it is suspended."""
    journal = RegistryJournal(workspace.registry)
    journal.record([replace(b, whole=False) for b in journal.outstanding() if b.view == str(view.name) and b.whole])


def _missed_rows(workspace: Workspace, view: View) -> dict[str, Any]:
    """The recorded rows, by batch, that a view has missed while it ran without some tenants."""
    if not view.excluded_tenants:
        return {}
    return dict(workspace.registry.read(SUSPENDED_KIND).get(str(view.name), {}).get("rows", {}))


def complete_record(workspace: Workspace, suspended_view: SuspendedView, block: BatchBlocks | None) -> None:
    """After the INSERT, add the block number to the record of a view whose source's rows do not contain batch ids.

    No other insert has run since. So new blocks of the source come from this INSERT; if there are none, its first
    attempt stored the newest blocks.
    """
    missing = Missing.of(suspended_view.record["missing"])
    if missing is None or block is None or all(g.after is not None for g in missing.gaps):
        return
    if not keeps_block_numbers(workspace, missing.source):
        return
    before = suspended_view.newest
    newest = newest_block(workspace, missing.source)
    count = blocks_of_batch(workspace, missing.source, block) if newest == before else 0
    if count is not None:
        gaps = tuple(replace(g, after=before - count) if g.after is None else g for g in missing.gaps)
        write_record(workspace, suspended_view.view, suspended_view.record, missing.source, gaps)


def record_replacement(workspace: Workspace, view: View) -> None:
    """Record that a view is about to be dropped and created again. The view lock must be held.

    After a kill at this point, the view counts as suspended, and its missing blocks are known.
    """
    live = read_schema(workspace.warehouse, workspace.name, [view.name.database]).views.get(view.name)
    if live is None or live.mark is None:
        return
    source = log_of(workspace, live)
    record = _new_record(live, "a change to this view was interrupted", None)
    gap = Gap(None, newest_block(workspace, source) if keeps_block_numbers(workspace, source) else None)
    write_record(workspace, live, record, source, (*gaps_of(workspace, live), gap))
