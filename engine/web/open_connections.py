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
    """Open connections with their client's address."""
    by_address: Counter[str] = field(default_factory=Counter)
    """Open connections of each address."""
    timer: asyncio.TimerHandle | None = None
    """Checks the deadlines of all connections; None while there are no connections."""

    def enter(self, connection: GuardedProtocol, address: str) -> bool:
        """Count a new connection, and return whether it is within the limits. A refused connection counts until it is
        closed.
        """
        maximum = self.settings.max_connections_per_address
        fits = len(self.open) < self.settings.max_connections and (not maximum or self.by_address[address] < maximum)
        self.open[connection] = address
        self.by_address[address] += 1
        if self.timer is None:
            self._schedule_check(connection.loop)
        return fits

    def leave(self, connection: GuardedProtocol) -> None:
        """Stop counting a connection. Called for each connection, even if it was refused."""
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
        for connection in list(self.open):
            connection.check_deadline(now)
        if self.open:
            self._schedule_check(loop)
