"""Delivers the history that an interrupted run has recorded but not delivered, and reports what cannot be
delivered.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from engine.compiler import storage
from engine.errors import APPLY_FAILED, RookeryError
from engine.fanout.suspension_records import SUSPENDED_KIND
from engine.plan.backfill import Backfill
from engine.plan.backfill_delivery import deliver, described
from engine.plan.progress import Progress, silent
from engine.schema import Mark, Name
from engine.workspace.journal import RegistryJournal
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.history")


def deliver_unfinished(workspace: Workspace, progress: Progress = silent) -> dict[str, int]:
    """Deliver every recorded history whose view exists, and delete records whose view was never created.

    History that cannot be delivered stays recorded. It is reported in the log and by `rookery doctor`, and does not
    delay anything else. Returns the number of delivered ranges by view.
    """
    journal = RegistryJournal(workspace.registry)
    outstanding = journal.outstanding()
    if not outstanding:
        return {}
    deliverable, void = _classify(workspace, outstanding)
    # Otherwise a view of that name that is created later would get this history in addition to its own.
    journal.delete(void)
    return deliver(deliverable, workspace.warehouse, journal, progress, _log_failure)


def undelivered_error(outstanding: Iterable[Backfill]) -> RookeryError | None:
    """RK3010 for the first of the recorded histories; None without any."""
    stuck = list(outstanding)
    if not stuck:
        return None
    owner = f" for tenant `{stuck[0].tenant}`" if stuck[0].tenant else ""
    more = f" (and {len(stuck) - 1} more)" if len(stuck) > 1 else ""
    return RookeryError(
        APPLY_FAILED,
        f"the history of `{stuck[0].view}` cannot be delivered{owner}{more}; all other steps are complete",
        hint="fix the pipe, or the rows, and run the command again; the server's log has the error",
    )


def _log_failure(item: Backfill, exc: RookeryError) -> None:
    """Log that a history cannot be delivered now."""
    log.error("history waits", view=item.view, tenant=item.tenant, error=described(item, exc))


def _classify(workspace: Workspace, outstanding: list[Backfill]) -> tuple[list[Backfill], list[Backfill]]:
    """Split records into those to deliver and those that are void.

    A record in neither list waits until its suspended view is created again. A record is void if its tenant has left
    the pool, if its view was never created, or if it covers all tenants but the live view excludes some of them.
    """
    views = workspace.warehouse.query(
        "SELECT concat(database, '.', name), comment FROM system.tables "
        "WHERE engine = 'MaterializedView' AND startsWith(database, {w:String})",
        {"w": workspace.name},
    )
    marks = {name: Mark.read(comment) for name, comment in views.rows}
    suspended = workspace.registry.read(SUSPENDED_KIND)
    pool = workspace.warehouse.query(f"SELECT id FROM {Name(workspace.name, storage.POOL_TABLE).sql()}")
    pooled = {row[0] for row in pool.rows}
    deliverable, void = list[Backfill](), list[Backfill]()
    for item in outstanding:
        mark = marks.get(item.view)
        narrowed = mark is not None and bool(mark.excluded_tenants)
        if (_is_for_pooled_tenant(workspace, item) and item.tenant not in pooled) or (item.whole and narrowed):
            void.append(item)
        elif item.view in marks:
            deliverable.append(item)
        elif item.whole or item.view not in suspended:
            void.append(item)
    return deliverable, void


def _is_for_pooled_tenant(workspace: Workspace, item: Backfill) -> bool:
    """Whether a record concerns one tenant in shared targets."""
    return item.tenant is not None and item.view.startswith(f"{workspace.name}.")
