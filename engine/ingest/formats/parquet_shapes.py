"""Reshapes the rows of a Parquet file: values at paths become columns, and structs become maps.

The engine reads a struct only as a tuple with the same fields, and matches columns by name. This module runs in the
process that opens the file (`parquet_process`), so it imports little more than the library. What to do with each
column is planned by `engine.ingest.values.parquet_plan`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.ingest.formats.nested_lists import MAX_LIST_DEPTH, has_deep_lists

Step = str | None
"""A field of a struct, or None for every element of a list."""


class BadShape(ValueError):
    """A column of the file cannot be reshaped."""


class DeepLists(ValueError):
    """A text that becomes an object has lists that are nested too deeply."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """How a value becomes one of the column's type."""

    kind: str
    """`map` for a struct that becomes a map, or a map whose keys or values are converted; `list` and `struct` for a
    list or struct of values that are converted; `object` for a text that the engine parses as JSON, which is only
    checked. What becomes a text: `address` for a number that is an IPv4 address, `signed` and `unsigned` for the
    bytes of an integer.
    """
    inner: Conversion | None = None
    """The conversion of the elements; None to keep them."""
    scalar: str = ""
    """The kind of values of the map: `text`, `float`, or empty for others."""
    key: Conversion | None = None
    """The conversion of the keys of a map."""
    fields: tuple[Conversion | None, ...] = ()
    """The conversions of the fields of a struct."""


@dataclass(frozen=True, slots=True)
class PlannedColumn:
    """One column that the file does not have in the form in which it is stored."""

    name: str
    source: str
    """The file's column with the values."""
    steps: tuple[Step, ...] = ()
    """The path to the values in the file's column."""
    conversion: Conversion | None = None


@dataclass(frozen=True, slots=True)
class ParquetPlan:
    """How a file is reshaped. Empty for a file that the engine can read as it is."""

    columns: tuple[PlannedColumn, ...] = ()
    dropped: frozenset[str] = frozenset()
    """The file's columns that only planned columns read."""
    is_small: bool = False
    """Whether the rows that the file declares are small."""

    def as_json(self) -> str:
        return json.dumps({"columns": [asdict(c) for c in self.columns], "dropped": sorted(self.dropped)})

    @classmethod
    def of_json(cls, text: str) -> ParquetPlan:
        content = json.loads(text)
        return cls(tuple(map(_planned_column, content["columns"])), frozenset(content["dropped"]))


UNCHANGED = ParquetPlan()
_TEXTS = ("address", "signed", "unsigned")


def _planned_column(content: dict[str, Any]) -> PlannedColumn:
    return PlannedColumn(
        content["name"], content["source"], tuple(content["steps"]), _conversion(content["conversion"])
    )


def _conversion(content: dict[str, Any] | None) -> Conversion | None:
    if content is None:
        return None
    fields = tuple(map(_conversion, content["fields"]))
    return Conversion(
        content["kind"], _conversion(content["inner"]), content["scalar"], _conversion(content["key"]), fields
    )


def reshape(batch: pa.RecordBatch, plan: ParquetPlan) -> pa.RecordBatch:
    """The rows as planned. Raises BadShape."""
    arrays = {
        name: array for name, array in zip(batch.schema.names, batch.columns, strict=True) if name not in plan.dropped
    }
    for column in plan.columns:
        array = values_at(batch.column(column.source), column.steps)
        arrays[column.name] = converted(array, column.conversion, column.name) if column.conversion else array
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))


def values_at(array: pa.Array, steps: Sequence[Step]) -> pa.Array:
    """The values at a path. Null where a struct or list on the path is null."""
    if not steps:
        return array
    if steps[0] is None:
        return _list_of(array, values_at(pc.list_flatten(array), steps[1:]))
    # Unlike `field`, `flatten` makes the fields of a null struct null.
    return values_at(array.flatten()[array.type.get_field_index(steps[0])], steps[1:])


def is_text(type: pa.DataType) -> bool:
    if pa.types.is_dictionary(type):
        type = type.value_type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(is_kind(type) for is_kind in (*texts, pa.types.is_fixed_size_binary))


def is_list(type: pa.DataType) -> bool:
    return bool(pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type))


def _list_of(array: pa.Array, values: pa.Array) -> pa.Array:
    """A list array with the lengths and nulls of `array`, whose elements are `values`."""
    mask = array.is_null() if array.null_count else None
    return pa.ListArray.from_arrays(_offsets(pc.list_value_length(array)), values, mask=mask)


def _offsets(lengths: pa.Array) -> pa.Array:
    ends = pc.cumulative_sum(pc.fill_null(lengths, 0).cast(pa.int32()))
    return pa.concat_arrays([pa.array([0], pa.int32()), ends])


