"""Startup: finish what a killed process had begun, before this process accepts its first insert."""

from __future__ import annotations

import structlog

from engine.control.migrations import migrate
from engine.control.unfinished_history import deliver_unfinished
from engine.errors import RookeryError
from engine.fanout.modes import reconcile_modes
from engine.fanout.startup_recovery import complete
from engine.fanout.suspension_records import clamp_gaps
from engine.observe import events
from engine.warehouse.catalog import load_tables_named
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.history")


def finish(workspace: Workspace) -> None:
    """Complete interrupted deliveries, migrations and changes to fan-out modes. Failures are logged, not raised.

    This must happen before the first insert: a target remembers only the deduplication tokens of its latest blocks.
    After a hundred more inserts it would accept a second time what had been delivered before the kill.
    """
    with workspace.changes:
        try:
            # Done first, while block numbers are those of the last process: the INSERTs below use new ones.
            clamp_gaps(workspace)
            complete(workspace)
            # Done after the uncertain batches: history takes many INSERTs, after which targets forget the tokens of
            # these batches.
            delivered = deliver_unfinished(workspace)
            if delivered:
                events.note("unfinished history delivered", views=list(delivered), ranges=sum(delivered.values()))
            migrate(workspace)
            reconcile_modes(workspace, workspace.current.build)
            _load_expiring_tables(workspace)
        except RookeryError as exc:
            log.error("history could not be delivered; run the command again", error=exc)


def _load_expiring_tables(workspace: Workspace) -> None:
    """Load tables whose rows have a TTL. The engine loads tables on first use, and removes no rows before that."""
    datasources = workspace.current.build.datasources.values()
    load_tables_named(workspace.warehouse, workspace.name, [d.name for d in datasources if d.engine.ttl])
