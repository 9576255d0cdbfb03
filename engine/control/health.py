"""Checks whether the workspace can serve requests. This is requested often, so the slow part of the result is
cached.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from engine.workspace.disk import Damage, damaged_parts, shortage
from engine.workspace.workspace import Workspace

DISK_CHECK_SECONDS = 15.0
"""Seconds for which the last check of the parts is reused."""


class Health:
    """Checks whether a workspace is ready. Request threads share one instance."""

    def __init__(self, workspace: Workspace, now: Callable[[], float] = time.monotonic) -> None:
        self._workspace = workspace
        self._now = now
        self._lock = threading.Lock()
        self._checked_at: float | None = None
        self._damage: Damage | None = None

    def reason(self) -> str | None:
        """Why the workspace is not ready; None if it is. Raises RK6xxx if the database does not answer."""
        self._workspace.registry.version()
        if shortage(self._workspace) is not None:
            return "the disk is full, or nearly so"
        # The message names no table, because the route does not need a token and the names of nests contain tenant
        # ids.
        return "a part of a table is damaged: rookery doctor names it" if self._damaged() else None

    def _damaged(self) -> Damage | None:
        with self._lock:
            # Concurrent probes wait for one check, instead of each running its own.
            if self._checked_at is None or self._now() - self._checked_at >= DISK_CHECK_SECONDS:
                self._damage = next(damaged_parts(self._workspace), None)
                self._checked_at = self._now()
            return self._damage