def converted(array: pa.Array, conversion: Conversion, name: str) -> pa.Array:
    """The array with its structs as maps, and with texts. `name` is the column's, for errors. Raises BadShape."""
    if conversion.kind in _TEXTS:
        return _texts(array, conversion.kind)
    if conversion.kind == "object":
        _check_lists(array, name)
        return array
    if conversion.kind == "struct":
        fields = zip(array.flatten(), conversion.fields, strict=True)
        values = [converted(f, c, name) if c else f for f, c in fields]
        names = [f.name for f in array.type]
        return pa.StructArray.from_arrays(values, names=names, mask=array.is_null() if array.null_count else None)
    if conversion.kind == "list":
        assert conversion.inner is not None
        return _list_of(array, converted(pc.list_flatten(array), conversion.inner, name))
    if pa.types.is_struct(array.type):
        return _map_of_struct(array, conversion, name)
    if conversion.inner is None and conversion.key is None:
        return array
    entries = array if not array.null_count else pc.fill_null(array, pa.scalar([], array.type))
    return pa.MapArray.from_arrays(
        entries.offsets,
        converted(entries.keys, conversion.key, name) if conversion.key else entries.keys,
        converted(entries.items, conversion.inner, name) if conversion.inner else entries.items,
        mask=array.is_null() if array.null_count else None,
    )


def _check_lists(array: pa.Array, name: str) -> None:
    """Raise DeepLists if a text has lists that are nested too deeply."""
    texts = (array.dictionary if pa.types.is_dictionary(array.type) else array).cast(pa.large_binary())
    with_many = texts.filter(pc.greater(pc.count_substring(texts, b"["), MAX_LIST_DEPTH))
    if any(has_deep_lists(text.as_py()) for text in with_many):
        raise DeepLists(f"a text of column `{name}` has more than {MAX_LIST_DEPTH} lists inside one another")


def _texts(array: pa.Array, kind: str) -> pa.Array:
    """Numbers as texts. A number that is too large for an address is not one as a text either."""
    to_text = _address if kind == "address" else partial(_integer, signed=kind == "signed")
    return pa.array([None if value is None else to_text(value) for value in array.to_pylist()], pa.string())


def _address(value: int) -> str:
    return ".".join(map(str, value.to_bytes(4, "big"))) if 0 <= value < 2**32 else str(value)


def _integer(value: bytes, *, signed: bool) -> str:
    return str(int.from_bytes(value, "little", signed=signed))


def _map_of_struct(array: pa.StructArray, conversion: Conversion, name: str) -> pa.Array:
    """A map of the fields of a struct that are not null. Null where the struct is."""
    keys = [f.name for f in array.type]
    fields = array.flatten()
    if conversion.inner is not None:
        fields = [
            converted(f, conversion.inner, name) if _is_converted(f.type, conversion.inner) else f for f in fields
        ]
    type = _common_type([f.type for f in fields], conversion.scalar, name)
    rows = pa.array(range(len(array)), pa.int32())
    valid = [f.is_valid() for f in fields]
    keys_by_field = [pa.repeat(k, pc.sum(v).as_py() or 0) for k, v in zip(keys, valid, strict=True)]
    values = pa.concat_arrays([_cast(f.filter(v), type) for f, v in zip(fields, valid, strict=True)])
    rows_by_field = pa.concat_arrays([rows.filter(v) for v in valid])
    # The sort is stable, so the fields of a row keep their order.
    order = pc.array_sort_indices(rows_by_field)
    number = pa.array([0] * len(array), pa.int32())
    for v in valid:
        number = pc.add(number, v.cast(pa.int32()))
    return pa.MapArray.from_arrays(
        _offsets(number),
        pa.concat_arrays(keys_by_field).take(order),
        values.take(order),
        mask=array.is_null() if array.null_count else None,
    )


def _is_converted(type: pa.DataType, conversion: Conversion) -> bool:
    """Whether a field of a struct that becomes a map is converted. Others may have texts already, or no values."""
    if conversion.kind == "object":
        return is_text(type)
    if conversion.kind in _TEXTS:
        return bool(pa.types.is_fixed_size_binary(type) if "signed" in conversion.kind else pa.types.is_integer(type))
    return not pa.types.is_null(type)


def _cast(array: pa.Array, type: pa.DataType) -> pa.Array:
    return array if array.type == type else array.cast(type)


def _common_type(types: Sequence[pa.DataType], scalar: str, name: str) -> pa.DataType:
    """The type of a map's values, for fields of these types."""
    different = list(dict.fromkeys(t for t in types if not pa.types.is_null(t)))
    if not different:
        return pa.string()
    if len(different) == 1:
        return different[0]
    if scalar == "text" and not any(pa.types.is_nested(t) or pa.types.is_binary(t) for t in different):
        return pa.string()
    if scalar == "float" and all(pa.types.is_integer(t) or pa.types.is_floating(t) for t in different):
        return pa.float64()
    if all(pa.types.is_integer(t) for t in different):
        return pa.int64() if pa.uint64() not in different else pa.decimal128(20, 0)
    if all(pa.types.is_floating(t) for t in different):
        return pa.float64()
    raise BadShape(f"the fields of `{name}` have the types {', '.join(map(str, different))}, which no map can hold")
