"""How long INSERTs into a datasource have failed, which decides whether a failing view is suspended for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MAX_TRIES, RETRY_TIMEOUT_SECONDS = 5, 10.0
"""A view that the error names is suspended after this many attempts, and this many seconds after the first
failure.
"""


class InsertFailures:
    """Counts failed INSERTs by datasource since the last success. Any thread may use it."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._failures: dict[str, tuple[float, int]] = {}
        """By datasource: the time of the first failed INSERT, and the number of failures."""

    def count(self, datasource: str) -> None:
        """Note a failure."""
        with self._lock:
            first, failures = self._failures.get(datasource, (self._now(), 0))
            self._failures[datasource] = (first, failures + 1)

    def forget(self, datasource: str) -> None:
        """Note a success."""
        # Called for every batch; the dictionary is nearly always empty, so it is read without the lock.
        if self._failures:
            with self._lock:
                self._failures.pop(datasource, None)

    def may_retry(self, datasource: str) -> bool:
        """Whether a failing INSERT is retried later, instead of suspending the view that the error names."""
        with self._lock:
            first, failures = self._failures.get(datasource, (self._now(), 0))
            return failures < MAX_TRIES or self._now() - first < RETRY_TIMEOUT_SECONDS
