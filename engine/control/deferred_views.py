"""Deferred views: views in a nest whose creation waits until their tenant has received all of its rows.

A view in a nest delivers the existing rows of its source table (its history) and then every row that arrives. While
the table has not received all its rows from the landing log, some of them could be delivered in both ways. So a push
records such a view instead of creating it, and this module creates it, with its whole history, when the tenant has
caught up.
"""

from __future__ import annotations

import threading

import structlog

from engine.control.planning import apply_plan, desired_schema, plan_for_tenants
from engine.errors import RookeryError
from engine.fanout.router import router_of
from engine.fanout.suspension_records import forget_repaired, suspended
from engine.plan.steps import CreateView, DropTable, Plan
from engine.workspace.journal import DEFERRED_KIND
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.control")

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0
"""Seconds between two checks of the tenants: normally, and at most after repeated failures."""


class Deferred:
    """Creates deferred views, in a thread that runs only while there are any."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        """Protects `_calls` and `_is_watching`."""
        self._calls = 0
        """How often `watch` was called."""
        self._is_watching = False
        """Whether the thread will look for deferred views again."""
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        workspace.on_views_deferred = self.watch

    def watch(self) -> None:
        """Start the thread unless it is running. It ends when no view is deferred."""
        with self._lock:
            self._calls += 1
            if self._closed or self._is_watching:
                return
            self._is_watching = True
            self._thread = threading.Thread(target=self._watch, name="deferred views", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread. The records stay in the registry, and the next start continues with them."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(30)

    def create_ready(self) -> None:
        """Create the views of tenants that have caught up. Raises RK3010 when a view cannot be created."""
        workspace = self._workspace
        with workspace.changes:
            # Read again with the lock held, because a push may have changed the records since the thread's last
            # check.
            records = workspace.registry.read(DEFERRED_KIND)
            lagging = self._lagging_tenants()
            snapshot = workspace.refresh()
            ready = {t for t, row in snapshot.tenants.items() if row.placement == "tables"} - lagging
            due = {view for view, record in records.items() if record["tenant"] not in lagging}
            plan = plan_for_tenants(workspace, sorted({records[view]["tenant"] for view in due} & ready))
            dropped = {s.name for s in plan.steps if isinstance(s, DropTable)}
            steps = [
                s
                for s in plan.steps
                if isinstance(s, CreateView) and str(s.view.name) in due and s.view.target not in dropped
            ]
            # Other views that are due already exist, are no longer declared, or need a push to decide about their
            # target.
            workspace.registry.remove(DEFERRED_KIND, due - {str(s.view.name) for s in steps})
            if steps:
                apply_plan(workspace, Plan(tuple(steps)))
            if steps and suspended(workspace):
                forget_repaired(workspace, desired_schema(snapshot.build, snapshot))

    def _lagging_tenants(self) -> set[str]:
        """Tenants that have not received all rows of some landing datasource."""
        positions = router_of(self._workspace).positions().values()
        return {t for p in positions for group in p.lagging for t in group.members}

    def _watch(self) -> None:
        """The thread: checks the tenants' offsets and creates views. After a failure it waits twice as long."""
        pause = FIRST_PAUSE_SECONDS
        while not self._wake.wait(pause):
            pause = min(pause * 2, MAX_PAUSE_SECONDS)
            try:
                calls = self._calls
                tenants = {n["tenant"] for n in self._workspace.registry.read(DEFERRED_KIND).values()}
                if not tenants and self._may_end(calls):
                    return
                if tenants and not tenants <= self._lagging_tenants():
                    self.create_ready()
                pause = FIRST_PAUSE_SECONDS
            except RookeryError as exc:
                log.error("deferred views could not be created yet", error=exc)
            except Exception:
                log.exception("deferred views could not be created yet")

    def _may_end(self, calls: int) -> bool:
        """Whether `watch` was not called again after `calls` calls. From then on, the next call starts a thread."""
        with self._lock:
            # The registry is not read with the lock held, so a later call may concern a view that was not in it yet.
            self._is_watching = self._calls != calls
            return not self._is_watching


def deferred_of(workspace: Workspace) -> Deferred:
    """The workspace's `Deferred`, created on first use; it continues with the records of an earlier process."""
    return workspace.service("deferred", lambda: Deferred(workspace), Deferred.watch)
