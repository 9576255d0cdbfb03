"""Uploads of files of any size: split into batches while they arrive, and stored batch by batch."""

from __future__ import annotations

import asyncio
import shutil
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile, gettempdir
from typing import Any, BinaryIO, cast

import anyio
import anyio.to_thread
from starlette.requests import Request

from engine.errors import NOT_REPLACEABLE, QUARANTINE_FULL, RookeryError
from engine.ingest.batch import Append, AppendResult, writer_id
from engine.ingest.formats.body_rows import Chunker
from engine.ingest.idempotency.keys import part_key
from engine.ingest.memory_budget import MemoryBudget
from engine.ingest.replace import Replacement
from engine.ingest.unknown_keys import NO_KEYS, UnknownKeys
from engine.observe.requests import note_append
from engine.plurals import counted
from engine.schema import Name
from engine.warehouse.port import Input, Space
from engine.web.events import Writer, bad_row, raise_if_refused
from engine.web.parquet_reader import WHOLE_PARQUET_BYTES, WHOLE_TENANT_PARQUET_BYTES
from engine.web.requests import decompressed_chunks
from engine.web.services import Services
from engine.workspace.disk import require_spool_space

MAX_BATCHES_IN_FLIGHT = 2
"""Batches of one upload that are stored at the same time."""
UNLIMITED_BYTES = 1 << 60
MAX_BYTES_IN_MEMORY = 1 << 20
"""Maximum size of a Parquet file in memory while it arrives. A larger one is on disk, so that many slow uploads take
little memory.
"""


@dataclass(slots=True)
class UploadTotals:
    """The outcome of the rows of one upload so far."""

    batches: int = 0
    """Batches whose outcome is known."""
    rows: int = 0
    """Rows that are stored."""
    quarantined: int = 0
    refused: int = 0
    """Bad rows that did not fit into quarantine."""
    repeated: int = 0
    """Batches that were stored by an earlier upload under the same key."""
    ignored_columns: dict[str, None] = field(default_factory=dict)
    """Columns of the file that the datasource does not have, in order."""
    unknown_keys: UnknownKeys = NO_KEYS
    first_bad_row: dict[str, Any] | None = None

    def add(self, outcome: AppendResult) -> None:
        """Add the outcome of the next batch."""
        if outcome.first_bad_row is not None and self.first_bad_row is None:
            self.first_bad_row = bad_row(outcome.first_bad_row, self.rows + self.quarantined + self.refused)
        self.unknown_keys = outcome.unknown_keys.merged(self.unknown_keys)
        self.refused += outcome.refused
        self.rows += outcome.rows
        self.quarantined += outcome.quarantined
        self.repeated += outcome.repeated
        self.ignored_columns |= dict.fromkeys(outcome.ignored_columns)


