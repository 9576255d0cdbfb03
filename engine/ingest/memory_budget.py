"""The memory for bodies that are read or wait to be stored. It is limited, and a writer cannot use up all of it."""

from __future__ import annotations

import threading

from engine.errors import QUEUE_FULL, RookeryError

MAX_WRITER_SHARE = 3
"""A writer's maximum share of the memory, as a multiple of the memory that is still free."""
SMALL_BODY_BYTES = 64 << 10
"""A body of this size may always arrive slowly."""


class BodyMemory:
    """Counts the bytes of bodies in memory by writer. Any thread may use it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._reserved = 0
        self._reserved_by_writer: dict[str, int] = {}
        """Only writers with bytes, so the dictionary does not grow with the number of tokens."""

    @property
    def reserved(self) -> int:
        """Bytes of all bodies in memory."""
        return self._reserved

    @property
    def is_scarce(self) -> bool:
        """Whether less than a quarter of the memory is free."""
        return self._reserved > self._limit * 3 // 4

    def budget(self, writer: str) -> MemoryBudget:
        """The memory budget of a writer's request."""
        return MemoryBudget(self, writer)

    def change(self, size: int, writer: str) -> None:
        """Add to a writer's reserved bytes, or subtract from them. Raises RK5010.

        A writer gets at most MAX_WRITER_SHARE times as many bytes as remain for others.
        """
        with self._lock:
            reserved = self._reserved_by_writer.get(writer, 0) + size
            free = self._limit - self._reserved - size
            # Releasing is never refused.
            if size > 0 and reserved > MAX_WRITER_SHARE * free:
                raise RookeryError(
                    QUEUE_FULL,
                    "the ingest queue is full",
                    hint="send the request again after a second; the limit is ROOKERY_MAX_WAITING",
                    headers={"Retry-After": "1"},
                )
            self._reserved += size
            self._reserved_by_writer[writer] = reserved
            if not reserved:
                del self._reserved_by_writer[writer]


class MemoryBudget:
    """One request's part of the memory for bodies: reserved while a body is read, released with the response."""

    def __init__(self, memory: BodyMemory, writer: str) -> None:
        self._memory = memory
        self._writer = writer
        self._reserved = self._window = 0

    @property
    def is_needed(self) -> bool:
        """Whether others need the memory that is reserved here."""
        return self._memory.is_scarce and self._reserved + self._window > SMALL_BODY_BYTES

    def reserve(self, size: int) -> None:
        """Reserve bytes. Raises RK5010 when the memory is used up."""
        self._memory.change(size, self._writer)
        self._reserved += size

    def release(self, size: int) -> None:
        """Release some of the reserved bytes."""
        self.reserve(-size)

    def resize(self, size: int) -> None:
        """Reserve or release bytes so that `size` bytes are reserved. Raises RK5010 when the memory is used up."""
        self.reserve(size - self._reserved)

    def release_all(self) -> None:
        """Release what is still reserved."""
        self.release(self._reserved)

    def resize_window(self, size: int) -> None:
        """Reserve or release bytes so that `size` bytes are reserved for a decompressor, in addition to the others.

        Raises RK5010 when the memory is used up.
        """
        if size != self._window:
            self._memory.change(size - self._window, self._writer)
            self._window = size

    def __enter__(self) -> MemoryBudget:
        return self

    def __exit__(self, *_: object) -> None:
        self.release_all()
        self.resize_window(0)
