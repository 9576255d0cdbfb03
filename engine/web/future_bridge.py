"""Pass the results of threads to the event loop, many at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class FutureBridge:
    """Lets tasks of one event loop wait for futures that threads complete.

    One batch completes many requests. If each of its futures woke the loop, the loop would run after the first few,
    and clients that immediately send their next request would be split into many small batches.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: deque[tuple[Future[Any], asyncio.Future[Any]]] = deque()
        self._wakeup_scheduled = False

    async def result(self, future: Future[T]) -> T:
        """The result of a future. The work behind it continues even if the waiting task is cancelled."""
        waiting = self._loop.create_future()
        future.add_done_callback(lambda done: self._enqueue(done, waiting))
        result: T = await waiting
        return result

    def _enqueue(self, done: Future[Any], waiting: asyncio.Future[Any]) -> None:
        """Runs in the thread that completed the future."""
        self._done.append((done, waiting))
        # Without a lock: two threads that both find it false only wake the loop once too often.
        if not self._wakeup_scheduled:
            self._wakeup_scheduled = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        """Runs on the event loop."""
        # Reset before the queue is read: a future that is enqueued afterwards schedules another wakeup.
        self._wakeup_scheduled = False
        while self._done:
            done, waiting = self._done.popleft()
            if waiting.done():
                continue
            exc = done.exception()
            if exc is None:
                waiting.set_result(done.result())
            else:
                waiting.set_exception(exc)
