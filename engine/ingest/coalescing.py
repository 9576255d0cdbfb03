"""The delay that lets callers that got their responses at the same time also share their next batch.

Without it, the callers would split into groups: the fastest share a small batch, and the others wait for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

MIN_CALLERS = 4
"""Fewer callers are not waited for."""
QUIET_SECONDS = 0.003
"""The delay ends after this many seconds without a new append, if there was one."""
TIMEOUT_SECONDS = 0.025
"""The longest delay."""
ENOUGH_BYTES = 512 << 10
"""Number of waiting bytes that are enough for a batch, so that the delay ends."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The appends that wait in an ingest queue at one moment."""

    appends: int
    size: int
    """Bytes of their bodies."""


class CoalescingDelay:
    """Delays the next batch of one datasource. Each ingest queue has one.

    An ingest thread calls `wait` without the gateway's lock, so that appends can arrive meanwhile. A request thread
    calls `note` with the lock held. The counts that `wait` reads may be outdated, which extends the delay by
    at most one quiet period.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, arrived: threading.Event | None = None) -> None:
        self._now = now
        self._arrived = arrived or threading.Event()
        """Set by an append that ends the delay."""
        self._callers = 0
        """Appends that end the delay."""
        self._sharing: str | None = None
        """What the appends of the delayed batch share (`Append.sharing`)."""

    def note(self, sharing: str | None, waiting: Waiting) -> None:
        """End the delay if enough appends wait now, or if the newest cannot join the delayed batch."""
        if self._has_enough(waiting) or sharing != self._sharing:
            self._arrived.set()

    def wait(
        self,
        callers: int,
        sharing: str | None,
        waiting: Callable[[], Waiting],
        is_closed: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait until as many appends as `callers` are waiting, or no more are expected."""
        if callers < MIN_CALLERS:
            return
        # Done before the event is cleared: an append that arrives at this point is counted below.
        self._callers, self._sharing = callers, sharing
        timeout = self._now() + TIMEOUT_SECONDS
        self._arrived.clear()
        initial = previous = waiting().appends
        while not (self._has_enough(waiting()) or is_closed() or self._now() > timeout):
            if self._arrived.wait(QUIET_SECONDS):
                return
            appends = waiting().appends
            if initial < appends == previous:
                # Some callers have sent another append, but none in the last quiet period, so the others are not
                # expected to.
                return
            previous = appends

    def _has_enough(self, waiting: Waiting) -> bool:
        """Whether all awaited appends wait, or enough bytes for a batch."""
        return waiting.appends >= self._callers or waiting.size >= ENOUGH_BYTES
