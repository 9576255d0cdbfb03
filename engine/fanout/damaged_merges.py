"""Merges that make damaged parts are undone soon, for what a part was made from is kept for a short time only."""

from __future__ import annotations

import threading

import structlog

from engine.errors import RookeryError
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.fanout")

PAUSE = 5.0
"""Seconds between two looks, several times in which the engine keeps what parts were merged from."""


class Merges:
    """A thread that looks at the parts that merges have made."""

    def __init__(self, workspace: Workspace, pause: float = PAUSE) -> None:
        self._workspace = workspace
        self._pause = pause
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look_again, name="merges", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._end.set()
        self._thread.join(30)

    def look(self) -> bool:
        """Look once; whether a damaged merge was found. Raises when a table cannot be brought back."""
        warehouse = self._workspace.warehouse
        if not warehouse.note_damaged_merges():
            return False
        # Tables are away for a moment, which an insert must not meet.
        with self._workspace.insert_lock.exclusive():
            warehouse.undo_merges()
        return True

    def _look_again(self) -> None:
        while not self._end.wait(self._pause):
            try:
                self.look()
            except RookeryError as exc:
                log.error("a damaged merge could not be undone", error=exc)
            except Exception:
                log.exception("merges could not be looked at")


def watch_merges(workspace: Workspace) -> None:
    """Look at merges until the workspace is closed, where the engine's files are this process's."""
    if workspace.warehouse.capabilities.embedded and "merges" not in workspace.attached:
        workspace.attached["merges"] = Merges(workspace)
