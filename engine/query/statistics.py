"""The last touch on a response: a JSON document's closing statistics, which may say nothing of others' rows."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from engine.warehouse.port import Stream

HELD_BACK_BYTES = 4096
"""Bytes held back at the end of a JSON document; its closing part is far shorter."""


class ClosingStatistics:
    """A JSON stream whose closing part is completed as Tinybird's clients expect it.

    `rows_before_limit_at_least` is added where the engine left it out. Unless `whole_truth`, all of them count the
    rows and bytes that are returned, never those that were read: reading may have touched other tenants' rows, and
    how many rows the engine had seen before a LIMIT stopped it depends on where others' lie between them.
    """

    def __init__(self, stream: Stream, *, whole_truth: bool) -> None:
        self._stream, self._whole_truth = stream, whole_truth
        self._held = b""
        self._sent = 0
        self._done = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while not self._done:
            chunk = next(self._stream, None)
            if chunk is None:
                self._done = True
                return self._closing()
            self._held += chunk
            if len(self._held) > HELD_BACK_BYTES:
                out, self._held = self._held[:-HELD_BACK_BYTES], self._held[-HELD_BACK_BYTES:]
                self._sent += len(out)
                return out
        raise StopIteration

    def close(self) -> None:
        self._stream.close()

    def _closing(self) -> bytes:
        start = self._held.rfind(b'"rows":')
        body, closing = self._held[:start], orjson.loads(b"{" + self._held[start:])
        rows = closing["rows"]
        read = closing.get("statistics", {})
        statistics = {
            "elapsed": read.get("elapsed", 0),
            "rows_read": read.get("rows_read", 0) if self._whole_truth else rows,
            "bytes_read": read.get("bytes_read", 0) if self._whole_truth else self._sent + len(body),
        }
        before = closing.get("rows_before_limit_at_least", rows) if self._whole_truth else rows
        end = orjson.dumps({"rows": rows, "rows_before_limit_at_least": before, "statistics": statistics})
        return body + end[1:] + b"\n"
