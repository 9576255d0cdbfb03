"""Limits for each caller: concurrent queries, and requests per second. Both are counted per process."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from threading import Lock

from engine.cache import LruCache, size_of
from engine.errors import TOO_MANY, RookeryError

MAX_TRACKED_CALLERS = 50_000
"""Maximum number of callers whose requests are counted; beyond that, the least recent caller is forgotten."""


MAX_CALLER_SHARE = 3
"""A caller's maximum share of an endpoint's concurrent queries, as a multiple of those that are still free."""


@dataclass(frozen=True, slots=True)
class SharedLimit:
    """A limit that callers share: the more of it is in use, the less a caller may use."""

    shared: Hashable
    """The key of what has the limit."""
    caller: Hashable
    """The key of the caller's part."""
    limit: int

    def allows(self, running: int, own: int) -> bool:
        """Whether the caller may run one more query; `running` are all running queries, `own` the caller's.

        Only a caller without a running query gets the last one, so it takes many callers to use up the limit.
        """
        free = self.limit - running
        return free > 0 if own == 0 else free > 1 and own < MAX_CALLER_SHARE * free


class InFlight:
    """Counts running queries by key, and refuses those over the limit. Safe for threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: dict[Hashable, int] = {}

    def enter(self, limits: Iterable[tuple[Hashable, int]], endpoint: SharedLimit | None = None) -> list[Hashable]:
        """Count a query for every key, each with its limit. If a limit is reached, raises RK4010 and counts
        nothing.
        """
        requested = list(limits)
        keys = [key for key, _ in requested] + ([endpoint.shared, endpoint.caller] if endpoint else [])
        # All keys are checked and counted while the lock is held, so a query that one key refuses is not counted for
        # any.
        with self._lock:
            for key, limit in requested:
                if self._running.get(key, 0) >= limit:
                    raise _too_many(limit)
            if endpoint:
                own = self._running.get(endpoint.caller, 0)
                if not endpoint.allows(self._running.get(endpoint.shared, 0), own):
                    raise _too_many(own or endpoint.limit)
            for key in keys:
                self._running[key] = self._running.get(key, 0) + 1
        return keys

    def leave(self, keys: Iterable[Hashable]) -> None:
        """Stop counting a query that has ended."""
        with self._lock:
            for key in keys:
                remaining = self._running.get(key, 1) - 1
                if remaining > 0:
                    self._running[key] = remaining
                else:
                    self._running.pop(key, None)

    def __len__(self) -> int:
        return sum(self._running.values())


def _too_many(running: int) -> RookeryError:
    return RookeryError(
        TOO_MANY,
        "one query is already running" if running == 1 else f"{running} queries are already running",
        hint="wait until one has finished",
        headers={"Retry-After": "1"},
    )


class Rates:
    """Requests per second by key, in windows of one second. Safe for threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._windows: LruCache[Hashable, tuple[int, int]] = LruCache(MAX_TRACKED_CALLERS, weigh=size_of)

    def count(self, key: Hashable, limit: int) -> None:
        """Count one request. Raises RK4010 with `Retry-After` when the limit of this second is reached."""
        second = int(time.monotonic())
        with self._lock:
            window, used = self._windows.get(key) or (second, 0)
            used = used + 1 if window == second else 1
            self._windows.put(key, (second, used))
        if used > limit:
            headers = {"Retry-After": "1", "X-RateLimit-Limit": str(limit), "X-RateLimit-Remaining": "0"}
            raise RookeryError(
                TOO_MANY,
                f"the token allows {limit} requests per second",
                headers={**headers, "X-RateLimit-Reset": "1"},
            )
