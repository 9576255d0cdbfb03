"""Reads which columns a CSV or Parquet file has, and checks their names."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from engine.errors import BAD_ROW, RookeryError
from engine.ingest.formats.parquet_process import READ_ERRORS, open_parquet
from engine.ingest.formats.parquet_shapes import is_list
from engine.warehouse.port import Input

SourceKind = Literal[
    "text",
    "integer",
    "float",
    "boolean",
    "date",
    "time",
    "timestamp",
    "bytes16",
    "bytes32",
    "list",
    "map",
    "struct",
    "other",
    "null",
]
"""The kinds of values in Parquet files that staging distinguishes. `bytes16` and `bytes32` are binary values of that
length.
"""


@dataclass(frozen=True, slots=True)
class SourceType:
    """The type of a Parquet column, or of values in it."""

    kind: SourceKind
    parts: tuple[SourceType, ...] = ()
    """The types of a list's elements, of a map's keys and values, or of a struct's fields."""
    names: tuple[str, ...] = ()
    """The names of a struct's fields."""


TEXT, OTHER = SourceType("text"), SourceType("other")
MAX_DEPTH = 32
"""Maximum number of nested lists, maps and structs whose types are read."""
MAX_HEADER_BYTES = 256 << 10
"""Longest first line of a CSV file. Headers are kept in memory while their files' bad rows are explained."""
PARQUET_MAGIC = b"PAR1"
"""The first bytes of a Parquet file."""


def unknown_columns(names: set[str], body: bytes, format: Input) -> tuple[str, ...]:
    """Return the file's columns that the datasource does not have; they are ignored. `names` are the datasource's.

    Raises RK5001 if the file has none of the datasource's columns, because its rows would be empty, or has one of
    them twice, or does not begin as a Parquet file, or begins with a CSV header that is too long. The engine checks
    the rest of a Parquet file.
    """
    if format is Input.PARQUET and not body.startswith(PARQUET_MAGIC):
        hint = f"a Parquet file begins with {PARQUET_MAGIC.decode()}"
        raise RookeryError(BAD_ROW, "the body is not a Parquet file", hint=hint)
    file_columns = _csv_columns(body) if format is Input.CSV else _parquet_columns(body)
    if file_columns is None:
        return ()
    place = "line 1: " if format is Input.CSV else ""
    own = {n.lower() for n in names}
    known = [c.lower() for c in file_columns if c.lower() in own]
    repeated = next((c for c in known if known.count(c) > 1), None)
    if repeated is not None:
        raise RookeryError(BAD_ROW, f"{place}column `{repeated}` is named twice", hint="nothing was stored")
    if not known:
        hint = f"nothing was stored; the file has {', '.join(file_columns[:10]) or 'no columns'}"
        if format is Input.CSV:
            hint = f"nothing was stored; {_dialect_hint(body)}"
        raise RookeryError(BAD_ROW, f"{place}the file has no column of the datasource", hint=hint)
    return tuple(c for c in file_columns if c.lower() not in own)


def _dialect_hint(body: bytes) -> str:
    """Return a hint about the kind of a file whose first line is not a CSV header."""
    first = body.partition(b"\n")[0].strip()
    if b"\0" in first:
        return "the file is not UTF-8 (perhaps UTF-16): convert it"
    if first[:1] in b"{[" and first:
        return "the file looks like JSON: use `format=ndjson`"
    separator = next((c for c in (";", "\t", "|") if c.encode() in first), "")
    if separator:
        return f"the names seem to be separated by {separator!r}: use commas"
    return "the first line of a CSV file must have the names of its columns"


def _csv_columns(body: bytes) -> list[str]:
    header = body.partition(b"\n")[0]
    if len(header) > MAX_HEADER_BYTES:
        hint = f"nothing was stored; at most {MAX_HEADER_BYTES:,} bytes are allowed"
        raise RookeryError(BAD_ROW, f"line 1: the header has {len(header):,} bytes", hint=hint)
    first = header.decode(errors="replace").lstrip("\ufeff")
    try:
        return [name.strip() for name in next(csv.reader([first]), [])]
    except csv.Error:
        return []


def _parquet_columns(body: bytes) -> list[str] | None:
    schema = _schema(body)
    return None if schema is None else list(schema.names)


def _schema(body: bytes) -> pa.Schema | None:
    """Return a Parquet file's schema, or None if it cannot be read; the engine then reports the file as broken."""
    try:
        return open_parquet(io.BytesIO(body)).schema_arrow
    except READ_ERRORS:
        return None


def read_source_types(body: bytes) -> dict[str, SourceType]:
    """Return the types of a Parquet file's columns, by their names in lower case."""
    schema = _schema(body)
    return {} if schema is None else {f.name.lower(): _source_type(f.type) for f in schema}


def _source_type(type: pa.DataType, depth: int = 0) -> SourceType:
    if depth == MAX_DEPTH:
        return OTHER
    if pa.types.is_dictionary(type):
        type = type.value_type
    if is_list(type):
        return SourceType("list", (_source_type(type.value_type, depth + 1),))
    if pa.types.is_map(type):
        return SourceType("map", tuple(_source_type(t, depth + 1) for t in (type.key_type, type.item_type)))
    if pa.types.is_struct(type):
        fields = list(type)
        return SourceType(
            "struct", tuple(_source_type(f.type, depth + 1) for f in fields), tuple(f.name for f in fields)
        )
    predicates: list[tuple[SourceKind, Callable[[pa.DataType], bool]]] = [
        ("null", pa.types.is_null),
        ("text", lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_binary(t)),
        ("integer", pa.types.is_integer),
        ("float", pa.types.is_floating),
        # A decimal that is too large for the stage's type would make the whole file fail; a string can hold any
        # decimal.
        ("text", pa.types.is_decimal),
        ("boolean", pa.types.is_boolean),
        ("date", pa.types.is_date),
        ("time", pa.types.is_time),
        ("timestamp", pa.types.is_timestamp),
        ("bytes16", lambda t: pa.types.is_fixed_size_binary(t) and t.byte_width == 16),
        ("bytes32", lambda t: pa.types.is_fixed_size_binary(t) and t.byte_width == 32),
    ]
    return next((SourceType(kind) for kind, matches in predicates if matches(type)), OTHER)
