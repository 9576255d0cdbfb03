"""Responses that hold a database handle: it goes back whatever becomes of the client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

import anyio
import anyio.to_thread
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import RookeryError
from engine.query.executor import QueryResult

log = structlog.get_logger("rookery.web")

CONTENT_TYPES: Mapping[str, str] = {
    "json": "application/json; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "bare csv": "text/csv; charset=utf-8; header=absent",
    "ndjson": "application/x-ndjson; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}


class StreamedAnswer(Response):
    """Sends an answer chunk by chunk, pulling each in a worker thread; at most one chunk is in memory."""

    def __init__(
        self,
        answer: QueryResult,
        media_type: str,
        limiter: anyio.CapacityLimiter,
        leave: Callable[[], None],
        cancel: Callable[[], None],
    ) -> None:
        self.answer, self.limiter, self.leave, self.cancel = answer, limiter, leave, cancel
        self.status_code, self.media_type, self.background = 200, media_type, None
        # Without a body of its own, so that no length is announced: the answer is sent in chunks.
        self.init_headers({"content-type": media_type})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self.answer.head, "more_body": True})
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch, receive, group.cancel_scope)
                await self._pump(send)
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                try:
                    await anyio.to_thread.run_sync(self.answer.close)
                finally:
                    self.leave()

    async def _watch(self, receive: Receive, scope: anyio.CancelScope) -> None:
        """Stop as soon as the client is gone."""
        while (await receive())["type"] != "http.disconnect":
            pass
        with anyio.CancelScope(shield=True), suppress(RookeryError):
            await anyio.to_thread.run_sync(self.cancel)
        scope.cancel()

    async def _pump(self, send: Send) -> None:
        while True:
            # Not abandoned when cancelled: a handle must never be closed while a thread reads from it.
            try:
                chunk = await anyio.to_thread.run_sync(self.answer.next_chunk, limiter=self.limiter)
            except RookeryError as exc:
                # The status is gone. Without a last chunk the connection is broken off, and nothing looks whole.
                log.warning("an answer broke off", error=exc, detail=exc.detail)
                return
            if chunk is None:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
