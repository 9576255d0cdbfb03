"""What threads have found, handed over to the event loop: all that is there at once."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class FutureBridge:
    """Lets tasks of one event loop wait for futures of threads.

    Many requests are answered by one batch. Waking the loop for each would have it run after the first few, and
    callers that come again at once would part from the others.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: deque[tuple[Future[Any], asyncio.Future[Any]]] = deque()
        self._told = False

    async def of(self, future: Future[T]) -> T:
        """The result of a future, which goes on when its caller goes away."""
        waiting = self._loop.create_future()
        future.add_done_callback(lambda done: self._take(done, waiting))
        found: T = await waiting
        return found

    def _take(self, done: Future[Any], waiting: asyncio.Future[Any]) -> None:
        self._done.append((done, waiting))
        if not self._told:
            self._told = True
            self._loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        # What comes from here on tells again.
        self._told = False
        while self._done:
            done, waiting = self._done.popleft()
            if waiting.done():
                continue
            exc = done.exception()
            if exc is None:
                waiting.set_result(done.result())
            else:
                waiting.set_exception(exc)
