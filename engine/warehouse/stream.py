"""A running query's output as an iterator that gives back what it holds."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator

from engine.warehouse.errors import translate


class ResultStream:
    """A stream over a generator. The generator's `finally` releases the handle, also when the reader leaves early."""

    def __init__(self, parts: Generator[bytes, None, None]) -> None:
        self._parts = parts
        # A reader that leaves may close in another thread while a part is still being made.
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._lock:
            try:
                return next(self._parts)
            except StopIteration:
                raise
            except Exception as exc:
                raise translate(exc) from exc

    def close(self) -> None:
        with self._lock:
            self._parts.close()
