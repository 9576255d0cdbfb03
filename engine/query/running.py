"""Queries that run: how each can be cancelled, and how many go on although their time is over.

The engine looks at limits of time between blocks. A function that takes a minute for one row is out of its reach, and
so is the reader that runs it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Ticket:
    """One query: the `id` by which the database knows it, whether it was cancelled, and when it should have ended."""

    __slots__ = ("cancelled", "id", "overdue_at", "seconds")

    def __init__(self) -> None:
        self.id = "rk_" + secrets.token_hex(12)
        self.cancelled = False
        self.seconds = 0.0
        self.overdue_at: float | None = None


class RunningQueries:
    """All queries that the database is asked at this moment."""

    def __init__(
        self, cancel: Callable[[str], None], grace: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`grace` is how many seconds after its limit a query may still be ending."""
        self._cancel, self._grace = cancel, grace
        self._clock = clock
        self._lock = threading.Lock()
        self._tickets: dict[str, Ticket] = {}

    @contextmanager
    def at_work(self, ticket: Ticket) -> Iterator[None]:
        """The length of one call to the database, which should take no longer than the ticket's `seconds`."""
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
        """Have the database end a query, and do not begin it if it has not begun. Harmless when repeated."""
        ticket.cancelled = True
        if ticket.overdue_at is not None:
            self._cancel(ticket.id)

    def cancel_all(self) -> None:
        """Have the database end every query."""
        with self._lock:
            tickets = list(self._tickets.values())
        for ticket in tickets:
            self.cancel(ticket)

    def stuck(self) -> int:
        """How many queries should have ended."""
        now = self._clock()
        with self._lock:
            return sum(1 for t in self._tickets.values() if t.overdue_at is not None and now > t.overdue_at)
