"""Tracks running queries, to cancel them and to count those that exceed their time limit.

The engine checks time limits between blocks only. It cannot interrupt a function that takes a minute for one row, and
the reader that runs it stays busy.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Ticket:
    """One query: its `id` in the database, its time limit in `seconds`, whether it is cancelled, and its deadline.

    `overdue_at` is None while no call to the database runs.
    """

    __slots__ = ("cancelled", "id", "overdue_at", "seconds")

    def __init__(self) -> None:
        self.id = "rk_" + secrets.token_hex(12)
        self.cancelled = False
        self.seconds = 0.0
        self.overdue_at: float | None = None


class RunningQueries:
    """All calls to the database that are running now. Safe for threads."""

    def __init__(
        self, cancel: Callable[[str], None], grace: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`cancel` ends a query by its id; `grace` is the number of seconds after its time limit in which a query may
        still end.
        """
        self._cancel, self._grace = cancel, grace
        self._clock = clock
        self._lock = threading.Lock()
        self._tickets: dict[str, Ticket] = {}

    @contextmanager
    def watch(self, ticket: Ticket) -> Iterator[None]:
        """The context of one call to the database, which should take no longer than the ticket's `seconds`."""
        ticket.overdue_at = self._clock() + ticket.seconds + self._grace
        with self._lock:
            self._tickets[ticket.id] = ticket
        try:
            yield
        finally:
            ticket.overdue_at = None
            with self._lock:
                self._tickets.pop(ticket.id, None)

    def cancel(self, ticket: Ticket) -> None:
        """Cancel a query in the database, or keep it from starting. May be called more than once."""
        # First: a query that has not started yet looks at this, and then never starts.
        ticket.cancelled = True
        if ticket.overdue_at is not None:
            self._cancel(ticket.id)

    def cancel_all(self) -> None:
        """Cancel every running query."""
        with self._lock:
            tickets = list(self._tickets.values())
        # Done without the lock: cancelling waits for the database, and the cancelled queries need the lock to leave.
        for ticket in tickets:
            self.cancel(ticket)

    def stuck(self) -> int:
        """The number of queries that have exceeded their time limit and the grace period."""
        now = self._clock()
        with self._lock:
            return sum(1 for t in self._tickets.values() if t.overdue_at is not None and now > t.overdue_at)
