"""Plans how the columns of a Parquet file become those of a datasource.

A column whose name the file has is read from there. Another is read at its `json:` path, if that leads through
structs and lists of the file. A struct becomes a map if the column is a `Map`: pandas writes dictionaries as structs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import SEEK_END
from typing import BinaryIO, Literal

import pyarrow as pa

from engine.errors import PARQUET_TOO_LARGE, RookeryError
from engine.ingest.formats.parquet import SMALL_ROWS_BYTES, list_too_long
from engine.ingest.formats.parquet_process import (
    READ_ERRORS,
    ListTooLong,
    declared_bytes,
    open_parquet,
)
from engine.ingest.formats.parquet_shapes import (
    UNCHANGED,
    Conversion,
    ParquetPlan,
    PlannedColumn,
    Step,
    is_list,
    is_text,
)
from engine.project.datasource import Column, Datasource
from engine.warehouse.type_names import Type, parse_type

_Place = Literal["column", "element", "part"]
"""Where a value is: a column, an element of a list, or in a map or tuple."""
_TEXTS = frozenset({"String", "FixedString"})
_PARSED = ("JSON", "Dynamic")
"""The beginnings of types whose values the engine makes from the text of JSON."""


LENGTH_AND_MARK_BYTES = 8
"""A file ends with the length of its metadata and a mark, of four bytes each."""
MAX_METADATA_BYTES = 16 << 20
"""Maximum size of a file's metadata. Those of most files take forty times as much memory."""
SMALL_METADATA_BYTES = 128 << 10
"""Maximum size of metadata that several threads may read at the same time. They may take 230 times as much memory."""
MAX_COLUMNS = 10_000
"""Maximum number of columns of a file and fields in them. Each part of a large file has metadata of all of them."""


def sizes(file: BinaryIO) -> tuple[int, int]:
    """The sizes of a file and of the metadata at its end, in bytes. Raises RK5030 if these are too large."""
    size = file.seek(0, SEEK_END)
    if size < LENGTH_AND_MARK_BYTES:
        return size, 0
    file.seek(-LENGTH_AND_MARK_BYTES, SEEK_END)
    metadata = int.from_bytes(file.read(4), "little")
    if metadata > size:
        # It is refused when the file is read.
        return size, 0
    if metadata > MAX_METADATA_BYTES:
        raise RookeryError(
            PARQUET_TOO_LARGE,
            f"the metadata of the Parquet file are {metadata:,} bytes; at most {MAX_METADATA_BYTES:,} are allowed",
            hint="write larger row groups, fewer columns, or several files",
        )
    return size, metadata


def plan_of(file: BinaryIO, source: Datasource) -> ParquetPlan:
    """The plan for a file. It is also empty for a broken file, which is reported when it is read.

    Raises RK5030 if it has too many columns or row groups.
    """
    try:
        parquet = open_parquet(file)
        schema, metadata = parquet.schema_arrow, parquet.metadata
    except ListTooLong as exc:
        raise list_too_long() from exc
    except READ_ERRORS:
        return UNCHANGED
    if metadata.num_columns > MAX_COLUMNS:
        raise RookeryError(
            PARQUET_TOO_LARGE,
            f"the Parquet file has {metadata.num_columns:,} columns; at most {MAX_COLUMNS:,} are allowed",
            hint="leave out columns that the datasource does not have",
        )
    return replace(_plan(schema, source), is_small=declared_bytes(metadata) <= SMALL_ROWS_BYTES)


def _plan(schema: pa.Schema, source: Datasource) -> ParquetPlan:
    by_name = {field.name.lower(): field for field in schema}
    if len(by_name) < len(schema):
        # The file has a column twice. It is refused later, or the column is ignored.
        return UNCHANGED
    declared = {column.name.lower() for column in source.columns}
    columns = []
    for column in source.columns:
        planned = _planned(column, by_name)
        if planned is not None:
            columns.append(planned)
    dropped = {c.source for c in columns if c.source.lower() not in declared}
    replaced = {by_name[c.name.lower()].name for c in columns if c.name.lower() in by_name}
    return ParquetPlan(tuple(columns), frozenset(dropped | replaced))


