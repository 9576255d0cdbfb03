"""Memory that batches take while they are read and stored, shared in turn.

What a batch takes is not known before the engine has read it, so the most that it may come to is set aside, and the
engine holds its reading to that.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from engine.warehouse.port import Input

OWN, CELL = 8, 2
"""Bytes of memory for each byte of a body: its own, and for each column, as a short row fills all columns."""
LEAST = 64 << 20
"""What the engine takes for any batch."""


def needed(size: int, columns: int, format: Input, most: int) -> int:
    """The most memory that reading a body of so many bytes may take; of Parquet, nothing tells."""
    if format is Input.PARQUET:
        return most
    return min(most, LEAST + size * (OWN + CELL * columns))


class Memory:
    """So many bytes, taken by one batch after the other in the order in which they ask."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def taken(self) -> int:
        """Bytes that are set aside at present."""
        return self._taken

    @property
    def waiting(self) -> int:
        """Batches that wait for their turn."""
        return len(self._waiting)

    @contextmanager
    def set_aside(self, size: int) -> Iterator[None]:
        """Have so many bytes, which may not be more than there are, once those who asked before have theirs."""
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            self._changed.wait_for(lambda: self._waiting[0] is turn and self._taken + size <= self._total)
            self._waiting.popleft()
            self._taken += size
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()
