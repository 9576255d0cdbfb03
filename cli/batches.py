"""Files of any size as batches of bounded size, for `append`."""

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

BATCH = 16 << 20
"""Bytes of a batch, about."""
PARQUET_ROWS = 200_000
ENDINGS = {".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to send, and how many bytes of the file they took."""

    body: bytes
    read: int


def kind_of(file: str) -> str:
    """The format of a file by its ending, a compression's ending aside; NDJSON for standard input."""
    if file == "-":
        return "ndjson"
    suffixes = [s.lower() for s in Path(file).suffixes]
    for suffix in reversed(suffixes):
        if suffix in ENDINGS:
            return ENDINGS[suffix]
    raise RookeryError(
        USAGE, f"the format of {file} is not clear from its ending", hint="--format ndjson, csv or parquet"
    )


def batches(file: str, kind: str, renamed: Mapping[str, str], skip: int) -> Iterator[Batch]:
    """A file's rows in batches, without the first `skip`. Compressed text (.bz2, .gz, .xz) is read as it comes."""
    if kind not in {"ndjson", "csv", "parquet"}:
        raise RookeryError(USAGE, f"no format {kind}", hint="ndjson, csv or parquet")
    if kind == "parquet":
        yield from _parquet(file, skip)
        return
    try:
        with _opened(file) as (stream, position):
            header = _header(stream.readline(), renamed) if kind == "csv" else b""
            yield from _lines(stream, position, header, skip)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as exc:
        raise RookeryError(BAD_ENCODING, f"{file} cannot be read: {exc}", hint="is it whole?") from exc


def _header(line: bytes, renamed: Mapping[str, str]) -> bytes:
    try:
        names = next(csv.reader([line.decode("utf-8-sig")]), [])
    except UnicodeDecodeError as exc:
        raise RookeryError(BAD_ENCODING, "the file is not UTF-8") from exc
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([renamed.get(n, n) for n in names])
    return out.getvalue().encode()


def _lines(stream: BinaryIO, position: _Position, header: bytes, skip: int) -> Iterator[Batch]:
    """Whole lines; a quoted CSV field that spans lines keeps its batch open until it ends."""
    left = skip
    parts: list[bytes] = []
    size = 0
    quotes = 0
    for line in stream:
        if left and line.strip():
            left -= 1
            continue
        parts.append(line)
        size += len(line)
        quotes += line.count(b'"') if header else 0
        if size >= BATCH and quotes % 2 == 0:
            yield Batch(header + b"".join(parts), position.advanced())
            parts, size, quotes = [], 0, 0
    if parts:
        yield Batch(header + b"".join(parts), position.advanced())


def _parquet(file: str, skip: int) -> Iterator[Batch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = io.BytesIO(sys.stdin.buffer.read()) if file == "-" else file
    try:
        reader = pq.ParquetFile(source)
        size = Path(file).stat().st_size if file != "-" else 0
        total = max(reader.metadata.num_rows, 1)
        left = skip
        for batch in reader.iter_batches(batch_size=PARQUET_ROWS):
            rows = batch.num_rows
            kept = batch.slice(min(left, rows))
            left -= min(left, rows)
            if kept.num_rows:
                sink = io.BytesIO()
                pq.write_table(pa.Table.from_batches([kept]), sink)
                yield Batch(sink.getvalue(), size * rows // total)
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
    """A file or standard input, decompressed by its ending, with its position on disk."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._raw: BinaryIO | None = None

    def __enter__(self) -> tuple[BinaryIO, _Position]:
        if self._file == "-":
            return sys.stdin.buffer, _Position(None)
        self._raw = Path(self._file).open("rb")
        return _decompressed(self._raw, Path(self._file).suffix.lower()), _Position(self._raw)

    def __exit__(self, *_: object) -> None:
        if self._raw is not None:
            self._raw.close()


def _decompressed(raw: BinaryIO, suffix: str) -> BinaryIO:
    openers = {".bz2": bz2.BZ2File, ".gz": gzip.GzipFile, ".xz": lzma.LZMAFile}
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    opener = openers.get(suffix)
    return opener(raw) if opener else raw