class Upload:
    """One file for one datasource.

    The same bytes are always split into the same batches, and each batch has an idempotency key derived from the
    upload's key. So a repeated upload with a key stores only what the first one did not store.
    """

    def __init__(self, services: Services, writer: Writer, format: Input, key: str | None) -> None:
        self._services = services
        self._writer = writer
        self._format = format
        self._key = key
        self._totals = UploadTotals()
        self._target: Name | None = None

    async def append(self, request: Request) -> dict[str, Any]:
        """Append the request's rows, and return the JSON of the response. An error's hint says how many rows are
        stored.
        """
        in_flight: deque[tuple[asyncio.Future[AppendResult], int]] = deque()
        try:
            with self._memory_budget() as budget:
                # Closed even after an error: otherwise the file and its turn would wait for the garbage collector.
                async with aclosing(self._batches(request)) as batches:
                    async for batch in batches:
                        budget.reserve(len(batch))
                        in_flight.append((asyncio.wrap_future(self._send(batch)), len(batch)))
                        if len(in_flight) == MAX_BATCHES_IN_FLIGHT:
                            oldest, size = in_flight.popleft()
                            self._totals.add(await oldest)
                            budget.release(size)
                while in_flight:
                    self._totals.add(await in_flight.popleft()[0])
        except RookeryError as exc:
            raise self._with_progress(exc) from exc
        finally:
            # Retrieve the errors of batches that are no longer awaited, so that asyncio does not log them.
            for pending, _ in in_flight:
                pending.add_done_callback(lambda f: f.cancelled() or f.exception())
        if not self._totals.rows and not self._totals.quarantined:
            raise_if_refused(self._totals.refused, self._writer.datasource)
        return self._response()

    async def replace(self, request: Request) -> dict[str, Any]:
        """Replace all rows of the datasource with the request's; after an error the old rows are still there."""
        workspace, limiter = self._services.workspace, self._services.control
        replacement = await anyio.to_thread.run_sync(Replacement, workspace, self._writer.datasource, limiter=limiter)
        # Two replacements of one datasource at a time would fill and drop the same new table.
        turn = self._services.replacing.setdefault(self._writer.datasource, anyio.Lock())
        async with turn:
            await anyio.to_thread.run_sync(replacement.begin, limiter=limiter)
            self._target = replacement.name
            try:
                response = await self.append(request)
                if not self._totals.rows:
                    raise RookeryError(
                        NOT_REPLACEABLE,
                        "no row could be stored, so no rows were replaced",
                        hint=f"rookery quarantine ls {self._writer.datasource}",
                    )
                await anyio.to_thread.run_sync(replacement.commit, limiter=limiter)
            except BaseException:
                # Shielded: a cancelled task must not leave the new table behind.
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(replacement.abandon, limiter=limiter)
                raise
        return response

    def _memory_budget(self) -> MemoryBudget:
        return self._services.gateway.memory_budget(self._writer.tenant, self._writer.token)

    def _send(self, batch: bytes) -> Future[AppendResult]:
        self._totals.batches += 1
        # Rows of a replacement go to a new table, so an earlier upload cannot have stored them.
        key = part_key(self._key, self._totals.batches) if self._key and self._target is None else None
        return self._services.gateway.submit(
            Append(
                self._writer.datasource,
                batch,
                self._format,
                self._writer.tenant,
                key,
                self._writer.token,
                self._target,
                is_complete=False,
            )
        )

    async def _batches(self, request: Request) -> AsyncGenerator[bytes]:
        """The body in batches of whole rows."""
        with self._memory_budget() as budget:
            if self._format is Input.PARQUET:
                async with aclosing(self._parquet_batches(request, budget)) as batches:
                    async for batch in batches:
                        yield batch
                return
            chunker = Chunker("csv" if self._format is Input.CSV else "ndjson")
            async for chunk in decompressed_chunks(request, UNLIMITED_BYTES, budget):
                # Done in a thread, because hostile rows can make the search for their ends slow.
                for batch in await anyio.to_thread.run_sync(
                    self._split, chunker, chunk, limiter=self._services.uploads
                ):
                    yield batch
                # The chunker holds the row whose end has not arrived, no matter how long it is.
                budget.resize(chunker.held)
            for batch in chunker.finish():
                yield batch

    async def _parquet_batches(self, request: Request, budget: MemoryBudget) -> AsyncGenerator[bytes]:
        """A Parquet file in batches. Its metadata is at the end, so a large file is first written to disk."""
        writer = writer_id(self._writer.tenant, self._writer.token)
        with SpooledTemporaryFile(max_size=MAX_BYTES_IN_MEMORY) as file, self._spooled(writer) as count:
            async for chunk in decompressed_chunks(request, UNLIMITED_BYTES, budget):
                size = count(len(chunk))
                await anyio.to_thread.run_sync(self._spool, file, chunk, size, limiter=self._services.uploads)
                if file.tell() > MAX_BYTES_IN_MEMORY:
                    budget.release_all()
            if not file.tell():
                return
            source = self._services.workspace.current.build.datasources[self._writer.datasource]
            whole = WHOLE_PARQUET_BYTES if self._writer.tenant is None else WHOLE_TENANT_PARQUET_BYTES
            read = self._services.parquet_reader.batches(cast(BinaryIO, file), source, writer, budget, whole)
            async with aclosing(read) as batches:
                async for batch in batches:
                    yield batch

    @contextmanager
    def _spooled(self, writer: str) -> Iterator[Callable[[int], int]]:
        """Counts bytes of a file. The function returns those of all files of the writer."""
        sizes, own = self._services.spooled, 0

        def count(size: int) -> int:
            nonlocal own
            own += size
            sizes[writer] += size
            return sizes[writer]

        try:
            yield count
        finally:
            sizes[writer] -= own
            if not sizes[writer]:
                del sizes[writer]

    def _spool(self, file: SpooledTemporaryFile[bytes], chunk: bytes, size: int) -> None:
        """Append a chunk to a file. Raises RK6008 if the disk has less free space than `size`, the bytes of all files
        of its writer: a writer leaves as much to others as it has.
        """
        if file.tell() + len(chunk) > MAX_BYTES_IN_MEMORY:
            # Before it is written, because the engine's hint for a full disk is about its data directory.
            directory = gettempdir()
            usage = shutil.disk_usage(directory)
            require_spool_space(self._services.workspace, Space(directory, usage.free, usage.total), size)
        file.write(chunk)

    @staticmethod
    def _split(chunker: Chunker, chunk: bytes) -> list[bytes]:
        """Runs in a thread."""
        return list(chunker.feed(chunk))

    def _with_progress(self, exc: RookeryError) -> RookeryError:
        """The error, with a hint about the rows that are already stored."""
        if not self._totals.rows and not self._totals.quarantined:
            return exc
        stored = counted(self._totals.rows, "row")
        return exc.with_hint(f"stored so far: {stored}; with an Idempotency-Key the same upload can be repeated")

    def _response(self) -> dict[str, Any]:
        totals, datasource = self._totals, self._writer.datasource
        note_append(datasource, totals.rows)
        errors: list[str] = []
        if totals.quarantined:
            errors.append(
                f"{counted(totals.quarantined, 'row')} went to quarantine: rookery quarantine ls {datasource}"
            )
        if totals.refused:
            rows = counted(totals.refused, "bad row")
            errors.append(f"refused: {rows}; the writer's quarantine is full ({QUARANTINE_FULL.id})")
        response: dict[str, Any] = {
            "datasource": datasource,
            "import_id": self._key,
            "rows": totals.rows,
            "invalid_lines": 0,
            "quarantine_rows": totals.quarantined,
            "ignored_columns": list(totals.ignored_columns),
            "repeated": 0 < totals.repeated == totals.batches,
            "error": "; ".join(errors) or False,
        }
        if totals.refused:
            response["refused_rows"] = totals.refused
        if totals.first_bad_row is not None:
            response["first_bad_row"] = totals.first_bad_row
        if totals.unknown_keys.count:
            keys = totals.unknown_keys
            response["unknown_keys"] = {"count": keys.count, "names": list(keys.names)}
        return response
