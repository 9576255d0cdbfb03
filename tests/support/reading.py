"""Reading a whole result from a warehouse."""

from __future__ import annotations

import csv
import io
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from engine.warehouse.port import Format, Statement, Warehouse
from tests.support.warehouses import DATABASE

MANY = f"SELECT * FROM {DATABASE}.many ORDER BY n"


def read(warehouse: Warehouse, sql: str, format: Format = Format.NDJSON, **rest: Any) -> bytes:
    stream = warehouse.stream(Statement(sql, **rest), format)
    try:
        return b"".join(stream)
    finally:
        stream.close()


def rows_of(document: bytes, format: Format) -> list[list[str]]:
    """Every row's values as text, whatever the format."""
    if format is Format.JSON:
        return [[str(v) for v in row.values()] for row in orjson.loads(document)["data"]]
    if format is Format.NDJSON:
        return [[str(v) for v in orjson.loads(line).values()] for line in document.split(b"\n") if line]
    if format in (Format.CSV, Format.BARE_CSV):
        return list(csv.reader(io.StringIO(document.decode(), newline="")))[format is Format.CSV :]
    table = pq.read_table(pa.BufferReader(document))
    return [[str(v) for v in row.values()] for row in table.to_pylist()]
