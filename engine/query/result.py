"""The result of a running query, of which the first bytes have been read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from engine.warehouse.port import Stream

READ_AHEAD_BYTES = 256 * 1024
"""Bytes read before the status line is sent. A result of at most this length is sent as a whole, with its length."""


class QueryResult:
    """A running query: the bytes that were read ahead in `head`, and the stream of the remaining ones.

    It holds a database handle and must be closed. If the whole result fits into `head`, it is `complete` and has
    closed itself. `ignored` names the parameters that had no effect.
    """

    def __init__(self, stream: Stream, watch: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """`watch` makes the context of each read from the database. Raises the errors of the first reads."""
        self._stream, self._on_close, self._watch = stream, _do_nothing, watch
        self.head, self.complete = b"", False
        self.ignored: frozenset[str] = frozenset()
        try:
            with watch():
                self._read_ahead()
        except BaseException:
            self.close()
            raise
        if self.complete:
            self.close()

    def _read_ahead(self) -> None:
        """Read up to READ_AHEAD_BYTES, so that most errors come before the status line."""
        # Errors in this part can still become the status of the response.
        chunks: list[bytes] = []
        size = 0
        while size < READ_AHEAD_BYTES:
            chunk = next(self._stream, None)
            if chunk is None:
                self.complete = True
                break
            chunks.append(chunk)
            size += len(chunk)
        self.head = b"".join(chunks)

    def when_closed(self, callback: Callable[[], None]) -> None:
        """Call back once, when the result is closed; immediately if it is already closed."""
        if self.complete:
            callback()
        else:
            self._on_close = callback

    def next_chunk(self) -> bytes | None:
        """The next bytes, or None at the end."""
        with self._watch():
            return next(self._stream, None)

    def close(self) -> None:
        """Return the database handle and the query's place in the limits. May be called more than once."""
        # Taken out first, so that a second call does not count the query as ended twice.
        callback, self._on_close = self._on_close, _do_nothing
        try:
            self._stream.close()
        finally:
            callback()


def _do_nothing() -> None:
    """The callback of a result for which `when_closed` was not called."""
