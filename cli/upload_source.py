"""Read files of any size in chunks, for `append`."""

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
"""Approximate bytes of a chunk."""
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
    """A part of a file."""

    body: bytes
    """Bytes to send."""
    read: int
    """Bytes of the file on disk that were read for them."""


def format_of(file: str) -> str:
    """The format of a file by its extension (before that of the compression); NDJSON for standard input."""
    if file == "-":
        return "ndjson"
    suffixes = [s.lower() for s in Path(file).suffixes]
    for suffix in reversed(suffixes):
        if suffix in FORMAT_BY_EXTENSION:
            return FORMAT_BY_EXTENSION[suffix]
    raise RookeryError(
        USAGE, f"the extension of {file} is not that of a known format", hint="--format ndjson, csv or parquet"
    )


def uploads(file: str, format: str, renamed: Mapping[str, str], skip: int) -> Iterator[Iterator[Chunk]]:
    """The uploads of a file without its first `skip` rows, each in chunks. `renamed` maps old to new CSV columns.

    There is one upload, but several for a Parquet file whose first rows are skipped. Compressed text (.bz2, .gz, .xz)
    is decompressed. Raises RK7002 for arguments that do not fit, RK5007 and RK5001 for files that cannot be read.
    """
    if format not in {"ndjson", "csv", "parquet"}:
        raise RookeryError(USAGE, f"unknown format {format}", hint="ndjson, csv or parquet")
    if renamed and format != "csv":
        raise RookeryError(
            USAGE, f"--rename is for CSV, and {file} is {format}", hint="--format csv if the file is CSV"
        )
    if format != "parquet":
        yield _text_chunks(file, format, renamed, skip)
    elif skip:
        yield from (iter((chunk,)) for chunk in _parquet_chunks(file, skip))
    else:
        yield _raw_chunks(file)


def _raw_chunks(file: str) -> Iterator[Chunk]:
    with _opened(file, decompress=False) as (stream, _):
        while body := stream.read(CHUNK_BYTES):
            yield Chunk(body, len(body))


def _text_chunks(file: str, format: str, renamed: Mapping[str, str], skip: int) -> Iterator[Chunk]:
    try:
        with _opened(file) as (stream, position):
            header = _header(stream.readline(CHUNK_BYTES), renamed) if format == "csv" else b""
            yield from _lines(stream, position, header, skip)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as exc:
        raise RookeryError(
            BAD_ENCODING, f"{file} cannot be read: {exc}", hint="check that the file is complete"
        ) from exc


def _header(line: bytes, renamed: Mapping[str, str]) -> bytes:
    """The header line, unchanged unless columns are renamed."""
    if len(line) == CHUNK_BYTES:
        raise RookeryError(
            BAD_ROW, f"line 1: the header is longer than {CHUNK_BYTES >> 20} MiB", hint="is it a CSV file?"
        )
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise RookeryError(BAD_ENCODING, "the file is not UTF-8") from exc
    if not renamed:
        return line
    if "\r" in text.removesuffix("\n").removesuffix("\r"):
        hint = "end lines with LF or CRLF"
        raise RookeryError(BAD_ROW, "line 1: a carriage return is not at the end of the line", hint=hint)
    names = next(csv.reader([text]), [])
    missing = next((name for name in renamed if name not in names), None)
    if missing is not None:
        columns = ", ".join(names[:20])
        raise RookeryError(USAGE, f"there is no column `{missing}` to rename", hint=f"columns of the file: {columns}")
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([renamed.get(n, n) for n in names])
    return out.getvalue().encode()


def _lines(stream: BinaryIO, position: _Position, header: bytes, skip: int) -> Iterator[Chunk]:
    """The header, and the rows after the skipped ones. `header` is empty for NDJSON."""
    remaining, quotes = skip, 0
    while remaining and (line := stream.readline()):
        # A quoted CSV field may contain line breaks: a row is complete when the number of quotes is even.
        quotes += line.count(b'"') if header else 0
        remaining -= bool(line.strip()) and quotes % 2 == 0
    body, is_first = header + stream.read(CHUNK_BYTES), bool(header)
    while is_first or body:
        yield Chunk(body, position.advanced())
        body, is_first = stream.read(CHUNK_BYTES), False


def _parquet_chunks(file: str, skip: int) -> Iterator[Chunk]:
    """The rows after the skipped ones, as complete Parquet files of a limited number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = io.BytesIO(sys.stdin.buffer.read()) if file == "-" else file
    try:
        reader = pq.ParquetFile(source)
        size = Path(file).stat().st_size if file != "-" else 0
        total = max(reader.metadata.num_rows, 1)
        remaining = skip
        for batch in reader.iter_batches(batch_size=PARQUET_CHUNK_ROWS):
            rows = batch.num_rows
            kept = batch.slice(min(remaining, rows))
            remaining -= min(remaining, rows)
            if kept.num_rows:
                sink = io.BytesIO()
                pq.write_table(pa.Table.from_batches([kept]), sink)
                yield Chunk(sink.getvalue(), size * rows // total)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as exc:
        raise RookeryError(BAD_ROW, f"{file} cannot be read as Parquet: {exc}") from exc


class _Position:
    """How far a file on disk has been read, for progress; always 0 for standard input."""

    def __init__(self, raw: BinaryIO | None) -> None:
        self._raw, self._last = raw, 0

    def advanced(self) -> int:
        """Bytes since the last call."""
        if self._raw is None:
            return 0
        now = self._raw.tell()
        moved, self._last = now - self._last, now
        return moved


class _opened:  # noqa: N801
    """A file or standard input with its position on disk. With `decompress`, the extension names the compression."""

    def __init__(self, file: str, *, decompress: bool = True) -> None:
        self._file = file
        self._decompress = decompress
        self._raw: BinaryIO | None = None

    def __enter__(self) -> tuple[BinaryIO, _Position]:
        if self._file == "-":
            return sys.stdin.buffer, _Position(None)
        self._raw = Path(self._file).open("rb")
        suffix = Path(self._file).suffix.lower() if self._decompress else ""
        return _decompressed(self._raw, suffix), _Position(self._raw if self._raw.seekable() else None)

    def __exit__(self, *_: object) -> None:
        if self._raw is not None:
            self._raw.close()


def _decompressed(raw: BinaryIO, suffix: str) -> BinaryIO:
    openers = {".bz2": bz2.BZ2File, ".gz": gzip.GzipFile, ".xz": lzma.LZMAFile}
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    opener = openers.get(suffix)
    return opener(raw) if opener else raw
