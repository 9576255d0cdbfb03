"""Parquet files too large to be stored in one go, in pieces that are Parquet files themselves."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import BAD_ROW, RookeryError
from engine.serve.lines import UNREADABLE

ROWS = 100_000
"""Rows of a piece."""


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """The rows of a file, in order, in constant memory. Raises RK5001 for what is no Parquet file."""
    try:
        texts = [f.name for f in pq.read_schema(file) if f.type in (pa.string(), pa.binary(), pa.large_string())]
        file.seek(0)
        # A long text that many rows share stays in a dictionary.
        for batch in pq.ParquetFile(file, read_dictionary=texts).iter_batches(batch_size=ROWS):
            sink = io.BytesIO()
            pq.write_table(pa.Table.from_batches([batch]), sink)
            yield sink.getvalue()
    except UNREADABLE as exc:
        raise RookeryError(BAD_ROW, f"the body is no Parquet file that can be read: {exc}") from exc
