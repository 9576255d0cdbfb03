"""Turns for readers: no caller has all of them, and waiting callers take turns.

Used on the event loop only, so that a request that waits occupies no thread.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable

from engine.errors import BUSY, TOO_MANY, RookeryError

RETRY_HEADERS = {"Retry-After": "1"}


class ReaderQueue:
    """At most `places` queries at once, at most `share` of them one caller's, and `most` of one caller in all."""

    def __init__(self, places: int, share: int, most: int, patience: float) -> None:
        self._free, self._share, self._most, self._patience = places, share, most, patience
        self._running: dict[Hashable, int] = {}
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[bool]]] = OrderedDict()

    async def enter(self, caller: Hashable) -> None:
        """Take a place, waiting for it if need be.

        Raises RK4010 when the caller has too many queries, or its share is taken for too long, and RK6003 when no
        place becomes free in time.
        """
        waiting = self._waiting.get(caller, ())
        if self._running.get(caller, 0) + len(waiting) >= self._most:
            raise RookeryError(
                TOO_MANY,
                f"{self._most} queries are running already",
                hint="wait for one to finish",
                headers=RETRY_HEADERS,
            )
        if not waiting and self._free and self._running.get(caller, 0) < self._share:
            self._take(caller)
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        timer = loop.call_later(self._patience, _give_up, turn)
        try:
            found = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.leave(caller)
            raise
        finally:
            timer.cancel()
            self._forget(caller, turn)
        if not found:
            raise self._late(caller)

    def leave(self, caller: Hashable) -> None:
        """Give a place back; it goes to the caller who has waited for a turn longest."""
        left = self._running.get(caller, 1) - 1
        self._free += 1
        if left > 0:
            self._running[caller] = left
        else:
            self._running.pop(caller, None)
        self._hand_over()

    def _hand_over(self) -> None:
        for caller in list(self._waiting):
            queue = self._waiting[caller]
            while self._free and queue and self._running.get(caller, 0) < self._share:
                turn = queue.popleft()
                if turn.done():
                    continue
                self._take(caller)
                turn.set_result(True)
                # The next place is somebody else's, if anybody waits.
                self._waiting.move_to_end(caller)
                break
            if not queue:
                self._waiting.pop(caller, None)

    def _take(self, caller: Hashable) -> None:
        self._free -= 1
        self._running[caller] = self._running.get(caller, 0) + 1

    def _forget(self, caller: Hashable, turn: asyncio.Future[bool]) -> None:
        queue = self._waiting.get(caller)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[caller]

    def _late(self, caller: Hashable) -> RookeryError:
        if self._running.get(caller, 0) >= self._share:
            message = f"your {self._share} queries at once are running already"
            return RookeryError(TOO_MANY, message, hint="wait for one to finish", headers=RETRY_HEADERS)
        message = f"no reader became free within {self._patience:g} seconds"
        return RookeryError(BUSY, message, hint="try again; more readers: ROOKERY_READERS", headers=RETRY_HEADERS)


def _give_up(turn: asyncio.Future[bool]) -> None:
    if not turn.done():
        turn.set_result(False)
