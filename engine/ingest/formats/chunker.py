"""Streams of rows, of any length, cut into batches of bounded size while they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from engine.errors import BAD_ROW, TOO_LARGE, RookeryError
from engine.ingest.formats.csv_records import BOM, csv_rows, ends_quoted, is_open, raw_cells
from engine.ingest.formats.json_values import BLANK, JsonElements, on_one_line, too_long

BATCH_BYTES = 4 << 20
MAX_ROW_BYTES = 64 << 20
MAX_HEADER_BYTES = 256 << 10
"""Bytes that the names of a CSV file's columns may take: they stand before each of its batches."""
Kind = Literal["ndjson", "csv"]
_OPEN_HEADER = "line 1: a quote in the header is never closed"
_CARRIAGE_RETURN = "line 1: a carriage return stands where no line ends"
_LINE_ENDS = "nothing was stored; end lines with LF or CRLF. In Python, open the file with newline='' to write CSV"


class Chunker:
    """Cuts a stream of NDJSON or CSV into batches of at most `size` bytes of rows; a longer row is its own batch.

    Where it cuts depends on the bytes alone, not on the chunks they came in. Each batch of CSV begins with the
    stream's header. A stream that begins with `[` is a list, and its elements become lines. What `feed` and `finish`
    return is to be taken to its end. Both raise RK5004 for a row longer than `limit`.
    """

    def __init__(self, kind: Kind, size: int = BATCH_BYTES, limit: int = MAX_ROW_BYTES) -> None:
        self._kind, self._size, self._limit = kind, size, max(size, limit)
        self._first = b""
        self._marked = False
        self._inner: _Lines | _Records | _List | None = None

    @property
    def held(self) -> int:
        """Bytes that are in no batch yet."""
        return len(self._first) if self._inner is None else self._inner.held

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take a chunk; the batches that are full."""
        if self._inner is not None:
            self._inner.append(chunk)
        else:
            self._begin(self._first + chunk, last=False)
        return iter(()) if self._inner is None else self._inner.batches(last=False)

    def finish(self) -> Iterator[bytes]:
        """The batches that are left at the end of the stream."""
        if self._inner is None:
            self._begin(self._first, last=True)
        return iter(()) if self._inner is None else self._inner.batches(last=True)

    def _begin(self, first: bytes, last: bool) -> None:
        """What the stream is shows behind a byte order mark and blank lines."""
        self._first = first
        if not self._marked:
            if BOM.startswith(first) and first != BOM and not last:
                return
            self._marked, first = True, first.removeprefix(BOM)
        self._first = first = first.lstrip(BLANK if self._kind == "ndjson" else b"\r\n")
        if not first:
            return
        if self._kind == "csv":
            self._inner = _Records(self._size, self._limit)
        elif first.startswith(b"["):
            self._inner, first = _List(self._size, self._limit), first[1:]
        else:
            self._inner = _Lines(self._size, self._limit)
        self._inner.append(first)


class _Lines:
    """NDJSON. Looks at a batch's window only when that is full, so that chunks make no difference."""

    blank = BLANK

    def __init__(self, size: int, limit: int) -> None:
        self._size, self._limit = size, limit
        self._buffer = bytearray()
        self._sought = 0

    @property
    def held(self) -> int:
        return len(self._buffer)

    def append(self, chunk: bytes) -> None:
        self._buffer += chunk

    def batches(self, last: bool) -> Iterator[bytes]:
        while len(self._buffer) > self._size:
            end = self._border()
            if (end if end >= 0 else len(self._buffer)) > self._limit:
                raise too_long(self._limit)
            if end < 0:
                break
            yield from self._taken(end)
        if last:
            yield from self._taken(len(self._buffer))

    def _taken(self, end: int) -> Iterator[bytes]:
        batch = bytes(self._buffer[:end])
        self._drop(end)
        if batch.strip(self.blank):
            yield batch

    def _drop(self, end: int) -> None:
        del self._buffer[:end]
        self._sought = 0

    def _border(self) -> int:
        """The position behind the window's last line, or else behind the first line that ends; -1 if none does."""
        # Objects may stand over several lines: a line that begins with a brace more likely begins a row.
        found = self._buffer.rfind(b"\n{", self._size // 2, self._size + 1)
        if found < 0:
            found = self._buffer.rfind(b"\n", 0, self._size)
        if found < 0:
            found = self._buffer.find(b"\n", self._sought)
            self._sought = len(self._buffer)
        return found + 1 or -1


class _Records(_Lines):
    """CSV: a line break in a quoted value is no border."""

    blank = b"\r\n"

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self._header: bytes | None = None
        self._cut = False
        self._scanned = self._best = 0
        self._quoted = False

    def batches(self, last: bool) -> Iterator[bytes]:
        if self._header is None:
            self._header = self._head(last)
        if self._header is not None:
            for batch in super().batches(last):
                self._cut = True
                yield self._header + batch
            if last and not self._cut:
                yield self._header  # what it names is judged although no row follows

    def _head(self, last: bool) -> bytes | None:
        """The header, taken off the stream once all of it is there."""
        end = self._scan(0)
        if last and end < 0:
            if is_open(self._buffer):
                raise RookeryError(BAD_ROW, _OPEN_HEADER, hint="nothing was stored")
            end = len(self._buffer)
        if (end if end >= 0 else len(self._buffer)) > MAX_HEADER_BYTES:
            raise RookeryError(
                TOO_LARGE, f"the header is longer than {MAX_HEADER_BYTES:,} bytes", hint="is a quote left open?"
            )
        if end < 0:
            return None
        header = bytes(self._buffer[:end])
        first, others = csv_rows(header)
        if others:
            raise RookeryError(BAD_ROW, _OPEN_HEADER, hint="nothing was stored")
        if any(b"\r" in cell for cell in raw_cells(first) if not cell.lstrip().startswith(b'"')):
            raise RookeryError(BAD_ROW, _CARRIAGE_RETURN, hint=_LINE_ENDS)
        self._drop(end)
        return header

    def _drop(self, end: int) -> None:
        super()._drop(end)
        self._scanned = self._best = 0
        self._quoted = False

    def _border(self) -> int:
        if not self._scanned:
            window = self._buffer[: self._size]
            if not any(line.count(b'"') & 1 for line in window.split(b"\n")):
                self._best = window.rfind(b"\n") + 1
                if self._best:
                    return self._best
        return self._scan(self._size)

    def _scan(self, size: int) -> int:
        """The last border up to `size`, or else the first behind it; -1 if there is none. Goes on where it ended."""
        while (found := self._buffer.find(b"\n", max(self._scanned, self._sought))) >= 0:
            if found >= size and self._best:
                return self._best
            line = self._buffer[self._scanned : found]
            ended = ends_quoted(line, self._quoted)
            # Text behind a closing quote: the value was left open on an earlier line, and this line begins a record.
            self._quoted = bool(ends_quoted(line, False) if ended is None else ended)
            self._scanned = found + 1
            if not self._quoted:
                if found >= size:
                    return self._scanned
                self._best = self._scanned
        self._sought = len(self._buffer)
        return self._best or -1


class _List:
    """A JSON array: its elements, each on a line; what follows its end is taken as lines."""

    def __init__(self, size: int, limit: int) -> None:
        self._size = size
        self._elements = JsonElements(limit)
        self._after = _Lines(size, limit)
        self._lines: list[bytes] = []
        self._held = 0

    @property
    def held(self) -> int:
        return self._elements.held + self._held + self._after.held

    def append(self, chunk: bytes) -> None:
        (self._elements if self._elements.rest is None else self._after).append(chunk)

    def batches(self, last: bool) -> Iterator[bytes]:
        if self._elements.rest is None:
            yield from self._listed(last)
        if self._elements.rest is not None:
            yield from self._after.batches(last)

    def _listed(self, last: bool) -> Iterator[bytes]:
        for element in self._elements.complete():
            yield from self._added(element)
        if self._elements.rest is not None:
            self._after.append(self._elements.rest)
        elif last:
            for text in self._elements.unended():
                yield from self._added(text)
        if self._lines and (last or self._elements.rest is not None):
            yield self._flushed()

    def _added(self, element: bytes) -> Iterator[bytes]:
        line = on_one_line(element) + b"\n"
        if self._lines and self._held + len(line) > self._size:
            yield self._flushed()
        self._lines.append(line)
        self._held += len(line)

    def _flushed(self) -> bytes:
        batch = b"".join(self._lines)
        self._lines, self._held = [], 0
        return batch
