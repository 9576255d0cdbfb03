"""Files of any size on their way in: cut into batches while they arrive, stored batch by batch."""

from __future__ import annotations

import asyncio
import shutil
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from tempfile import SpooledTemporaryFile, gettempdir
from typing import Any, BinaryIO, cast

import anyio
import anyio.to_thread
from starlette.requests import Request

from engine.errors import NOT_REPLACEABLE, QUARANTINE_FULL, RookeryError
from engine.ingest.batch import AppendResult
from engine.ingest.formats.body_rows import Chunker
from engine.ingest.formats.parquet import split_parquet
from engine.ingest.gateway import MemoryBudget
from engine.ingest.idempotency import part_key
from engine.ingest.replace import Replacement
from engine.ingest.unknown_keys import NO_KEYS
from engine.schema import Name
from engine.warehouse.port import Input, Space
from engine.web.events import bad_row, refuse_if_full
from engine.web.requests import opened_chunks
from engine.web.services import Services
from engine.workspace.disk import require_spool_space

MAX_BATCHES_IN_FLIGHT = 2
"""Batches of one upload that are under way at once."""
UNLIMITED = 1 << 60
WHOLE_PARQUET_BYTES = 32 << 20
"""Bytes of a Parquet file that is stored in one go."""


class Upload:
    """One file for one datasource.

    Batches are cut at the same places whenever the same bytes come, so that under a key a repeated upload goes on
    where the first one stopped: each batch has a key of its own.
    """

    def __init__(
        self, state: Services, name: str, bound: str | None, token: str, format: Input, key: str | None
    ) -> None:
        self._state = state
        self._name = name
        self._bound = bound
        self._token = token
        self._format = format
        self._key = key
        self._rows = 0
        self._quarantined = 0
        self._refused = 0
        self._batches = 0
        self._repeated = 0
        self._ignored: dict[str, None] = {}
        self._unknown = NO_KEYS
        self._first: dict[str, Any] | None = None
        self._into: Name | None = None

    async def append(self, request: Request) -> dict[str, Any]:
        """Append the request's rows. A failure says how many rows are stored."""
        under_way: deque[tuple[asyncio.Future[AppendResult], int]] = deque()
        try:
            with self._state.gateway.room(self._bound, self._token) as room:
                async for batch in self._batches_of(request):
                    room.take(len(batch))
                    under_way.append((asyncio.wrap_future(self._send(batch)), len(batch)))
                    if len(under_way) == MAX_BATCHES_IN_FLIGHT:
                        oldest, size = under_way.popleft()
                        self._count(await oldest)
                        room.take(-size)
                while under_way:
                    self._count(await under_way.popleft()[0])
        except RookeryError as exc:
            raise self._told(exc) from exc
        finally:
            for waiting, _ in under_way:
                waiting.add_done_callback(lambda f: f.cancelled() or f.exception())
        if not self._rows and not self._quarantined:
            refuse_if_full(self._refused, self._name)
        return self._answer()

    async def replace(self, request: Request) -> dict[str, Any]:
        """Put the request's rows in the place of all that are there, or leave those as they are."""
        workspace, limiter = self._state.workspace, self._state.limiter
        replacement = await anyio.to_thread.run_sync(Replacement, workspace, self._name, limiter=limiter)
        async with self._state.replacing:
            await anyio.to_thread.run_sync(replacement.begin, limiter=limiter)
            self._into = replacement.name
            try:
                answer = await self.append(request)
                if not self._rows:
                    raise RookeryError(
                        NOT_REPLACEABLE,
                        "no row could be stored, so everything stays as it was",
                        hint="see quarantine",
                    )
                await anyio.to_thread.run_sync(replacement.commit, limiter=limiter)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(replacement.abandon, limiter=limiter)
                raise
        return answer

    def _send(self, batch: bytes) -> Future[AppendResult]:
        self._batches += 1
        key = part_key(self._key, self._batches) if self._key and self._into is None else None
        return self._state.gateway.append(
            self._name,
            batch,
            self._format,
            self._bound,
            key,
            writer=self._token,
            into=self._into,
            whole=False,
        )

    def _count(self, outcome: AppendResult) -> None:
        if outcome.first is not None and self._first is None:
            self._first = bad_row(outcome.first, self._rows + self._quarantined + self._refused)
        self._unknown = outcome.unknown.with_others(self._unknown)
        self._refused += outcome.refused
        self._rows += outcome.rows
        self._quarantined += outcome.quarantined
        self._repeated += outcome.repeated
        self._ignored |= dict.fromkeys(outcome.ignored)

    async def _batches_of(self, request: Request) -> AsyncIterator[bytes]:
        """The body in batches."""
        with self._state.gateway.room(self._bound, self._token) as room:
            if self._format is Input.PARQUET:
                async for batch in self._parquet(request, room):
                    yield batch
                return
            cutter = Chunker("csv" if self._format is Input.CSV else "ndjson")
            async for chunk in opened_chunks(request, UNLIMITED, room):
                # Rows may be made so that finding their ends takes long.
                for batch in await anyio.to_thread.run_sync(self._cut, cutter, chunk, limiter=self._state.limiter):
                    yield batch
                # A row that has not ended waits here, however long it gets.
                room.keep(cutter.held)
            for batch in cutter.finish():
                yield batch

    async def _parquet(self, request: Request, room: MemoryBudget) -> AsyncIterator[bytes]:
        """A Parquet file has its directory at the end: one that is large goes by way of the disk."""
        limiter = self._state.limiter
        with SpooledTemporaryFile(max_size=WHOLE_PARQUET_BYTES) as file:
            async for chunk in opened_chunks(request, UNLIMITED, room):
                await anyio.to_thread.run_sync(self._spool, file, chunk, limiter=limiter)
                room.leave()
            size = file.tell()
            file.seek(0)
            if size <= WHOLE_PARQUET_BYTES:
                if size:
                    yield file.read()
                return
            settings = self._state.workspace.settings
            found = split_parquet(cast(BinaryIO, file), settings.max_parquet_memory, settings.max_parquet_bytes)
            try:
                while batch := await anyio.to_thread.run_sync(next, found, b"", limiter=limiter):
                    yield batch
            finally:
                found.close()

    def _spool(self, file: SpooledTemporaryFile[bytes], chunk: bytes) -> None:
        """Put a chunk behind others, as long as the file leaves as much of the disk as it takes."""
        file.write(chunk)
        if (size := file.tell()) > WHOLE_PARQUET_BYTES:
            directory = gettempdir()
            usage = shutil.disk_usage(directory)
            require_spool_space(self._state.workspace, Space(directory, usage.free, usage.total), size)

    @staticmethod
    def _cut(cutter: Chunker, chunk: bytes) -> list[bytes]:
        return list(cutter.feed(chunk))

    def _told(self, exc: RookeryError) -> RookeryError:
        if not self._rows and not self._quarantined:
            return exc
        hint = f"{self._rows:,} rows are stored; with an Idempotency-Key the upload can be repeated as it is"
        return RookeryError(exc.code, exc.message, hint=hint, detail=exc.detail, headers=exc.headers)

    def _answer(self) -> dict[str, Any]:
        error: str | bool = False
        if self._quarantined:
            error = f"{self._quarantined:,} rows went to quarantine: rookery quarantine ls {self._name}"
        if self._refused:
            full = f"{self._refused:,} bad rows were refused: the writer's quarantine is full ({QUARANTINE_FULL.id})"
            error = f"{error}; {full}" if error else full
        answer: dict[str, Any] = {
            "datasource": self._name,
            "import_id": self._key,
            "rows": self._rows,
            "invalid_lines": 0,
            "quarantine_rows": self._quarantined,
            "ignored_columns": list(self._ignored),
            "repeated": 0 < self._repeated == self._batches,
            "error": error,
        }
        if self._refused:
            answer["refused_rows"] = self._refused
        if self._first is not None:
            answer["first_bad_row"] = self._first
        if self._unknown.count:
            answer["unknown_keys"] = {"count": self._unknown.count, "names": list(self._unknown.names)}
        return answer
