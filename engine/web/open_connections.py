"""Counts a server's open connections, and checks their deadlines. All code runs on the event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.settings import Settings
from engine.web.request_log import RequestLog

if TYPE_CHECKING:
    from engine.web.connections import GuardedProtocol


@dataclass(slots=True)
class Bounds:
    """The limits of one server's connections, the open connections, and the timer that closes overdue ones."""

    settings: Settings
    log: RequestLog
    """Records the requests."""
    open: dict[GuardedProtocol, str] = field(default_factory=dict)
    """Accepted connections with their client's address."""
    by_address: Counter[str] = field(default_factory=Counter)
    """Accepted connections of each address."""
    refused: set[GuardedProtocol] = field(default_factory=set)
    """Refused connections that are still open."""
    timer: asyncio.TimerHandle | None = None
    """Checks the deadlines of all connections; None while there are no connections."""

    def enter(self, connection: GuardedProtocol, address: str) -> bool:
        """Add a new connection, and return whether it is within the limits.

        Refused ones do not count: otherwise one address could keep all others out.
        """
        maximum = self.settings.max_connections_per_address
        fits = len(self.open) < self.settings.max_connections and (not maximum or self.by_address[address] < maximum)
        if fits:
            self.open[connection] = address
            self.by_address[address] += 1
        else:
            self.refused.add(connection)
        if self.timer is None:
            self._schedule_check(connection.loop)
        return fits

    @property
    def may_answer(self) -> bool:
        """Whether another refused connection may stay open until its client has read the response."""
        return len(self.refused) <= self.settings.max_connections

    def leave(self, connection: GuardedProtocol) -> None:
        """Remove a connection. Called for each one, even if it was refused."""
        self.refused.discard(connection)
        address = self.open.pop(connection, None)
        if address is not None:
            self.by_address[address] -= 1
            if not self.by_address[address]:
                del self.by_address[address]

    def _schedule_check(self, loop: asyncio.AbstractEventLoop) -> None:
        """Check the deadlines again soon: a fraction of the shortest time limit from now."""
        limits = self.settings
        shortest = min(limits.header_seconds, limits.body_seconds, limits.idle_seconds, limits.send_seconds)
        self.timer = loop.call_later(min(1.0, shortest / 4), self._check_deadlines, loop)

    def _check_deadlines(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close overdue connections. One timer serves all of them."""
        self.timer = None
        now = loop.time()
        for connection in (*self.open, *self.refused):
            connection.check_deadline(now)
        if self.open or self.refused:
            self._schedule_check(loop)
