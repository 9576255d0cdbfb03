"""Completes additions, removals and erasures of tenants that were interrupted, by a kill or an error.

The command may not be repeated for days, and until then the tenant cannot be read, or some of its rows are still
stored. All of these changes can be repeated, and were permitted when they began, so the next start of the server and
the next push complete them, each in the direction of its command.
"""

from __future__ import annotations

import threading

import structlog

from engine.control import tenants
from engine.control.erasure import ERASURE_KIND
from engine.errors import RookeryError
from engine.observe import events
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.control")

CLOSE_SECONDS = 30


class UnfinishedTenants:
    """Completes what is unfinished in a thread, because the history of a tenant may take hours."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        """Protects `_thread` and `_due`."""
        self._thread: threading.Thread | None = None
        """The running thread; None once it has decided to end."""
        self._due: list[str] = []
        """The tenants that the thread has not tried since the last call."""
        self._closed = False

    def complete(self) -> None:
        """Let the thread try each tenant whose change is unfinished. Never raises."""
        try:
            tenants = unfinished(self._workspace)
        except RookeryError as exc:
            log.error("unfinished changes to tenants could not be read", error=exc)
            return
        with self._lock:
            # A tenant that a running thread has tried may succeed now.
            self._due = tenants
            if not tenants or self._closed or self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="unfinished tenants", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait for the current tenant. What remains is completed by the next start."""
        self._closed = True
        thread = self._thread
        if thread is not None:
            thread.join(CLOSE_SECONDS)

    def _next(self) -> str | None:
        """The next tenant; None if the thread ends."""
        with self._lock:
            if self._closed or not self._due:
                self._thread = None
                return None
            return self._due.pop(0)

    def _run(self) -> None:
        while (tenant := self._next()) is not None:
            try:
                complete(self._workspace, tenant)
            except Exception as exc:
                if self._closed:
                    continue
                # `rookery doctor` names the tenant, with the command that completes the change.
                log.error(
                    "a change to a tenant could not be completed",
                    tenant=tenant,
                    error=exc,
                    exc_info=not isinstance(exc, RookeryError),
                )


def unfinished(workspace: Workspace) -> list[str]:
    """The tenants that are being added, removed or erased, possibly by a command that is running."""
    snapshot = workspace.current
    changing = {t.id for t in snapshot.tenants.values() if t.state != "ready"}
    return sorted({*changing, *workspace.registry.read(ERASURE_KIND)})


def complete(workspace: Workspace, tenant: str) -> None:
    """Complete the interrupted change to a tenant, if there is still one. Raises what its command raises."""
    # While this lock is held, no command is working on a tenant.
    with workspace.changes:
        record = workspace.refresh().tenants.get(tenant)
        if tenant in workspace.registry.read(ERASURE_KIND):
            tenants.remove(workspace, tenant, purge=True)
        elif record is not None and record.state == "removing":
            tenants.remove(workspace, tenant)
        elif record is not None and record.state == "adding":
            tenants.add(workspace, [tenant])
        else:
            return
        events.note("interrupted change to a tenant completed", tenant=tenant)


def unfinished_tenants_of(workspace: Workspace) -> UnfinishedTenants:
    """The workspace's `UnfinishedTenants`, created on first use."""
    return workspace.service("unfinished tenants", lambda: UnfinishedTenants(workspace))
