"""Assembles one well-formed document from an engine that returns a large result in blocks.

The engine returns rows as JSONEachRow or CSV lines, which can be concatenated, or as one Parquet file per block.
These functions add the rest of the document. They never hold more than one block in memory.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

_CHUNK_BYTES = 1 << 20

Column = tuple[str, str]
"""The name and ClickHouse type of a result column."""


def json_document(
    columns: Iterable[Column], rows: Iterable[bytes], statistics: Callable[[], Mapping[str, float]]
) -> Iterator[bytes]:
    """Build the engine's JSON document from its columns and rows in JSONEachRow format.

    Values contain no raw line feeds, so each line is one row. `statistics` is called after the last row.
    """
    meta = orjson.dumps([{"name": name, "type": kind} for name, kind in columns])
    opening = b'{"meta":' + meta + b',"data":['
    count = 0
    pending = b""
    for chunk in rows:
        count += chunk.count(b"\n")
        # The last line feed is withheld until another row follows, because it then becomes a comma.
        body = chunk[:-1] if chunk.endswith(b"\n") else chunk
        yield opening + pending + body.replace(b"\n", b",\n")
        opening, pending = b"", b",\n" if chunk.endswith(b"\n") else b""
    closing = orjson.dumps({"rows": count, "statistics": dict(statistics())})
    yield opening + b"]," + closing[1:] + b"\n"


def csv_document(columns: Iterable[Column], rows: Iterable[bytes]) -> Iterator[bytes]:
    """Add a header line, spelled as the engine does, before the rows."""
    yield ",".join('"' + name.replace('"', '""') + '"' for name, _ in columns).encode() + b"\n"
    yield from rows


def parquet_document(empty: Callable[[], bytes], blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Merge one Parquet file per block into a single file with the schema of the first. `empty` is used if there are
    no blocks.
    """
    sink = _Sink()
    writer: pq.ParquetWriter | None = None
    try:
        for block in blocks:
            table = _table(block)
            if writer is None:
                writer = pq.ParquetWriter(sink, table.schema, compression="zstd")
            writer.write_table(table.cast(writer.schema) if table.schema != writer.schema else table)
            if sink.pending_bytes >= _CHUNK_BYTES:
                yield sink.drain()
        if writer is None:
            yield empty()
            return
        writer.close()
        yield sink.drain()
    finally:
        if writer is not None and writer.is_open:
            writer.close()


def _table(block: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(block))


class _Sink(io.RawIOBase):
    """A write-only file whose content can be drained while its position keeps growing."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._position = 0
        self.pending_bytes = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]
        self._parts.append(part)
        self._position += len(part)
        self.pending_bytes += len(part)
        return len(part)

    def drain(self) -> bytes:
        """Return the bytes that were written since the previous call, and discard them."""
        content = b"".join(self._parts)
        self._parts.clear()
        self.pending_bytes = 0
        return content
