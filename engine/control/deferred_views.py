"""Views that could not be made while their tenant was owed rows: made as soon as the tenant has caught up.

A view on a table in a nest would have rows that will come to that table again from its history, and once more. So a
push leaves it out and notes it; when nothing on its way is owed any more, it is made with its whole history.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import cast

import structlog

from engine.control.doctor.findings import Context, Finding, error
from engine.control.planning import desired_schema
from engine.control.push import plan_for_tenants, run
from engine.errors import RookeryError
from engine.fanout.router import router_of
from engine.fanout.suspended_views import forget_repaired, suspended
from engine.plan.steps import CreateView, DropTable, Plan
from engine.workspace.journal import DEFERRED_KIND
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.control")

EVERY, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between looks at whether the tenants have caught up, and most of them after failures."""


class Deferred:
    """Makes such views, in a thread that runs while there are any."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        workspace.on_views_deferred = self.watch

    def watch(self) -> None:
        """Look at the tenants from time to time until all views are made."""
        with self._lock:
            if self._closed or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._watch, name="deferred views", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread; what is noted is taken up at the next start."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(30)

    def make(self) -> None:
        """Make the views of tenants that have caught up. Raises RK3010 when one cannot be made."""
        workspace = self._workspace
        with workspace.changes:
            notes = workspace.registry.read(DEFERRED_KIND)
            owed = self._owed()
            snapshot = workspace.refresh()
            ready = {t for t, row in snapshot.tenants.items() if row.placement == "tables"} - owed
            mine = {n for n, note in notes.items() if note["tenant"] not in owed}
            plan = plan_for_tenants(workspace, sorted({notes[n]["tenant"] for n in mine} & ready))
            dropped = {s.name for s in plan.steps if isinstance(s, DropTable)}
            steps = [
                s
                for s in plan.steps
                if isinstance(s, CreateView) and str(s.view.name) in mine and s.view.target not in dropped
            ]
            # The others stand already, nothing wants them any more, or a push has to decide about their targets.
            workspace.registry.remove(DEFERRED_KIND, mine - {str(s.view.name) for s in steps})
            if steps:
                run(workspace, Plan(tuple(steps)))
            if steps and suspended(workspace):
                forget_repaired(workspace, desired_schema(snapshot.build, snapshot))

    def _owed(self) -> set[str]:
        """Tenants that have not caught up with some datasource."""
        positions = router_of(self._workspace).positions().values()
        return {t for p in positions for group in p.lagging for t in group.members}

    def _watch(self) -> None:
        pause = EVERY
        while not self._wake.wait(pause):
            pause = min(pause * 2, LONGEST_PAUSE)
            try:
                notes = self._workspace.registry.read(DEFERRED_KIND)
                if not notes:
                    return
                if not {n["tenant"] for n in notes.values()} <= self._owed():
                    self.make()
                pause = EVERY
            except RookeryError as exc:
                log.error("views could not be made yet", error=exc)
            except Exception:
                log.exception("views could not be made yet")


def deferred_of(workspace: Workspace) -> Deferred:
    """The workspace's deferred views; ended with the workspace. Takes up what an earlier process has noted."""
    found = workspace.attached.get("deferred")
    if found is None:
        with workspace.changes:
            found = workspace.attached.get("deferred")
            if found is None:
                found = workspace.attached["deferred"] = Deferred(workspace)
                found.watch()
    return cast(Deferred, found)


def deferred_views(patient: Context) -> Iterator[Finding]:
    """Views that wait until their tenants have caught up."""
    for view, note in sorted(patient.workspace.registry.read(DEFERRED_KIND).items()):
        why = f"it is not made yet, since tenant {note['tenant']} is owed rows, which it would take twice"
        yield error(
            "deferred-view",
            view,
            f"{why}; waiting since {note['since']}",
            "it is made by itself when the tenant has caught up; what keeps the tenant is a finding of its own",
        )
