"""Rewrites the closing statistics of a JSON result so that they do not count rows of other tenants."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from engine.warehouse.port import Stream

HELD_BACK_BYTES = 4096
"""Bytes held back at the end of a JSON document. The closing part, which is rewritten, is far shorter."""


class ClosingStatistics:
    """A JSON stream with `rows_before_limit_at_least`, which Tinybird's clients expect, in its closing part.

    Without `show_read_rows` the statistics count the rows and bytes that are returned, not those that were read:
    reading may have touched other tenants' rows, and how many rows the engine saw before a LIMIT stopped it depends
    on where other tenants' rows are.
    """

    def __init__(self, stream: Stream, *, show_read_rows: bool) -> None:
        self._stream, self._show_read_rows = stream, show_read_rows
        self._tail = b""
        self._sent_bytes = 0
        self._done = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while not self._done:
            chunk = next(self._stream, None)
            if chunk is None:
                self._done = True
                return self._closing_part()
            self._tail += chunk
            if len(self._tail) > HELD_BACK_BYTES:
                out, self._tail = self._tail[:-HELD_BACK_BYTES], self._tail[-HELD_BACK_BYTES:]
                self._sent_bytes += len(out)
                return out
        raise StopIteration

    def close(self) -> None:
        self._stream.close()

    def _closing_part(self) -> bytes:
        """The last rows, then the statistics in their own form."""
        # Row values cannot contain this string unescaped, and no later key is named `rows`.
        start = self._tail.rfind(b'"rows":')
        body, closing = self._tail[:start], orjson.loads(b"{" + self._tail[start:])
        rows = closing["rows"]
        read = closing.get("statistics", {})
        statistics = {
            "elapsed": read.get("elapsed", 0),
            "rows_read": read.get("rows_read", 0) if self._show_read_rows else rows,
            "bytes_read": read.get("bytes_read", 0) if self._show_read_rows else self._sent_bytes + len(body),
        }
        before = closing.get("rows_before_limit_at_least", rows) if self._show_read_rows else rows
        end = orjson.dumps({"rows": rows, "rows_before_limit_at_least": before, "statistics": statistics})
        return body + end[1:] + b"\n"
