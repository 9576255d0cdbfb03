"""Turns a query into a response: waits for a reader, runs the query in a thread, and cancels it if the client
disconnects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import RookeryError
from engine.query.request import QueryRequest
from engine.query.result import QueryResult
from engine.query.running import Ticket
from engine.web.known_fields import ignored_header
from engine.web.services import Services, services_of
from engine.web.streaming import CONTENT_TYPES, Reader, StreamedResponse

T = TypeVar("T")

WATCH_AFTER_SECONDS = 0.1
"""How many seconds a query runs before its client is watched. Most queries have ended by then."""
CANCEL_INTERVAL_SECONDS = 0.5
"""Interval at which a query is cancelled again until it has ended."""


async def run_to_end(request: Request, query: QueryRequest, run: Callable[[QueryRequest], T]) -> T:
    """The result of work that runs a query to its end on the caller's reader. Raises RK4010 and RK6003 when none
    becomes free.
    """
    services, caller = services_of(request), query.claims.caller
    async with services.reader_queue.turn(caller):
        return await run_watched(request, services, query.ticket, partial(run, query))


async def respond(
    request: Request, query: QueryRequest, run: Callable[[QueryRequest], QueryResult], suffix: str
) -> Response:
    """The response to a query. `suffix` is the format's key in CONTENT_TYPES.

    The caller's reader is returned when the whole result was read. Raises RK4010 and RK6003 when none becomes free.
    """
    services, caller = services_of(request), query.claims.caller
    await services.reader_queue.enter(caller)
    try:
        result = await run_watched(request, services, query.ticket, partial(run, query))
    except BaseException:
        # Done even if the client has disconnected and the task is cancelled, because the reader must be returned.
        services.reader_queue.leave(caller)
        raise
    response: Response
    # The whole result is in memory, and its handle has already been returned, so the next query may start.
    if result.complete:
        services.reader_queue.leave(caller)
        response = Response(result.head, media_type=None, headers={"content-type": CONTENT_TYPES[suffix]})
    else:
        cancel = partial(services.queries.running.cancel, query.ticket)
        reader = Reader(caller, services.reader_queue, services.unsent, services.streams, cancel)
        response = StreamedResponse(result, CONTENT_TYPES[suffix], reader)
    response.headers["server-timing"] = query.timer.header()
    response.headers.update(ignored_header(result.ignored))
    return response


async def run_watched(request: Request, services: Services, ticket: Ticket, run: Callable[[], T]) -> T:
    """Run a query in a thread, and cancel it if its client disconnects in the meantime."""
    watcher = _DisconnectWatcher(request, services, ticket)
    try:
        return await anyio.to_thread.run_sync(run, limiter=services.limiter)
    finally:
        await watcher.stop()


class _DisconnectWatcher:
    """Cancels a query when its client has disconnected, repeatedly until the query has ended.

    It is repeated because KILL QUERY has no effect on a query that the engine has not registered yet.
    """

    def __init__(self, request: Request, services: Services, ticket: Ticket) -> None:
        self._request, self._services, self._ticket = request, services, ticket
        self._task: asyncio.Task[None] | None = None
        self._start_timer = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, self._start)

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        cancel = self._services.queries.running.cancel
        while True:
            with suppress(RookeryError):
                # Not in the threads of control work, all of which may be waiting for a push.
                await anyio.to_thread.run_sync(cancel, self._ticket)
            await asyncio.sleep(CANCEL_INTERVAL_SECONDS)

    async def stop(self) -> None:
        """End the watch. The query has ended."""
        # Awaited below, since a task that still receives would take the next message of the connection.
        self._start_timer.cancel()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
