"""The memory that the engine may use to read and store batches. Batches reserve it one after the other.

The memory that a batch needs is unknown until the engine has read it. So the maximum that it may need is reserved,
and the engine's memory limit for the INSERT is set to this value.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from engine.warehouse.port import Input

BYTES_PER_BODY_BYTE = 8
"""Bytes of memory for each byte of a body."""
BYTES_PER_BODY_BYTE_AND_COLUMN = 2
"""Additional bytes for each byte of a body and each column, because even the shortest row fills all columns."""
MIN_INSERT_BYTES = 64 << 20
"""Bytes that the engine needs for any batch."""


def max_insert_bytes(size: int, columns: int, format: Input, limit: int) -> int:
    """The most memory that reading a body may take, but not more than the limit for one batch.

    For Parquet it is the limit: a small file may decompress to any size.
    """
    if format is Input.PARQUET:
        return limit
    return min(limit, MIN_INSERT_BYTES + size * (BYTES_PER_BODY_BYTE + BYTES_PER_BODY_BYTE_AND_COLUMN * columns))


class InsertMemory:
    """A number of bytes that batches reserve in the order of their requests, so that large batches are not
    overtaken.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._reserved = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def reserved_bytes(self) -> int:
        return self._reserved

    @property
    def waiting(self) -> int:
        """How many batches wait for memory."""
        return len(self._waiting)

    @contextmanager
    def reserved(self, size: int) -> Iterator[None]:
        """Wait for earlier batches and for enough free memory, and reserve it. `size` is at most the total."""
        # Only the first in the queue gets memory, even if a later one would fit: otherwise small batches could keep a
        # large one waiting forever.
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            self._changed.wait_for(lambda: self._waiting[0] is turn and self._reserved + size <= self._total)
            self._waiting.popleft()
            self._reserved += size
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._reserved -= size
                self._changed.notify_all()
