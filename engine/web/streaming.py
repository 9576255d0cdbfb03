"""Responses larger than the read-ahead. Their readers do not wait for slow clients."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import CANCELLED, RookeryError
from engine.observe.requests import note_error
from engine.query.reader_queue import ReaderQueue
from engine.query.result import QueryResult

log = structlog.get_logger("rookery.web")

CONTENT_TYPES: Mapping[str, str] = {
    "json": "application/json; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "bare csv": "text/csv; charset=utf-8; header=absent",
    "ndjson": "application/x-ndjson; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
MAX_UNSENT_BYTES = 64 << 20
"""Maximum size of the results that were read ahead of their clients."""
SEND_BYTES = 256 << 10
"""Bytes that are handed to a connection at once. It keeps what its client does not read."""
MIN_CLIENT_BYTES_PER_SECOND = 1 << 20
"""A client that reads at least as fast keeps its caller's only reader, although others wait for one."""
CHECKS = 8
"""How often a client's patience is checked until it has run out."""


@dataclass(slots=True)
class UnsentMemory:
    """The memory for results that were read and wait for their clients. Used on the event loop."""

    limit: int = MAX_UNSENT_BYTES
    used: int = 0
    used_by: Counter[Hashable] = field(default_factory=Counter)
    """Bytes of each caller that has some."""

    def take(self, size: int, caller: Hashable) -> bool:
        """Count bytes of a caller, and return whether they fit. A caller may have as many as remain for others."""
        if self.used_by[caller] + size > self.limit - self.used - size:
            return False
        self.used += size
        self.used_by[caller] += size
        return True

    def give_back(self, size: int, caller: Hashable) -> None:
        self.used -= size
        self.used_by[caller] -= size
        if not self.used_by[caller]:
            del self.used_by[caller]


@dataclass(frozen=True, slots=True)
class Reader:
    """The reader that a response's query holds."""

    caller: Hashable
    queue: ReaderQueue
    """Where it is returned. Used on the event loop."""
    memory: UnsentMemory
    threads: anyio.CapacityLimiter
    """Limits the threads that read the next chunk."""
    cancel: Callable[[], None]
    """Cancels the query if the client disconnects. Runs in a thread."""


class StreamedResponse(Response):
    """Sends a result chunk by chunk, which threads read ahead of the client as long as there is memory.

    The reader is returned when the rest of the result is in memory. If it does not fit, the client has to read on:
    while a caller with fewer readers waits for one, a slow client loses its own.
    """

    def __init__(self, result: QueryResult, media_type: str, reader: Reader) -> None:
        self.result, self.reader = result, reader
        self.status_code, self.media_type, self.background = 200, media_type, None
        # The base class announces the length of its body. This response has none, so it is sent in chunks.
        self.init_headers({"content-type": media_type})
        self._holds_reader, self._complete = True, False
        # Bytes that were read and are not sent, and how many of these the memory counts: all but the newest chunk.
        self._unsent = self._counted = 0
        self._progress = anyio.Event()
        # The seconds for which the client may still keep the reader from others.
        self._patience = reader.queue.patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            chunks, read_chunks = anyio.create_memory_object_stream[bytes](math.inf)
            with chunks, read_chunks:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._watch, receive, group.cancel_scope)
                    group.start_soon(self._read, chunks, group.cancel_scope)
                    await self._send_chunks(read_chunks, send)
                    group.cancel_scope.cancel()
        finally:
            await self._return_reader()
            self.reader.memory.give_back(self._counted, self.reader.caller)

    async def _watch(self, receive: Receive, scope: anyio.CancelScope) -> None:
        """Cancel the query as soon as the client has disconnected."""
        while (await receive())["type"] != "http.disconnect":
            pass
        # The query comes first: the thread that reads its next chunk ends only when the query does, and the task
        # waits for that thread.
        with anyio.CancelScope(shield=True), suppress(RookeryError):
            await anyio.to_thread.run_sync(self.reader.cancel)
        scope.cancel()

    async def _read(self, chunks: MemoryObjectSendStream[bytes], scope: anyio.CancelScope) -> None:
        """Read the rest of the result, and return the reader."""
        with chunks:
            chunk: bytes | None = self.result.head
            self.result.head = b""
            try:
                while chunk is not None:
                    self._unsent += len(chunk)
                    chunks.send_nowait(chunk)
                    await self._until_counted(scope)
                    # The thread is waited for even when this task is cancelled: a handle must not be closed while a
                    # thread reads from it.
                    chunk = await anyio.to_thread.run_sync(self.result.next_chunk, limiter=self.reader.threads)
                self._complete = True
            except RookeryError as exc:
                # The status is already sent. Without a last chunk the server closes the connection, so the client
                # sees that the response is incomplete.
                log.warning("a response was truncated", error=exc, detail=exc.detail)
            await self._return_reader()

    async def _until_counted(self, scope: anyio.CancelScope) -> None:
        """Wait until all that was read is sent, or has a place in memory. Cancels the scope for a slow client."""
        reader = self.reader
        while (rest := self._unsent - self._counted) and not reader.memory.take(rest, reader.caller):
            since, self._progress = anyio.current_time(), anyio.Event()
            with anyio.move_on_after(reader.queue.patience / CHECKS):
                await self._progress.wait()
            if reader.queue.is_wanted(reader.caller):
                self._patience -= anyio.current_time() - since
            if self._patience < 0:
                note_error(CANCELLED.id)
                log.warning("a response was truncated: others waited for the reader of a slow client")
                scope.cancel()
        self._counted += rest

    async def _send_chunks(self, chunks: MemoryObjectReceiveStream[bytes], send: Send) -> None:
        """Send the chunks as they are read, until the result ends or fails."""
        async for chunk in chunks:
            for start in range(0, len(chunk), SEND_BYTES):
                part = chunk[start : start + SEND_BYTES]
                # This waits until the client has read the previous parts.
                await send({"type": "http.response.body", "body": part, "more_body": True})
                self._note_sent(len(part))
        if self._complete:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _note_sent(self, size: int) -> None:
        counted = min(size, self._counted)
        self.reader.memory.give_back(counted, self.reader.caller)
        self._counted -= counted
        self._unsent -= size
        queue, regained = self.reader.queue, size / MIN_CLIENT_BYTES_PER_SECOND
        if queue.running(self.reader.caller) == 1:
            self._patience = min(queue.patience, self._patience + regained)
        self._progress.set()

    async def _return_reader(self) -> None:
        """End the query and return its reader. Harmless when repeated."""
        if not self._holds_reader:
            return
        self._holds_reader = False
        # Shielded: if the client disconnects, this task is cancelled, but the handle and the reader must be returned.
        with anyio.CancelScope(shield=True):
            try:
                await anyio.to_thread.run_sync(self.result.close)
            finally:
                self.reader.queue.leave(self.reader.caller)
