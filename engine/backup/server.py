"""Backs up a workspace on a ClickHouse server with its BACKUP statement, at one moment, while rookery runs.

RESTORE gives parts new block numbers and forgets deduplication tokens. So a backup is only made when nothing depends
on them: every batch and every row of the landing logs has been delivered. Then a restore can set all offsets to the
end of the restored logs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from engine.backup import description as descriptions
from engine.backup.description import (
    Description,
    StoredTable,
    Tables,
    describe,
    log_names,
    own_databases,
    stored_tables,
)
from engine.control.planning import desired_schema
from engine.control.unfinished_history import deliver_unfinished
from engine.errors import BACKUP_REFUSED, NOT_DELIVERED, RookeryError
from engine.fanout.batch_completion import UNCERTAIN_KIND
from engine.fanout.router import Router, router_of
from engine.observe import events
from engine.plan.coverage import Coverage
from engine.schema import Name, Schema, View, quote
from engine.warehouse.catalog import read_schema
from engine.warehouse.layout_version import LAYOUT_VERSION
from engine.warehouse.port import Value, Warehouse
from engine.warehouse.registry import STATE_TABLE
from engine.warehouse.server_backup import Destination, Report, Statement, started
from engine.workspace.journal import RegistryJournal
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.backup")

PIN_TIMEOUT_SECONDS = 60.0
"""How long appends wait for the server to begin to copy."""
CATCH_UP_SECONDS = 60.0
"""How long a backup waits for tenants that lag, before appends wait."""


@dataclass(frozen=True, slots=True)
class ServerBackup:
    """One backup of a workspace on a ClickHouse server."""

    workspace: Workspace
    destination: Destination
    flush_receipts: Callable[[], None]
    """Records which batches with receipts are stored."""

    def take(self, report: Report) -> dict[str, Any]:
        """Back up, and return the description.

        Raises BACKUP_REFUSED, NOT_DELIVERED if deliveries cannot be completed, BUSY, ALREADY_EXISTS and the errors of
        the engine.
        """
        warehouse, registry = self.workspace.warehouse, self.workspace.registry
        refuse_unusable_tables(warehouse, own_databases(warehouse, self.workspace.name))
        report("completing deliveries", 0, 0)
        try:
            with self.workspace.changes:
                description, statement, paused = self._begin()
            log.info("a backup was begun", paused_seconds=round(paused, 3))
            state = statement.wait("backing up", report)
        except BaseException:
            # If the server cannot be reached, the next start does this.
            with suppress(RookeryError):
                descriptions.remove(registry)
            raise
        descriptions.remove(registry)
        events.note("backed up", paused_seconds=round(paused, 3), files=state.files)
        return {**description.as_dict(), "destination": str(self.destination), "paused_seconds": round(paused, 3)}

    def _begin(self) -> tuple[Description, Statement, float]:
        """Start the statement at a moment when everything is delivered. Returns the seconds that appends waited."""
        workspace = self.workspace
        router = router_of(workspace)
        _catch_up(workspace, router)
        live = read_schema(workspace.warehouse, workspace.name)
        # Also those that are suspended: their targets may be recomputed later.
        views = list(desired_schema(workspace.current.build, workspace.current).views.values())
        before = stored_tables(workspace.warehouse, live.databases)
        _record_received(workspace, live, views, before)
        started = time.monotonic()
        # Bad rows and receipts of a batch are stored before its good rows, and the backup has all of them or none.
        with workspace.batch_lock.exclusive(), workspace.view_lock.changing():
            _complete(workspace, router)
            now = stored_tables(workspace.warehouse, live.databases)
            _record_received(workspace, live, [v for v in views if _has_grown(v, before, now)], now)
            self.flush_receipts()
            with workspace.warehouse.frozen():
                description, statement = self._copied(views)
        return description, statement, time.monotonic() - started

    def _copied(self, views: list[View]) -> tuple[Description, Statement]:
        """Start the statement, and wait until it holds all parts. No other thread changes the data meanwhile."""
        workspace = self.workspace
        warehouse = workspace.warehouse
        description = describe(warehouse, workspace.name, LAYOUT_VERSION, log_names(views))
        descriptions.write(workspace.registry, description)
        sql = backup_statement(description, self.destination)
        # After an error it is stopped before the tables change again.
        with started(warehouse, sql, self.destination, workspace.name) as statement:
            statement.wait_until_pinned(PIN_TIMEOUT_SECONDS)
            _refuse_foreign_inserts(warehouse, description)
        return description, statement


def backup_statement(description: Description, destination: Destination) -> str:
    """The BACKUP of the databases of a workspace."""
    return f"BACKUP {databases_list(description)} TO {destination.sql()}"


def databases_list(description: Description) -> str:
    """The databases of a workspace, for BACKUP and RESTORE."""
    return ", ".join(f"DATABASE {quote(name)}" for name in description.databases)


def refuse_unusable_tables(warehouse: Warehouse, databases: list[str]) -> None:
    """Raise BACKUP_REFUSED for tables that BACKUP writes without rows, or whose blocks other servers number."""
    names: dict[str, Value] = {"d": [*databases]}
    engines = warehouse.query(
        "SELECT name, engine_full FROM system.databases WHERE name IN {d:Array(String)} "
        "AND (engine != 'Atomic' OR position(engine_full, 'lazy_load_tables') > 0) LIMIT 1",
        names,
    ).rows
    if engines:
        raise RookeryError(
            BACKUP_REFUSED,
            f"database `{engines[0][0]}` cannot be backed up: it has the engine {engines[0][1]}",
            hint="only databases with the engine Atomic, without lazy_load_tables, can be: docs/backup.md",
        )
    tables = warehouse.query(
        "SELECT database, name, engine FROM system.tables WHERE database IN {d:Array(String)} "
        "AND match(engine, '^(Replicated|Shared|TableProxy)') LIMIT 1",
        names,
    ).rows
    if tables:
        database, name, engine = tables[0]
        raise RookeryError(
            BACKUP_REFUSED,
            f"table {database}.{name} cannot be backed up: it has the engine {engine}",
            hint="copy the disk of the ClickHouse server instead: docs/backup.md",
        )


def _catch_up(workspace: Workspace, router: Router) -> None:
    """Deliver what an interrupted run has left, and wait for tenants that lag. Raises NOT_DELIVERED."""
    deliver_unfinished(workspace)
    try:
        router.wait_for(workspace.current.tenants, timeout_seconds=CATCH_UP_SECONDS)
    except RookeryError as exc:
        raise _not_delivered(exc.message, exc.hint, exc.detail) from exc


def _complete(workspace: Workspace, router: Router) -> None:
    """Complete every delivery. The view lock must be held. Raises NOT_DELIVERED for what cannot be completed."""
    try:
        workspace.view_lock.completion.complete_all()
        router.drain()
    except RookeryError as exc:
        raise _not_delivered(exc.message, exc.hint, exc.detail) from exc
    if uncertain := workspace.registry.read(UNCERTAIN_KIND):
        raise _not_delivered(f"batch {min(uncertain)} is not in every table", "rookery doctor")
    if unfinished := RegistryJournal(workspace.registry).outstanding():
        views = sorted({backfill.view for backfill in unfinished})
        raise _not_delivered(f"the backfill of {views[0]} is not complete", "rookery fanout repair")
    lagging = sorted({t for p in router.positions().values() for group in p.lagging for t in group.members})
    if lagging:
        raise _not_delivered(f"tenant `{lagging[0]}` has not received all of its rows", "rookery fanout status")


def _not_delivered(message: str, hint: str | None, detail: str | None = None) -> RookeryError:
    return RookeryError(
        NOT_DELIVERED,
        f"no backup was made, because {message}",
        hint=hint,
        detail=detail,
        headers={"Retry-After": "30"},
    )


def _record_received(workspace: Workspace, live: Schema, views: list[View], tables: Tables) -> None:
    """Record how much views have received, because the numbers that prove it are not the same after a restore."""
    # An empty source proves nothing, and its views have received nothing.
    filled = [v for v in views if (t := tables.get(v.log or v.source)) is not None and t.rows]
    Coverage(workspace.warehouse, workspace.registry, live).renew(filled)


def _has_grown(view: View, before: Tables, now: Tables) -> bool:
    """Whether the source of a view has other rows than before."""
    source = view.log or view.source
    return before.get(source) != now.get(source)


def _refuse_foreign_inserts(warehouse: Warehouse, description: Description) -> None:
    """Raise NOT_DELIVERED if another program has stored rows meanwhile: they may be delivered by half."""
    now = stored_tables(warehouse, description.databases)
    registry = Name(description.workspace, STATE_TABLE)
    # The description itself is one block of the registry.
    changed = [n for n, t in description.tables.items() if _has_changed(t, now.get(n), int(n == registry))]
    if changed:
        raise _not_delivered(
            f"another program has changed {changed[0]} meanwhile", "stop other programs that write, and try again"
        )


def _has_changed(before: StoredTable, now: StoredTable | None, blocks: int) -> bool:
    """Whether a table has received more than a number of blocks, or is another one."""
    if now is None or now.uuid != before.uuid or now.newest_block > before.newest_block + blocks:
        return True
    return before.keeps_rows and now.rows != before.rows
