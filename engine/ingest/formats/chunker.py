"""Divides streams of rows of any length into batches of limited size while they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from engine.errors import BAD_ROW, TOO_LARGE, RookeryError
from engine.ingest.formats.csv_records import BOM, csv_rows, ends_inside_quotes, is_unterminated, raw_cells
from engine.ingest.formats.json_values import BLANK, JsonElements, on_one_line, row_too_long

BATCH_BYTES = 4 << 20
"""Target size of a batch."""
MAX_ROW_BYTES = 64 << 20
"""Maximum size of one row."""
MAX_HEADER_BYTES = 256 << 10
"""Maximum size of a CSV header, which is repeated before each batch."""
Kind = Literal["ndjson", "csv"]
_UNTERMINATED_HEADER = "line 1: a quote in the header is never closed"
_CARRIAGE_RETURN = "line 1: a carriage return is not followed by a line feed"
_LINE_ENDS_HINT = (
    "nothing was stored; end lines with LF or CRLF. In Python, open the file with newline='' to write CSV"
)


class Chunker:
    """Divides a stream of NDJSON or CSV into batches of at most `size` bytes of rows; a longer row becomes a batch of
    its own.

    The boundaries depend only on the bytes and not on the chunks in which they arrive, so a repeated upload produces
    the same batches. Each CSV batch begins with the stream's header. A stream that begins with `[` is a JSON array,
    and its elements become lines. Exhaust the iterators that `feed` and `finish` return; both raise RK5004 for a row
    longer than `limit`, and RK5001 for a CSV header that cannot be read.
    """

    def __init__(self, kind: Kind, size: int = BATCH_BYTES, limit: int = MAX_ROW_BYTES) -> None:
        self._kind, self._size, self._limit = kind, size, max(size, limit)
        # The bytes before the first row, until the kind of stream is known.
        self._first = b""
        self._bom_checked = False
        self._stream: _NdjsonStream | _CsvStream | _ArrayStream | None = None

    @property
    def held(self) -> int:
        """Bytes that are not in a batch yet."""
        return len(self._first) if self._stream is None else self._stream.held

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Add a chunk and yield the batches that are full."""
        if self._stream is not None:
            self._stream.append(chunk)
        else:
            self._begin(self._first + chunk, last=False)
        return iter(()) if self._stream is None else self._stream.batches(last=False)

    def finish(self) -> Iterator[bytes]:
        """Yield the remaining batches at the end of the stream."""
        if self._stream is None:
            self._begin(self._first, last=True)
        return iter(()) if self._stream is None else self._stream.batches(last=True)

    def _begin(self, first: bytes, last: bool) -> None:
        """Choose the kind of stream by its first character after a byte order mark and blank lines."""
        self._first = first
        if not self._bom_checked:
            if BOM.startswith(first) and first != BOM and not last:
                return  # these bytes may be the beginning of a byte order mark
            self._bom_checked, first = True, first.removeprefix(BOM)
        self._first = first = first.lstrip(BLANK if self._kind == "ndjson" else b"\r\n")
        if not first:
            return
        if self._kind == "csv":
            self._stream = _CsvStream(self._size, self._limit)
        elif first.startswith(b"["):
            self._stream, first = _ArrayStream(self._size, self._limit), first[1:]
        else:
            self._stream = _NdjsonStream(self._size, self._limit)
        self._stream.append(first)


