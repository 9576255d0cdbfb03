"""A fair queue for database readers: no caller gets all of them, and waiting callers take turns.

It is used only on the event loop, so it does not need a lock, and waiting requests do not occupy threads.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from engine.errors import BUSY, TOO_MANY, RookeryError
from engine.warehouse.port import Usage

RETRY_HEADERS = {"Retry-After": "1"}


class ReaderQueue:
    """Allows up to `readers` queries at once, and up to `share` of them from one caller.

    A caller has at most `max_queries`, running and waiting. A query waits at most `timeout_seconds`.
    """

    def __init__(self, readers: int, share: int, max_queries: int, timeout_seconds: float) -> None:
        self._readers = self._free = readers
        self._share, self._max_queries = share, max_queries
        self._timeout_seconds = timeout_seconds
        # The seconds for which a client may keep a reader that others wait for. They get it before they give up.
        self.patience = timeout_seconds / 2
        self._running: dict[Hashable, int] = {}
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[bool]]] = OrderedDict()

    def usage(self) -> Usage:
        """Readers in use, and queries that wait for one."""
        waiting = sum(len(queue) for queue in self._waiting.values())
        return Usage(self._readers, self._readers - self._free, waiting)

    def running(self, caller: Hashable) -> int:
        """The readers of a caller."""
        return self._running.get(caller, 0)

    def is_wanted(self, caller: Hashable) -> bool:
        """Whether a caller with fewer readers waits for one."""
        return any(self.running(c) < self.running(caller) for c in self._waiting)

    def others_wait(self, caller: Hashable) -> bool:
        """Whether a reader that this caller returns would go to another one."""
        return any(c != caller and self.running(c) < self._share for c in self._waiting)

    @asynccontextmanager
    async def turn(self, caller: Hashable) -> AsyncIterator[None]:
        """A reader for the duration of a block; see `enter`."""
        await self.enter(caller)
        try:
            yield
        finally:
            self.leave(caller)

    async def enter(self, caller: Hashable) -> None:
        """Get a reader, waiting for it if necessary. Call `leave` when the query has ended.

        Raises RK4010 when the caller has too many queries, or uses its whole share for too long, and RK6003 when no
        reader becomes free in time.
        """
        waiting = self._waiting.get(caller, ())
        if self.running(caller) + len(waiting) >= self._max_queries:
            raise RookeryError(
                TOO_MANY,
                f"{self._max_queries} queries are already running",
                hint="wait until one has finished",
                headers=RETRY_HEADERS,
            )
        # Callers that wait have their whole share; otherwise they would have been given the free reader.
        if not waiting and self._free and self.running(caller) < self._share:
            self._admit(caller)
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        timer = loop.call_later(self._timeout_seconds, _give_up, turn)
        try:
            admitted = await turn
        except asyncio.CancelledError:
            # The caller may already have been given the reader when its cancellation arrives here.
            if turn.done() and not turn.cancelled() and turn.result():
                self.leave(caller)
            raise
        finally:
            timer.cancel()
            self._forget(caller, turn)
        if not admitted:
            raise self._timeout_error(caller)

    def leave(self, caller: Hashable) -> None:
        """Return a reader. It goes to the caller that has waited longest for a turn."""
        remaining = self._running.get(caller, 1) - 1
        self._free += 1
        if remaining > 0:
            self._running[caller] = remaining
        else:
            self._running.pop(caller, None)
        self._hand_over()

    def _hand_over(self) -> None:
        """Give free readers to waiting callers, one reader per caller and turn."""
        for caller in list(self._waiting):
            queue = self._waiting[caller]
            while self._free and queue and self.running(caller) < self._share:
                turn = queue.popleft()
                if turn.done():
                    # Its query has timed out or was cancelled, and has not removed itself from the queue yet.
                    continue
                self._admit(caller)
                turn.set_result(True)
                # The next free reader goes to another waiting caller, if there is one.
                self._waiting.move_to_end(caller)
                break
            if not queue:
                self._waiting.pop(caller, None)

    def _admit(self, caller: Hashable) -> None:
        self._free -= 1
        self._running[caller] = self.running(caller) + 1

    def _forget(self, caller: Hashable, turn: asyncio.Future[bool]) -> None:
        """Remove a turn that ended without a reader from the queue."""
        queue = self._waiting.get(caller)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[caller]

    def _timeout_error(self, caller: Hashable) -> RookeryError:
        """The error for a caller that did not get a reader, depending on whose queries occupy the readers."""
        if self.running(caller) >= self._share:
            message = f"you are already running your maximum of {self._share} concurrent queries"
            return RookeryError(TOO_MANY, message, hint="wait until one has finished", headers=RETRY_HEADERS)
        message = f"no reader became free within {self._timeout_seconds:g} seconds"
        return RookeryError(BUSY, message, hint="try again, or set ROOKERY_READERS higher", headers=RETRY_HEADERS)


def _give_up(turn: asyncio.Future[bool]) -> None:
    if not turn.done():
        turn.set_result(False)
