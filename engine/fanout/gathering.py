"""How long a fan-out worker lets batches accumulate after a slow delivery, so that they share the next one."""

from __future__ import annotations

import time
from collections.abc import Callable

SLOW_FLUSH_SECONDS = 0.5
"""After a delivery of batches that took longer than this, the next one waits for more batches to share it."""
QUIET_SECONDS = 0.05
MAX_SHARE = 0.25
"""The wait ends when no batch has arrived for the quiet time, or after this share of the last delivery's duration."""


class Gathering:
    """One wait. It begins when the object is created; the worker's thread waits until nothing remains."""

    def __init__(self, last_flush_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._is_needed = last_flush_seconds >= SLOW_FLUSH_SECONDS
        self._queued = 0
        self._last_arrival = now()
        self._latest_end = self._last_arrival + last_flush_seconds * MAX_SHARE

    def remaining(self, queued: int) -> float:
        """Seconds to wait unless another batch arrives; 0 or less if the wait is over. `queued` batches wait now."""
        if not self._is_needed:
            return 0.0
        now = self._now()
        if queued > self._queued:
            self._queued, self._last_arrival = queued, now
        return min(self._last_arrival + QUIET_SECONDS, self._latest_end) - now