class _NdjsonStream:
    """A stream of NDJSON. It searches for a boundary only when a full batch has arrived, so chunks do not matter."""

    blank = BLANK

    def __init__(self, size: int, limit: int) -> None:
        self._size, self._limit = size, limit
        self._buffer = bytearray()
        # Position where the next search for a line break begins.
        self._searched = 0

    @property
    def held(self) -> int:
        """Bytes that are not in a batch yet."""
        return len(self._buffer)

    def append(self, chunk: bytes) -> None:
        """Add a chunk of the stream to the rows that are not in a batch yet."""
        self._buffer += chunk

    def batches(self, last: bool) -> Iterator[bytes]:
        """Yield the full batches, and at the end of the stream (`last`) the remaining one."""
        while len(self._buffer) > self._size:
            end = self._boundary()
            if (end if end >= 0 else len(self._buffer)) > self._limit:
                raise row_too_long(self._limit)
            if end < 0:
                break
            yield from self._take(end)
        if last:
            yield from self._take(len(self._buffer))

    def _take(self, end: int) -> Iterator[bytes]:
        """Remove the beginning of the buffer, and yield it as a batch unless it is blank."""
        batch = bytes(self._buffer[:end])
        self._drop(end)
        if batch.strip(self.blank):
            yield batch

    def _drop(self, end: int) -> None:
        del self._buffer[:end]
        self._searched = 0

    def _boundary(self) -> int:
        """Return the position after the last line within the batch size, or else after the first line; -1 if none."""
        # An object may span several lines. A line that begins with a brace is more likely to begin a row.
        line_break = self._buffer.rfind(b"\n{", self._size // 2, self._size + 1)
        if line_break < 0:
            line_break = self._buffer.rfind(b"\n", 0, self._size)
        if line_break < 0:
            line_break = self._buffer.find(b"\n", self._searched)
            self._searched = len(self._buffer)
        return line_break + 1 or -1


class _CsvStream(_NdjsonStream):
    """A stream of CSV. A line break in a quoted value is not a boundary between records."""

    blank = b"\r\n"

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self._header: bytes | None = None
        self._has_batches = False
        # `_scan` has read the buffer up to `_scanned`, which is inside a quoted value if `_quoted`. `_best` is the
        # last boundary before the batch size, or 0.
        self._scanned = self._best = 0
        self._quoted = False

    def batches(self, last: bool) -> Iterator[bytes]:
        """Yield the batches, each with the header."""
        if self._header is None:
            self._header = self._take_header(last)
        if self._header is not None:
            for batch in super().batches(last):
                self._has_batches = True
                yield self._header + batch
            if last and not self._has_batches:
                yield self._header  # the columns are checked even if there are no rows

    def _take_header(self, last: bool) -> bytes | None:
        """Remove the header from the buffer and return it, or return None until it has arrived completely."""
        end = self._scan(0)
        if last and end < 0:
            if is_unterminated(self._buffer):
                raise RookeryError(BAD_ROW, _UNTERMINATED_HEADER, hint="nothing was stored")
            end = len(self._buffer)
        if (end if end >= 0 else len(self._buffer)) > MAX_HEADER_BYTES:
            raise RookeryError(
                TOO_LARGE, f"the header is longer than {MAX_HEADER_BYTES:,} bytes", hint="is a quote never closed?"
            )
        if end < 0:
            return None
        header = bytes(self._buffer[:end])
        first, others = csv_rows(header)
        if others:
            raise RookeryError(BAD_ROW, _UNTERMINATED_HEADER, hint="nothing was stored")
        if any(b"\r" in cell for cell in raw_cells(first) if not cell.lstrip().startswith(b'"')):
            raise RookeryError(BAD_ROW, _CARRIAGE_RETURN, hint=_LINE_ENDS_HINT)
        self._drop(end)
        return header

    def _drop(self, end: int) -> None:
        super()._drop(end)
        self._scanned = self._best = 0
        self._quoted = False

    def _boundary(self) -> int:
        if not self._scanned:
            window = self._buffer[: self._size]
            if not any(line.count(b'"') & 1 for line in window.split(b"\n")):
                self._best = window.rfind(b"\n") + 1
                if self._best:
                    return self._best
        return self._scan(self._size)

    def _scan(self, size: int) -> int:
        """Return the last boundary up to `size`, or else the first one after it; -1 if there is none.

        Each call continues where the previous one stopped.
        """
        while (line_end := self._buffer.find(b"\n", max(self._scanned, self._searched))) >= 0:
            if line_end >= size and self._best:
                return self._best
            line = self._buffer[self._scanned : line_end]
            quoted = ends_inside_quotes(line, self._quoted)
            # None means that text follows a closing quote: the quote was left open by mistake on an earlier line, so
            # this line begins a record.
            self._quoted = bool(ends_inside_quotes(line, False) if quoted is None else quoted)
            self._scanned = line_end + 1
            if not self._quoted:
                if line_end >= size:
                    return self._scanned
                self._best = self._scanned
        self._searched = len(self._buffer)
        return self._best or -1


class _ArrayStream:
    """A stream that is a JSON array. Its elements become lines, and the text after its end is split as NDJSON."""

    def __init__(self, size: int, limit: int) -> None:
        self._size = size
        self._elements = JsonElements(limit)
        self._after = _NdjsonStream(size, limit)
        # The lines of the next batch, and their size in bytes.
        self._lines: list[bytes] = []
        self._line_bytes = 0

    @property
    def held(self) -> int:
        """Bytes that are not in a batch yet."""
        return self._elements.held + self._line_bytes + self._after.held

    def append(self, chunk: bytes) -> None:
        """Add a chunk."""
        (self._elements if self._elements.remainder is None else self._after).append(chunk)

    def batches(self, last: bool) -> Iterator[bytes]:
        """Yield the full batches, and at the end of the stream (`last`) the remaining ones."""
        if self._elements.remainder is None:
            yield from self._array_batches(last)
        if self._elements.remainder is not None:
            yield from self._after.batches(last)

    def _array_batches(self, last: bool) -> Iterator[bytes]:
        for element in self._elements.complete():
            yield from self._add(element)
        if self._elements.remainder is not None:
            self._after.append(self._elements.remainder)
        elif last:
            for text in self._elements.unterminated():
                yield from self._add(text)
        if self._lines and (last or self._elements.remainder is not None):
            yield self._flush()

    def _add(self, element: bytes) -> Iterator[bytes]:
        line = on_one_line(element) + b"\n"
        if self._lines and self._line_bytes + len(line) > self._size:
            yield self._flush()
        self._lines.append(line)
        self._line_bytes += len(line)

    def _flush(self) -> bytes:
        batch = b"".join(self._lines)
        self._lines, self._line_bytes = [], 0
        return batch
