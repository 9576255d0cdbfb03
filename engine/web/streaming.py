"""Responses that hold a database handle, and return it even if the client does not read to the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import anyio
import anyio.to_thread
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import RookeryError
from engine.query.result import QueryResult

log = structlog.get_logger("rookery.web")

CONTENT_TYPES: Mapping[str, str] = {
    "json": "application/json; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "bare csv": "text/csv; charset=utf-8; header=absent",
    "ndjson": "application/x-ndjson; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}


@dataclass(frozen=True, slots=True)
class Release:
    """What a response does with its query when it ends."""

    leave: Callable[[], None]
    """Returns the caller's reader. Runs on the event loop."""
    cancel: Callable[[], None]
    """Cancels the query if the client disconnects. Runs in a thread."""


class StreamedResponse(Response):
    """Sends a result chunk by chunk, reading each in a worker thread; at most one chunk is in memory."""

    def __init__(
        self, result: QueryResult, media_type: str, limiter: anyio.CapacityLimiter, release: Release
    ) -> None:
        self.result, self.limiter, self.release = result, limiter, release
        self.status_code, self.media_type, self.background = 200, media_type, None
        # The base class announces the length of its body. This response has none, so it is sent in chunks.
        self.init_headers({"content-type": media_type})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self.result.head, "more_body": True})
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch, receive, group.cancel_scope)
                await self._send_chunks(send)
                group.cancel_scope.cancel()
        finally:
            # Shielded: if the client disconnects, this task is cancelled, but the handle and the reader must be
            # returned.
            with anyio.CancelScope(shield=True):
                try:
                    await anyio.to_thread.run_sync(self.result.close)
                finally:
                    self.release.leave()

    async def _watch(self, receive: Receive, scope: anyio.CancelScope) -> None:
        """Cancel the query as soon as the client has disconnected."""
        while (await receive())["type"] != "http.disconnect":
            pass
        # The query comes first: the thread that reads its next chunk ends only when the query does, and the task
        # waits for that thread.
        with anyio.CancelScope(shield=True), suppress(RookeryError):
            await anyio.to_thread.run_sync(self.release.cancel)
        scope.cancel()

    async def _send_chunks(self, send: Send) -> None:
        """Read and send chunks until the result ends or fails."""
        while True:
            # The thread is waited for even when this task is cancelled: a handle must not be closed while a thread
            # reads from it.
            try:
                chunk = await anyio.to_thread.run_sync(self.result.next_chunk, limiter=self.limiter)
            except RookeryError as exc:
                # The status is already sent. Without a last chunk the server closes the connection, so the client
                # sees that the response is incomplete.
                log.warning("a response was truncated", error=exc, detail=exc.detail)
                return
            if chunk is None:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
