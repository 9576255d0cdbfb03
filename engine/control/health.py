"""Whether the workspace can serve: asked often, so what takes long is looked at now and then only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from engine.workspace.disk import Damage, damaged_parts, shortage
from engine.workspace.workspace import Workspace

DISK_CHECK_SECONDS = 15.0
"""Seconds for which what is known of parts is good enough."""


class Health:
    """What keeps a workspace from being ready."""

    def __init__(self, workspace: Workspace, now: Callable[[], float] = time.monotonic) -> None:
        self._workspace = workspace
        self._now = now
        self._lock = threading.Lock()
        self._looked: float | None = None
        self._damage: Damage | None = None

    def reason(self) -> str | None:
        """Why the workspace is not ready; None if it is. Raises RK6xxx when the database does not answer."""
        self._workspace.registry.version()
        if shortage(self._workspace) is not None:
            return "the disk is full, or nearly so"
        # Anybody may ask, and names of tables tell who the tenants are.
        return "a part of a table is damaged: rookery doctor names it" if self._damaged() else None

    def _damaged(self) -> Damage | None:
        with self._lock:
            if self._looked is None or self._now() - self._looked >= DISK_CHECK_SECONDS:
                self._damage = next(damaged_parts(self._workspace), None)
                self._looked = self._now()
            return self._damage
