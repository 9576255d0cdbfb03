"""Helpers for the control routes: checking the query, running work in threads, and reporting progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from functools import partial
from typing import Any

import anyio.to_thread
import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from engine.errors import INTERNAL, RookeryError
from engine.web.access import READ_METHODS, reads_all
from engine.web.errors import note
from engine.web.known_fields import check_query
from engine.web.requests import head_of
from engine.web.services import Services, services_of

NDJSON = "application/x-ndjson"


class Report:
    """Receives what long work reports, and discards it."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """The progress of an operation: its name, the amount done, and the total."""

    def plan(self, result: Callable[[], Any]) -> None:
        """What the work is about to do. `result` returns it as a JSON value."""


Work = Callable[[Report], Any]
"""Work that reports its progress and returns a JSON value."""


def control(request: Request, *known: str, lists: Collection[str] = ()) -> Services:
    """The services, for a control request. `lists` are the parameters that may have several values.

    Raises RK4029 for query parameters that are not in `known`, and RK4009 for one with two values.
    """
    head_of(request.scope).query(lists)
    check_query(request, known)
    return services_of(request)


async def in_thread(services: Services, work: Callable[[], Any], *, changes: bool = False) -> Any:
    """Run blocking control work in a thread, and return its result. With `changes`, it changes resources."""
    return await anyio.to_thread.run_sync(work, limiter=_limiter(services, changes=changes))


def _limiter(services: Services, *, changes: bool) -> anyio.CapacityLimiter:
    return services.changes if changes else services.control


async def with_progress(request: Request, services: Services, work: Work) -> Response:
    """Respond with the result of long work, or 204 if it returns None.

    With `Accept: application/x-ndjson`, lines of progress precede the result.
    """
    changes = request.method not in READ_METHODS
    if NDJSON not in request.headers.get("accept", ""):
        result = await in_thread(services, partial(work, Report()), changes=changes)
        return Response(status_code=204) if result is None else JSONResponse(result)
    lines = progress_lines(services, work, public=not reads_all(request.scope), changes=changes)
    return StreamingResponse(lines, media_type=NDJSON)


Put = Callable[[dict[str, Any] | None], object]
"""Adds a line to a response; None is its end. Any thread may call it."""


class _Lines(Report):
    """Adds what is reported to the lines of the response."""

    def __init__(self, put: Put) -> None:
        self._put = put

    def __call__(self, what: str, done: int, total: int) -> None:
        self._put({"progress": {"what": what, "done": done, "total": total}})

    def plan(self, result: Callable[[], Any]) -> None:
        # Clients that do not know plans read the line as progress.
        self._put({"progress": {"what": "", "done": 0, "total": 0}, "plan": result()})


async def progress_lines(
    services: Services, work: Work, *, public: bool, changes: bool = False
) -> AsyncIterator[bytes]:
    """Run work in a thread and yield its progress as NDJSON; the last line has its result or its failure.

    With `public`, the failure is for callers who may not read all rows.
    """
    # Waiting for a line must not occupy a thread: responses that end need one to return their readers.
    lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def put(line: dict[str, Any] | None) -> None:
        loop.call_soon_threadsafe(lines.put_nowait, line)

    def run() -> None:
        try:
            put({"result": work(_Lines(put))})
        except RookeryError as exc:
            note(exc)
            put({"failure": {**exc.as_dict(public=public), "status": exc.code.status}})
        except Exception as exc:
            failure = RookeryError(INTERNAL, "internal error", detail=repr(exc))
            put({"failure": {**failure.as_dict(), "status": 500}})
            raise
        finally:
            # Signals the end to the event loop, which waits for lines.
            put(None)

    # Not a task group: if the client leaves while a line is sent, another task may close this generator.
    task = asyncio.ensure_future(anyio.to_thread.run_sync(run, limiter=_limiter(services, changes=changes)))
    try:
        while (line := await lines.get()) is not None:
            yield orjson.dumps(line) + b"\n"
    finally:
        # The server does not stop before the work has ended, even if the client has left.
        with anyio.CancelScope(shield=True):
            await task
