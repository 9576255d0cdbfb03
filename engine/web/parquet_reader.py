"""Reads the Parquet files of uploads, in the turns of their writers.

A file may take much memory and time. So few are read at the same time, and writers take turns. Small files have turns
of their own, which are short. The turn of a large file ends after some of its parts if other writers wait.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext
from typing import BinaryIO

import anyio
import anyio.to_thread

from engine.ingest.formats.parquet import check_metadata, read_small, split_parquet
from engine.ingest.formats.parquet_process import BEGINNING, Limits
from engine.ingest.formats.parquet_shapes import ParquetPlan
from engine.ingest.memory_budget import MemoryBudget
from engine.ingest.values.parquet_plan import SMALL_METADATA_BYTES, plan_of, sizes
from engine.project.datasource import Datasource
from engine.query.reader_queue import ReaderQueue

WHOLE_PARQUET_BYTES = 32 << 20
"""Maximum size of a Parquet file that the database reads, as one batch."""
WHOLE_TENANT_PARQUET_BYTES = 1 << 20
"""The same for a token with a tenant: reading a hostile file takes the database seconds for each megabyte, and cannot
be interrupted. A process that reads a larger one has a limit.
"""
PROCESSES, PROCESSES_PER_WRITER = 4, 2
"""Maximum number of processes that read large files at the same time, and of those for one writer; and of those that
read small files.
"""
PARTS_PER_TURN = 10
"""Parts of a large file that are stored before its turn ends, if others wait."""


class ParquetReader:
    """Reads Parquet files within limits. It is used on the event loop."""

    def __init__(self, limits: Limits, threads: anyio.CapacityLimiter) -> None:
        self._limits = limits
        self._threads = threads
        # Every file gets its turn, so writers wait for theirs without a limit.
        self.metadata, self.small, self.large = (
            ReaderQueue(turns, share, sys.maxsize, math.inf)
            for turns, share in ((1, 1), (PROCESSES, PROCESSES_PER_WRITER), (PROCESSES, PROCESSES_PER_WRITER))
        )

    async def batches(
        self, file: BinaryIO, source: Datasource, writer: str, budget: MemoryBudget, whole: int = WHOLE_PARQUET_BYTES
    ) -> AsyncGenerator[bytes]:
        """A writer's file in batches: one, if it has at most `whole` bytes and is simple. From the moment it is
        yielded, a batch is counted where it is stored.

        Raises RK5001, RK5030, and RK5010 if the budget does not suffice.
        """
        size, metadata = await anyio.to_thread.run_sync(sizes, file, limiter=self._threads)
        has_small_metadata = metadata <= SMALL_METADATA_BYTES
        # This process reads the metadata: those of one file at a time if they may take much memory.
        async with nullcontext() if has_small_metadata else self.metadata.turn(writer):
            if not has_small_metadata:
                await anyio.to_thread.run_sync(check_metadata, file, self._limits, limiter=self._threads)
            plan = await anyio.to_thread.run_sync(plan_of, file, source, limiter=self._threads)
        if size <= whole and has_small_metadata and not plan.columns:
            file.seek(0)
            budget.release_all()
            yield file.read()
            return
        parts = await self._small_parts(file, plan, writer) if has_small_metadata and plan.is_small else None
        if parts is None:
            async with aclosing(self._large_parts(file, plan, writer)) as large:
                async for part in large:
                    yield part
            return
        budget.reserve(sum(map(len, parts)))
        for part in parts:
            budget.release(len(part))
            yield part

    async def _small_parts(self, file: BinaryIO, plan: ParquetPlan, writer: str) -> list[bytes] | None:
        """The parts of a small file; None if it is larger than it declares. The turn ends before they are stored."""
        async with self.small.turn(writer):
            return await anyio.to_thread.run_sync(read_small, file, self._limits, plan, limiter=self._threads)

    async def _large_parts(self, file: BinaryIO, plan: ParquetPlan, writer: str) -> AsyncGenerator[bytes]:
        """The parts of a large file. Its turn is interrupted if other writers wait."""
        place = BEGINNING
        while True:
            async with self.large.turn(writer):
                split = split_parquet(file, self._limits, plan, place)
                try:
                    for count in itertools.count(1):
                        part = await anyio.to_thread.run_sync(next, split, None, limiter=self._threads)
                        if part is None:
                            return
                        yield part.data
                        place = part.end
                        if count >= PARTS_PER_TURN and self.large.others_wait(writer):
                            break
                finally:
                    split.close()
