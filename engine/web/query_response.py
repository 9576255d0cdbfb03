"""From a caller's turn to the response: the query runs in a thread and is cancelled when its client is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextlib import suppress
from functools import partial
from typing import Protocol

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import RookeryError
from engine.query.executor import QueryResult, Timer
from engine.query.running import RunningQueries, Ticket
from engine.tokens import Claims
from engine.web.known_fields import ignored_header
from engine.web.services import Services, services_of
from engine.web.streaming import CONTENT_TYPES, StreamedAnswer

WATCH_AFTER_SECONDS = 0.1
"""How long a query runs before it is watched whether its client is still there: most have ended by then."""
WATCH_INTERVAL_SECONDS = 0.5


class Run(Protocol):
    """A query, up to its first bytes."""

    def __call__(self, *, ticket: Ticket) -> QueryResult: ...


async def answered(request: Request, claims: Claims, run: Run, suffix: str, timer: Timer) -> Response:
    """The response to a query, once its caller has a turn. The turn ends with the answer's last byte."""
    state = services_of(request)
    caller: Hashable = ("tenant", claims.tenant) if claims.tenant is not None else ("token", claims.subject)
    await state.turns.enter(caller)
    leave = partial(state.turns.leave, caller)
    ticket = Ticket()
    try:
        answer = await _watched(request, state, run, ticket)
    except BaseException:
        leave()
        raise
    if answer.complete:
        leave()
        response = Response(answer.head, media_type=None, headers={"content-type": CONTENT_TYPES[suffix]})
    else:
        cancel = partial(state.queries.at_work.cancel, ticket)
        response = StreamedAnswer(answer, CONTENT_TYPES[suffix], state.streams, leave, cancel)
    response.headers["server-timing"] = timer.header()
    response.headers.update(ignored_header(answer.ignored))
    return response


async def _watched(request: Request, state: Services, run: Run, ticket: Ticket) -> QueryResult:
    watch = _Watch(request, state, ticket)
    try:
        return await anyio.to_thread.run_sync(partial(run, ticket=ticket), limiter=state.limiter)
    finally:
        await watch.stop()


class _Watch:
    """Cancels a query when its client has disconnected, again and again until it has ended."""

    def __init__(self, request: Request, state: Services, ticket: Ticket) -> None:
        self._request, self._state, self._ticket = request, state, ticket
        self._task: asyncio.Task[None] | None = None
        self._begin = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, self._start)

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        running: RunningQueries = self._state.queries.at_work
        while True:
            with suppress(RookeryError):
                await anyio.to_thread.run_sync(running.cancel, self._ticket, limiter=self._state.control)
            await asyncio.sleep(WATCH_INTERVAL_SECONDS)

    async def stop(self) -> None:
        self._begin.cancel()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
