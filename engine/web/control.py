"""What routes of admins share: who may call them, and how their work runs in a thread and reports progress."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio.to_thread
import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from engine.errors import INTERNAL, RookeryError
from engine.query import authorize
from engine.web.known_fields import check_query
from engine.web.requests import token_of
from engine.web.services import Services, services_of

NDJSON = "application/x-ndjson"
READ_METHODS = frozenset({"GET", "HEAD"})
"""Methods that change nothing. Starlette also routes HEAD to every GET route."""
Work = Callable[[Callable[[str, int, int], None]], Any]
"""Work that takes a progress callback (what, done, total) and returns the JSON result."""


def admin(request: Request, *known: str) -> Services:
    """The services, for an admin. Raises RK4003 for other tokens, RK4029 for query parameters that are not `known`."""
    services = services_of(request)
    authorize.authenticate(services.workspace, token_of(request)).require_admin()
    check_query(request, known)
    return services


async def in_thread(services: Services, work: Callable[[], Any]) -> Any:
    """The result of blocking control work."""
    return await anyio.to_thread.run_sync(work, limiter=services.control)


async def with_progress(request: Request, services: Services, work: Work) -> Response:
    """The result of long work. With `Accept: application/x-ndjson`, lines of progress come first."""
    if NDJSON not in request.headers.get("accept", ""):
        return JSONResponse(await in_thread(services, partial(work, lambda _what, _done, _total: None)))
    return StreamingResponse(_progress_lines(services, work), media_type=NDJSON)


async def _progress_lines(services: Services, work: Work) -> AsyncIterator[bytes]:
    lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def watched() -> None:
        try:
            lines.put({"result": work(lambda w, d, t: lines.put({"progress": {"what": w, "done": d, "total": t}}))})
        except RookeryError as exc:
            lines.put({"failure": {**exc.as_dict(), "status": exc.code.status}})
        except Exception as exc:
            failure = RookeryError(INTERNAL, "internal error", detail=repr(exc))
            lines.put({"failure": {**failure.as_dict(), "status": 500}})
            raise
        finally:
            lines.put(None)

    async with anyio.create_task_group() as group:
        group.start_soon(partial(anyio.to_thread.run_sync, watched, limiter=services.control))
        while (line := await anyio.to_thread.run_sync(lines.get)) is not None:
            yield orjson.dumps(line) + b"\n"
