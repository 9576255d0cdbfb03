"""Undoes merges that produced damaged parts, before the engine deletes the original parts."""

from __future__ import annotations

import threading

import structlog

from engine.errors import RookeryError
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.fanout")

CHECK_PAUSE_SECONDS = 5.0
"""Pause between two checks: a fraction of the time for which the engine keeps the original parts of a merge."""


class MergeWatcher:
    """A thread that checks the parts that merges have produced."""

    def __init__(self, workspace: Workspace, pause_seconds: float = CHECK_PAUSE_SECONDS) -> None:
        self._workspace = workspace
        self._pause_seconds = pause_seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="merges", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._end.set()
        self._thread.join(30)

    def check(self) -> bool:
        """Check once. Returns whether a damaged merge was found. Raises if a table cannot be attached again."""
        warehouse = self._workspace.warehouse
        if not warehouse.note_damaged_merges():
            return False
        # The tables are detached for a moment, so no insert may run.
        with self._workspace.insert_lock.exclusive():
            warehouse.undo_merges()
        return True

    def _run(self) -> None:
        """The thread: check until the watcher is closed."""
        while not self._end.wait(self._pause_seconds):
            try:
                self.check()
            except RookeryError as exc:
                log.error("a damaged merge could not be undone", error=exc)
            except Exception:
                log.exception("merges could not be checked")


def watch_merges(workspace: Workspace) -> None:
    """Check merges until the workspace is closed. Only for an embedded engine, because rookery cannot access a
    server's files.
    """
    if workspace.warehouse.capabilities.embedded:
        workspace.service("merges", lambda: MergeWatcher(workspace))
