"""Determines which values of a row cannot be read, by reading each value in a separate row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache

from engine.ingest.batch import RejectedRow
from engine.ingest.formats.csv_records import has_closing_quote, is_unterminated, raw_cells
from engine.ingest.values.rejections import MAX_SHOWN_CHARACTERS, header_names, null_hint, parse_json
from engine.ingest.values.shared_keys import Member, is_readable, members
from engine.ingest.values.staging import ROW_NUMBER_COLUMN, StageSchema
from engine.ingest.values.staging_rules import StagedColumn
from engine.warehouse.port import Input


def single_values(row: RejectedRow, schema: StageSchema) -> dict[str, bytes]:
    """Make rows of the row's number and one of its values, by the stage column that reads the value.

    Values whose end is unclear are left out, because they could not be separated from the next value.
    """
    if row.format is Input.CSV:
        cells, positions = raw_cells(row.text), _positions(row.header)
        values = {
            c.name: cells[at]
            for c in schema.columns
            if (at := positions.get(c.name.lower(), len(cells))) < len(cells)
        }
        return {name: b"%d,%s" % (row.number, text) for name, text in values.items() if has_closing_quote(text)}
    # A value is used if every parser agrees where it ends, or if Python can read it.
    by_key = {
        m.name: m.value for m in members(row.text) or () if is_readable(m.value) or parse_json(m.value) is not None
    }
    return {
        c.name: b'{"%s":%d,"%s":%s}' % (ROW_NUMBER_COLUMN.encode(), row.number, c.name.encode(), value)
        for c in schema.columns
        if (value := by_key.get(_key(c))) is not None
    }


def explain_value(row: RejectedRow, staged: StagedColumn, schema: StageSchema) -> None:
    """Add the reason why the engine cannot read a row's value for a stage column."""
    columns = [c for c in schema.columns if c.name == staged.name]
    if row.format is Input.CSV:
        text = raw_cells(row.text)[_positions(row.header)[staged.name.lower()]]
        row.add(staged.column, _wrong_type(text, schema, staged, row.format))
        return
    value = next(m.value for m in members(row.text) or () if m.name == _key(staged))
    # Several columns may share one stage column; each gets its own part of the value in its reason.
    if staged.type != "JSON" or not staged.path:
        for column in columns:
            part = _value_at(value, column.path)
            if part is None:
                row.add(column.column, f"`{staged.source_name}` cannot be read: {_object_error(value)}")
            else:
                row.add(column.column, _syntax_error(part) or _wrong_type(part, schema, column, row.format))
        return
    _explain_object(row, value, staged.source_name, columns)


def _wrong_type(value: bytes, schema: StageSchema, staged: StagedColumn, format: Input) -> str:
    hint = null_hint(value[:MAX_SHOWN_CHARACTERS].decode(errors="replace"), format)
    return f"`{_shown(value)}` is not of type {_type(schema, staged)}{hint}"


def _explain_object(row: RejectedRow, value: bytes, key: str, columns: list[StagedColumn]) -> None:
    """Add the reasons why an object from which several columns take their values cannot be read."""
    parts = ((c, _value_at(value, c.path)) for c in columns)
    errors = [(c, error) for c, part in parts if part is not None and (error := _syntax_error(part))]
    for column, error in errors:
        row.add(column.column, error)
    if not errors:
        name = columns[0].column if len(columns) == 1 else ""
        row.add(name, f"`{key}` cannot be read: {_object_error(value)}")


def explain_row(row: RejectedRow, schema: StageSchema, otherwise: str = "the row cannot be read") -> None:
    """Add the reasons for a row that cannot be read although each value that columns read can be."""
    for column, why in _other_errors(row, schema):
        row.add(column, why)
    if not row.columns:
        row.add("", otherwise)


def has_clear_boundaries(text: bytes) -> bool:
    """Whether a string is an object in which all parsers agree on where each value ends, even if values are
    invalid.
    """
    pairs = members(text)
    return pairs is not None and all(is_readable(m.value) for m in pairs)


def _other_errors(row: RejectedRow, schema: StageSchema) -> Iterator[tuple[str, str]]:
    """Columns (or "") and errors outside the values that columns read."""
    return _csv_errors(row, schema) if row.format is Input.CSV else _json_errors(row, schema)


def _csv_errors(row: RejectedRow, schema: StageSchema) -> Iterator[tuple[str, str]]:
    columns = {c.name.lower(): c.column for c in schema.columns}
    for name, cell in zip(header_names(row.header), raw_cells(row.text), strict=False):
        if not has_closing_quote(cell):
            why = "does not end with its closing quote; a quote in a quoted field must be doubled"
            if is_unterminated(cell):
                why = "begins with a quote that is never closed"
            yield columns.get(name.strip().lower(), ""), f"the field `{_shown(cell)}` {why}"


def _json_errors(row: RejectedRow, schema: StageSchema) -> Iterator[tuple[str, str]]:
    pairs = members(row.text) or []
    columns: dict[bytes, str] = {}
    for c in schema.columns:
        columns.setdefault(_key(c), c.column)
    for key, times in Counter(m.name for m in pairs).items():
        if times > 1 and key in columns:
            yield columns[key], f"the key `{_shown(key)}` is in the row {times} times"
    for member in pairs:
        if error := _syntax_error(member.value):
            prefix = "" if member.name in columns else f"the value of `{_shown(member.key)}`: "
            yield columns.get(member.name, ""), prefix + error


def _syntax_error(value: bytes) -> str | None:
    """What is wrong with the text of a JSON value, or None."""
    try:
        str(json.loads(value.decode(errors="replace"), strict=False, parse_constant=_refuse_constant)).encode()
    except UnicodeEncodeError:
        return f"`{_shown(value)}` has half of a surrogate pair, which is not a character"
    except (ValueError, RecursionError):
        return f"`{_shown(value)}` is not JSON"
    return None


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python's parser accepts."""
    raise ValueError(name)


def _object_error(value: bytes) -> str:
    """What is wrong with an object from which several columns take their values."""
    if error := _syntax_error(value):
        return error
    if not value.startswith(b"{"):
        return f"`{_shown(value)}` is not an object"
    return f"`{_shown(value)}` lacks values that its columns need, or has a key twice"


def _value_at(value: bytes, path: tuple[str | None, ...]) -> bytes | None:
    """The text of the value at a path in an object, or None. The path ends at the first list."""
    for step in path:
        if step is None:
            return value
        by_key: Mapping[bytes, Member] = {m.key: m for m in members(value) or ()}
        if (member := by_key.get(step.encode())) is None:
            return None
        value = member.value
    return value


@lru_cache(maxsize=8)
def _positions(header: bytes) -> dict[str, int]:
    """The positions of a CSV file's columns, from 0, by name in lower case."""
    return {name.strip().lower(): at for at, name in enumerate(header_names(header))}


def _key(staged: StagedColumn) -> bytes:
    """The key of events that a stage column reads, in lower case."""
    return staged.source_name.encode().lower()


def _type(schema: StageSchema, staged: StagedColumn) -> str:
    """The declared type of the datasource's column."""
    return next(c.type for c in schema.source.columns if c.name == staged.column)


def _shown(text: bytes) -> str:
    return text.decode(errors="replace")[:MAX_SHOWN_CHARACTERS]