def _planned(column: Column, by_name: dict[str, pa.Field]) -> PlannedColumn | None:
    """How a column is made; None if the file has it as it is stored, or has no value for it."""
    type = parse_type(column.type)
    own = by_name.get(column.name.lower())
    if own is not None:
        conversion = _conversion(own.type, type)
        return PlannedColumn(column.name, own.name, (), conversion) if conversion else None
    first, *steps = column.steps
    top = by_name.get(str(first).lower())
    found = _type_at(top.type, steps) if top is not None and steps else None
    if top is None or found is None:
        return None
    return PlannedColumn(column.name, top.name, tuple(steps), _conversion(found, type))


def _type_at(found: pa.DataType, steps: Sequence[Step]) -> pa.DataType | None:
    """The type of the values at a path, with the lists on the path around it; None if there is no such path."""
    if not steps:
        return found
    if steps[0] is None:
        element = _type_at(found.value_type, steps[1:]) if is_list(found) else None
        return None if element is None else pa.list_(element)
    position = found.get_field_index(steps[0]) if pa.types.is_struct(found) else -1
    return _type_at(found.field(position).type, steps[1:]) if position >= 0 else None


def _conversion(found: pa.DataType, type: Type, place: _Place = "column") -> Conversion | None:
    """How values of a file's type become values of a column's type; None if the engine reads them."""
    inner_place: _Place = "part" if place == "part" else "element"
    if type.kind == "Array" and is_list(found):
        inner = _conversion(found.value_type, type.parts[0], inner_place)
        return Conversion("list", inner) if inner else None
    if type.kind == "Tuple" and pa.types.is_struct(found):
        return _conversion_of_struct(found, type)
    if type.kind == "Map" and pa.types.is_map(found):
        key, inner = (
            _conversion(f, t, "part") for f, t in zip((found.key_type, found.item_type), type.parts, strict=True)
        )
        return Conversion("map", inner, key=key) if key or inner else None
    if type.kind == "Map" and pa.types.is_struct(found):
        return _map_of_struct(found, type)
    if type.kind.startswith(_PARSED) and is_text(found):
        return Conversion("object")
    return None if place == "column" else _text(found, type, place)


def _map_of_struct(found: pa.StructType, type: Type) -> Conversion | None:
    """The conversion of an object whose fields become the entries of a map."""
    if type.parts[0].kind not in _TEXTS:
        return None
    value = type.parts[1]
    scalar = "text" if value.kind in _TEXTS else "float" if value.kind.startswith(("Float", "BFloat")) else ""
    inners = [_conversion(field.type, value, "part") for field in found]
    return Conversion("map", next((i for i in inners if i is not None), None), scalar)


def _conversion_of_struct(found: pa.StructType, type: Type) -> Conversion | None:
    """The conversion of an object with the fields of a tuple."""
    names = type.names or [f.name for f in found]
    parts = dict(zip(names, type.parts, strict=False))
    fields = tuple(_conversion(f.type, parts[f.name], "part") if f.name in parts else None for f in found)
    return Conversion("struct", fields=fields) if any(fields) else None


def _text(found: pa.DataType, type: Type, place: _Place) -> Conversion | None:
    """The conversion of numbers that the engine does not read inside others. It reads bytes in lists."""
    if type.kind == "IPv4" and pa.types.is_integer(found):
        return Conversion("address")
    width = int(type.kind[-3:]) // 8 if type.kind.endswith(("Int128", "Int256")) else 0
    if place == "part" and width and pa.types.is_fixed_size_binary(found) and found.byte_width == width:
        return Conversion("unsigned" if type.kind.startswith("U") else "signed")
    return None
