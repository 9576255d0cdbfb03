"""How much one caller may ask at once: queries in flight per token and per tenant, and requests per second."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from threading import Lock

from engine.errors import TOO_MANY, RookeryError

MAX_TRACKED_CALLERS = 50_000


class InFlight:
    """Counts what is running by key, and refuses what is too much."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: dict[Hashable, int] = {}

    def enter(self, keys: Iterable[tuple[Hashable, int]]) -> list[Hashable]:
        """Take a place under every key, each with its limit. Raises RK4010 and takes none when one is full."""
        wanted = list(keys)
        with self._lock:
            for key, limit in wanted:
                if self._running.get(key, 0) >= limit:
                    raise RookeryError(
                        TOO_MANY,
                        f"{limit} queries are running already",
                        hint="wait for one to finish",
                        headers={"Retry-After": "1"},
                    )
            for key, _ in wanted:
                self._running[key] = self._running.get(key, 0) + 1
        return [k for k, _ in wanted]

    def leave(self, keys: Iterable[Hashable]) -> None:
        """Give the places back."""
        with self._lock:
            for key in keys:
                left = self._running.get(key, 1) - 1
                if left > 0:
                    self._running[key] = left
                else:
                    self._running.pop(key, None)

    def __len__(self) -> int:
        return sum(self._running.values())


class Rates:
    """Requests per second by key, in windows of one second."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._windows: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()

    def count(self, key: Hashable, limit: int) -> None:
        """Count one request. Raises RK4010 with `Retry-After` when the second's share is used up."""
        second = int(time.monotonic())
        with self._lock:
            window, used = self._windows.pop(key, (second, 0))
            used = used + 1 if window == second else 1
            self._windows[key] = (second, used)
            if len(self._windows) > MAX_TRACKED_CALLERS:
                self._windows.popitem(last=False)
        if used > limit:
            headers = {"Retry-After": "1", "X-RateLimit-Limit": str(limit), "X-RateLimit-Remaining": "0"}
            raise RookeryError(
                TOO_MANY, f"the token allows {limit} requests a second", headers={**headers, "X-RateLimit-Reset": "1"}
            )
