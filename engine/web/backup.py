"""The route for backups."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.to_thread
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from engine.backup.embedded import Backup, backups_of
from engine.web.bodies import BackupBody, body_as
from engine.web.control import control, in_thread, with_progress

log = structlog.get_logger("rookery.backup")


async def backup(request: Request) -> Response:
    """`POST /v0/backup`: the data of the embedded engine at one moment, as a tar file.

    With `to`, a ClickHouse server writes the backup there, and the response describes it.
    """
    services = control(request)
    body = await body_as(BackupBody, request)
    if body.to:
        take = partial(backups_of(services.workspace).take, body.to, services.gateway.receipts.flush)
        return await with_progress(request, services, take)
    started = await in_thread(services, backups_of(services.workspace).start, changes=True)
    return BackupResponse(started, services.control)


class BackupResponse(Response):
    """Sends the bytes of a backup, read in worker threads, and removes its copy of the data at the end."""

    def __init__(self, backup: Backup, limiter: anyio.CapacityLimiter) -> None:
        self._backup, self._limiter = backup, limiter
        self.status_code, self.media_type, self.background = 200, "application/x-tar", None
        # The base class announces the length of its body. This response has none, so it is sent in chunks.
        self.init_headers({"Cache-Control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with anyio.create_task_group() as group:
                group.start_soon(_cancel_at_disconnect, receive, group.cancel_scope)
                await self._send_chunks(send)
                group.cancel_scope.cancel()
        finally:
            # Shielded: a cancelled task must still close the backup.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._backup.close)

    async def _send_chunks(self, send: Send) -> None:
        chunks = self._backup.chunks()
        try:
            while chunk := await anyio.to_thread.run_sync(next, chunks, b"", limiter=self._limiter):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except OSError as exc:
            # The status is already sent. Without a last chunk, the client sees that the response is incomplete.
            log.error("a backup was interrupted", error=str(exc))
            return
        # Before the end of the response: the client may ask for the next backup at once.
        await anyio.to_thread.run_sync(self._backup.close)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _cancel_at_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def routes() -> list[Route]:
    return [Route("/v0/backup", backup, methods=["POST"])]
