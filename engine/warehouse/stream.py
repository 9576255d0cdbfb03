"""The output of a running query as an iterator that releases its handle when it is closed."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator

from engine.warehouse.errors import translate


class ResultStream:
    """A stream over a generator whose `finally` releases the handle, even if the client disconnects early."""

    def __init__(self, chunks: Generator[bytes, None, None]) -> None:
        self._chunks = chunks
        # If the client disconnects, `close` may be called in another thread while a chunk is still being produced.
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._lock:
            try:
                return next(self._chunks)
            except StopIteration:
                raise
            except Exception as exc:
                raise translate(exc) from exc

    def close(self) -> None:
        with self._lock:
            self._chunks.close()
