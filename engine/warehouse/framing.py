"""One well-formed document out of an engine that delivers a large result in blocks.

Rows come as JSONEachRow or CSV lines, which can be joined, or as one Parquet file per block; what surrounds the rows
in a document is made here, once. Nothing here keeps more than a block.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

_PIECE = 1 << 20


Column = tuple[str, str]
"""A result column: name and ClickHouse type."""


def json_document(
    columns: Iterable[Column], rows: Iterable[bytes], statistics: Callable[[], Mapping[str, float]]
) -> Iterator[bytes]:
    """The engine's JSON document from its columns and the JSONEachRow lines of its rows.

    Lines hold no raw line feed inside a value, so a line's end is a row's end.
    """
    meta = orjson.dumps([{"name": name, "type": kind} for name, kind in columns])
    opening = b'{"meta":' + meta + b',"data":['
    count = 0
    pending = b""
    for chunk in rows:
        count += chunk.count(b"\n")
        # The last line feed waits: only a further row turns it into a comma.
        body = chunk[:-1] if chunk.endswith(b"\n") else chunk
        yield opening + pending + body.replace(b"\n", b",\n")
        opening, pending = b"", b",\n" if chunk.endswith(b"\n") else b""
    closing = orjson.dumps({"rows": count, "statistics": dict(statistics())})
    yield opening + b"]," + closing[1:] + b"\n"


def csv_document(columns: Iterable[Column], rows: Iterable[bytes]) -> Iterator[bytes]:
    """A header line as the engine spells it, then the lines of the rows."""
    yield ",".join('"' + name.replace('"', '""') + '"' for name, _ in columns).encode() + b"\n"
    yield from rows


def parquet_document(empty: Callable[[], bytes], blocks: Iterable[bytes]) -> Iterator[bytes]:
    """One Parquet file from one file per block: its row groups, in order, under one schema."""
    sink = _Sink()
    writer: pq.ParquetWriter | None = None
    try:
        for block in blocks:
            table = _table(block)
            if writer is None:
                writer = pq.ParquetWriter(sink, table.schema, compression="zstd")
            writer.write_table(table.cast(writer.schema) if table.schema != writer.schema else table)
            if sink.waiting >= _PIECE:
                yield sink.take()
        if writer is None:
            yield empty()
            return
        writer.close()
        yield sink.take()
    finally:
        if writer is not None and writer.is_open:
            writer.close()


def _table(block: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(block))


class _Sink(io.RawIOBase):
    """A file that is only written, and emptied as it grows; it remembers how far it has come."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._position = 0
        self.waiting = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]
        self._parts.append(part)
        self._position += len(part)
        self.waiting += len(part)
        return len(part)

    def take(self) -> bytes:
        """What was written since the last call."""
        taken = b"".join(self._parts)
        self._parts.clear()
        self.waiting = 0
        return taken
