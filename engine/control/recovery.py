"""Finishing deliveries of history that an interrupted run left noted."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from engine.compiler import storage
from engine.control.migrations import migrate
from engine.errors import APPLY_FAILED, RookeryError
from engine.fanout.missing_rows import SUSPENDED_KIND as SUSPENDED
from engine.fanout.missing_rows import clamp_gaps
from engine.fanout.modes import reconcile_modes
from engine.fanout.startup_recovery import complete
from engine.plan.backfill import Backfill, Progress, deliver, silent
from engine.schema import Mark, Name
from engine.warehouse.catalog import load_tables_named
from engine.workspace.journal import RegistryJournal
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.history")


def resume(workspace: Workspace, progress: Progress = silent) -> dict[str, int]:
    """Deliver every noted history whose view stands; a note whose view never came to be is struck off.

    What cannot be delivered stays noted and is told in the log, and by the doctor; nobody else waits for it.
    """
    journal = RegistryJournal(workspace.registry)
    outstanding = journal.outstanding()
    if not outstanding:
        return {}
    valid, void = _sorted_out(workspace, outstanding)
    journal.delete(void)
    return deliver(valid, workspace.warehouse, journal, progress, _tell)


def undelivered(workspace: Workspace, concerns: Callable[[Backfill], bool]) -> RookeryError | None:
    """RK3010 for a noted history that could not be delivered, if there is one that concerns whoever asks."""
    stuck = [h for h in RegistryJournal(workspace.registry).outstanding() if concerns(h)]
    if not stuck:
        return None
    whose = f" for tenant `{stuck[0].tenant}`" if stuck[0].tenant else ""
    more = f" (and {len(stuck) - 1} more)" if len(stuck) > 1 else ""
    return RookeryError(
        APPLY_FAILED,
        f"the history of `{stuck[0].view}` cannot be delivered{whose}{more}; everything else is done",
        hint="mend the pipe, or the rows, and run the command again; the server's log tells more",
    )


def _tell(item: Backfill, exc: RookeryError) -> None:
    log.error("history waits", view=item.view, tenant=item.tenant, error=exc)


def finish(workspace: Workspace) -> None:
    """Deliver what a process that was killed had begun, before the first insert of this one.

    Until then a target still recognises what it has; a hundred inserts later it would take some of it twice.
    """
    with workspace.changes:
        try:
            clamp_gaps(workspace)
            complete(workspace)
            resume(workspace)
            migrate(workspace)
            reconcile_modes(workspace, workspace.current.build)
            _wake_expiring(workspace)
        except RookeryError as exc:
            log.error("history could not be delivered; run the command again", error=exc)


def _wake_expiring(workspace: Workspace) -> None:
    """Load tables whose rows have a lifetime; nothing expires in a table that waits on disk."""
    datasources = workspace.current.build.datasources.values()
    load_tables_named(workspace.warehouse, workspace.name, [d.name for d in datasources if d.engine.ttl])


def _sorted_out(workspace: Workspace, notes: list[Backfill]) -> tuple[list[Backfill], list[Backfill]]:
    """Deliveries into views that stand, and those that are void; others wait until their suspended view is back."""
    views = workspace.warehouse.query(
        "SELECT concat(database, '.', name), comment FROM system.tables "
        "WHERE engine = 'MaterializedView' AND startsWith(database, {w:String})",
        {"w": workspace.name},
    )
    marks = {name: Mark.read(comment) for name, comment in views.rows}
    suspended = workspace.registry.read(SUSPENDED)
    pool = workspace.warehouse.query(f"SELECT id FROM {Name(workspace.name, storage.POOL_TABLE).sql()}")
    pooled = {row[0] for row in pool.rows}
    valid, void = list[Backfill](), list[Backfill]()
    for note in notes:
        mark = marks.get(note.view)
        narrowed = mark is not None and bool(mark.without)
        if (_of_pool(workspace, note) and note.tenant not in pooled) or (note.whole and narrowed):
            void.append(note)
        elif note.view in marks:
            valid.append(note)
        elif note.whole or note.view not in suspended:
            void.append(note)
    return valid, void


def _of_pool(workspace: Workspace, note: Backfill) -> bool:
    return note.tenant is not None and note.view.startswith(f"{workspace.name}.")
