"""The columns that a CSV or Parquet file has."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import BAD_ROW, RookeryError
from engine.ingest.formats.parquet_process import UNREADABLE
from engine.warehouse.port import Input

Given = Literal["text", "integer", "float", "day", "moment", "own", "nothing"]
"""What a column of a Parquet file holds, as far as staging cares."""
MAGIC = b"PAR1"
"""What a Parquet file begins with."""


def unknown_columns(names: set[str], body: bytes, format: Input) -> tuple[str, ...]:
    """The columns of a file that are none of the datasource's, and are passed over.

    Raises RK5001 for a file that names none of the datasource's, so that its rows would be empty, or one of them
    twice, and for what does not begin as a Parquet file. Whether the rest of it is one is left to the engine.
    """
    if format is Input.PARQUET and not body.startswith(MAGIC):
        raise RookeryError(BAD_ROW, "the body is not a Parquet file", hint=f"one begins with {MAGIC.decode()}")
    given = _csv_columns(body) if format is Input.CSV else _parquet_columns(body)
    if given is None:
        return ()
    place = "line 1: " if format is Input.CSV else ""
    own = {n.lower() for n in names}
    known = [g.lower() for g in given if g.lower() in own]
    twice = next((g for g in known if known.count(g) > 1), None)
    if twice is not None:
        raise RookeryError(BAD_ROW, f"{place}column `{twice}` is named twice", hint="nothing was stored")
    if not known:
        hint = f"nothing was stored; the file has {', '.join(given[:10]) or 'none'}"
        if format is Input.CSV:
            hint = f"nothing was stored; {_other_dialect(body)}"
        raise RookeryError(BAD_ROW, f"{place}no column is named", hint=hint)
    return tuple(g for g in given if g.lower() not in own)


def _other_dialect(body: bytes) -> str:
    """What a file seems to be whose first line names no column as CSV does."""
    first = body.partition(b"\n")[0].strip()
    if b"\0" in first:
        return "the file is not UTF-8 (perhaps UTF-16): convert it"
    if first[:1] in b"{[" and first:
        return "the file looks like JSON: say `format=ndjson`"
    between = next((c for c in (";", "\t", "|") if c.encode() in first), "")
    if between:
        return f"the names seem to be separated by {between!r}, and CSV has commas here"
    return "a CSV file begins with the names of its columns"


def _csv_columns(body: bytes) -> list[str]:
    first = body.partition(b"\n")[0].decode(errors="replace").lstrip("\ufeff")
    try:
        return [name.strip() for name in next(csv.reader([first]), [])]
    except csv.Error:
        return []


def _parquet_columns(body: bytes) -> list[str] | None:
    schema = _schema(body)
    return None if schema is None else list(schema.names)


def _schema(body: bytes) -> pa.Schema | None:
    try:
        return pq.read_schema(io.BytesIO(body))
    except UNREADABLE:
        return None


def kinds_in(body: bytes) -> dict[str, Given]:
    """What a Parquet file has in its columns, by their names in lower case."""
    schema = _schema(body)
    return {} if schema is None else {f.name.lower(): _kind(f.type) for f in schema}


def _kind(type: pa.DataType) -> Given:
    if pa.types.is_dictionary(type):
        type = type.value_type
    judges: list[tuple[Given, Callable[[pa.DataType], bool]]] = [
        ("nothing", pa.types.is_null),
        ("text", lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_binary(t)),
        ("integer", pa.types.is_integer),
        ("float", pa.types.is_floating),
        # Numbers of any size, where the stage's own would end the reading of the file.
        ("text", pa.types.is_decimal),
        ("day", pa.types.is_date),
        ("moment", pa.types.is_timestamp),
    ]
    return next((kind for kind, judge in judges if judge(type)), "own")
