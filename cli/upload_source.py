"""Files of any size, piece by piece, for `append`."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from engine.errors import BAD_ENCODING, BAD_ROW, USAGE, RookeryError

CHUNK_BYTES = 1 << 20
"""Bytes of a piece, about."""
PARQUET_CHUNK_ROWS = 200_000
FORMAT_BY_EXTENSION = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "ndjson",
    ".csv": "csv",
    ".parquet": "parquet",
}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes to send, and how many bytes of the file they took."""

    body: bytes
    read: int


def kind_of(file: str) -> str:
    """The format of a file by its ending, a compression's ending aside; NDJSON for standard input."""
    if file == "-":
        return "ndjson"
    suffixes = [s.lower() for s in Path(file).suffixes]
    for suffix in reversed(suffixes):
        if suffix in FORMAT_BY_EXTENSION:
            return FORMAT_BY_EXTENSION[suffix]
    raise RookeryError(
        USAGE, f"the format of {file} is not clear from its ending", hint="--format ndjson, csv or parquet"
    )


def uploads(file: str, kind: str, renamed: Mapping[str, str], skip: int) -> Iterator[Iterator[Chunk]]:
    """What to send of a file: one upload, in pieces, without the first `skip` rows.

    Compressed text (.bz2, .gz, .xz) is read as it comes. A Parquet file of which rows are left out becomes several.
    """
    if kind not in {"ndjson", "csv", "parquet"}:
        raise RookeryError(USAGE, f"no format {kind}", hint="ndjson, csv or parquet")
    if renamed and kind != "csv":
        raise RookeryError(USAGE, f"--rename is for CSV, and {file} is {kind}", hint="--format tells otherwise")
    if kind != "parquet":
        yield _text(file, kind, renamed, skip)
    elif skip:
        yield from (iter((piece,)) for piece in _parquet(file, skip))
    else:
        yield _whole(file)


def _whole(file: str) -> Iterator[Chunk]:
    with _opened(file, packed=False) as (stream, _):
        while body := stream.read(CHUNK_BYTES):
            yield Chunk(body, len(body))


def _text(file: str, kind: str, renamed: Mapping[str, str], skip: int) -> Iterator[Chunk]:
    try:
        with _opened(file) as (stream, position):
            header = _header(stream.readline(), renamed) if kind == "csv" else b""
            yield from _lines(stream, position, header, skip)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as exc:
        raise RookeryError(BAD_ENCODING, f"{file} cannot be read: {exc}", hint="is it whole?") from exc


def _header(line: bytes, renamed: Mapping[str, str]) -> bytes:
    """The line with the names, as it is unless some are renamed."""
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise RookeryError(BAD_ENCODING, "the file is not UTF-8") from exc
    if not renamed:
        return line
    if "\r" in text.removesuffix("\n").removesuffix("\r"):
        hint = "end lines with LF or CRLF"
        raise RookeryError(BAD_ROW, "line 1: a carriage return stands where no line ends", hint=hint)
    names = next(csv.reader([text]), [])
    missing = next((theirs for theirs in renamed if theirs not in names), None)
    if missing is not None:
        there = ", ".join(names[:20])
        raise RookeryError(USAGE, f"there is no column `{missing}` to rename", hint=f"the file has {there}")
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([renamed.get(n, n) for n in names])
    return out.getvalue().encode()


def _lines(stream: BinaryIO, position: _Position, header: bytes, skip: int) -> Iterator[Chunk]:
    """The header and what follows the rows that are left out, of which a CSV field may span lines."""
    left, quotes = skip, 0
    while left and (line := stream.readline()):
        quotes += line.count(b'"') if header else 0
        left -= bool(line.strip()) and quotes % 2 == 0
    body, begins = header + stream.read(CHUNK_BYTES), bool(header)
    while begins or len(body) > len(header):
        yield Chunk(body, position.advanced())
        body, header, begins = stream.read(CHUNK_BYTES), b"", False


def _parquet(file: str, skip: int) -> Iterator[Chunk]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = io.BytesIO(sys.stdin.buffer.read()) if file == "-" else file
    try:
        reader = pq.ParquetFile(source)
        size = Path(file).stat().st_size if file != "-" else 0
        total = max(reader.metadata.num_rows, 1)
        left = skip
        for batch in reader.iter_batches(batch_size=PARQUET_CHUNK_ROWS):
            rows = batch.num_rows
            kept = batch.slice(min(left, rows))
            left -= min(left, rows)
            if kept.num_rows:
                sink = io.BytesIO()
                pq.write_table(pa.Table.from_batches([kept]), sink)
                yield Chunk(sink.getvalue(), size * rows // total)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as exc:
        raise RookeryError(BAD_ROW, f"{file} is not a Parquet file that can be read: {exc}") from exc


class _Position:
    """How far a file has been read, in bytes on disk."""

    def __init__(self, raw: BinaryIO | None) -> None:
        self._raw, self._before = raw, 0

    def advanced(self) -> int:
        """Bytes since the last call."""
        if self._raw is None:
            return 0
        now = self._raw.tell()
        moved, self._before = now - self._before, now
        return moved


class _opened:  # noqa: N801
    """A file or standard input, decompressed by its ending if it is `packed`, with its position on disk."""

    def __init__(self, file: str, *, packed: bool = True) -> None:
        self._file = file
        self._packed = packed
        self._raw: BinaryIO | None = None

    def __enter__(self) -> tuple[BinaryIO, _Position]:
        if self._file == "-":
            return sys.stdin.buffer, _Position(None)
        self._raw = Path(self._file).open("rb")
        suffix = Path(self._file).suffix.lower() if self._packed else ""
        return _decompressed(self._raw, suffix), _Position(self._raw)

    def __exit__(self, *_: object) -> None:
        if self._raw is not None:
            self._raw.close()


def _decompressed(raw: BinaryIO, suffix: str) -> BinaryIO:
    openers = {".bz2": bz2.BZ2File, ".gz": gzip.GzipFile, ".xz": lzma.LZMAFile}
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    opener = openers.get(suffix)
    return opener(raw) if opener else raw
