"""Explains why rows cannot be stored: their values by column, and the reasons for the senders."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson

from engine.ingest.formats.csv_records import MAX_CELLS
from engine.ingest.formats.json_values import UNTERMINATED_ARRAY, require_parsable
from engine.ingest.row_expressions import FLAGS, flag_of
from engine.ingest.values.staging import StageSchema, is_tenant_column, tenant_type
from engine.ingest.values.staging_rules import StagedColumn
from engine.tenant_ids import base_type
from engine.warehouse.port import Input

MAX_SHOWN_CHARACTERS = 80
"""Maximum number of characters of a value that a reason shows."""
_MAX_SHOWN_KEYS = 5
_SPELLINGS_OF_NULL = frozenset({"null", "none", "nil", "nan", "na", "n/a", "#n/a", "\\n", "-", "undefined"})
"""What other programs write for a missing value, in lower case."""
_NULL_HINTS = {
    Input.CSV: "an empty field, or \\N without quotes, means that there is no value",
    Input.NDJSON: "null without quotes means that there is no value",
}

_CSV_EXAMPLES = {"Array(": "['a','b']", "Map(": "{'a':1}", "Tuple(": "('a',1)"}
"""By the beginning of the type."""


def null_hint(value: str, format: Input) -> str:
    """Return how to write that there is no value, as the end of a reason, if a value seems to mean that."""
    meant = value.strip(" \t\r\n\"'").lower() in _SPELLINGS_OF_NULL
    return f"; {_NULL_HINTS[format]}" if meant and format in _NULL_HINTS else ""


def spelling_hint(value: str, type: str, format: Input) -> str:
    """Return how to write what a value seems to mean, as the end of a reason."""
    if type.removeprefix("Nullable(").startswith("DateTime") and _is_local_time(value):
        return "; clocks are set forward then, so this local time does not exist: send it with an offset"
    example = next((shown for name, shown in _CSV_EXAMPLES.items() if type.startswith(name)), "")
    if format is not Input.CSV or not example or not value:
        return null_hint(value, format)
    if hint := null_hint(value, format):
        return hint
    text = value.strip()
    if not text.startswith(example[0]) or not text.endswith(example[-1]):
        return f"; in CSV it is written with brackets, as in SQL: {example}"
    return "; it has an empty element" if _has_empty_element(text) else ""


def _is_local_time(value: str) -> bool:
    """Whether a value is a time without an offset that `DateTime` can hold, unless its zone skips it."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return False
    return moment.tzinfo is None and value[4:5] == "-" and value[5:6].isdigit() and 1970 <= moment.year <= 2105


def _has_empty_element(text: str) -> bool:
    """Whether a list, map or tuple has a comma without an element before or after it."""
    before, quoted, escaped = "", False, False
    for char in text:
        if quoted:
            escaped, quoted = char == "\\" and not escaped, escaped or char != "'"
        elif char == "'":
            before, quoted = char, True
        elif not char.isspace():
            if (char in ",)]}" and before == ",") or (char == "," and before in "([{"):
                return True
            before = char
    return False


def rejection_reason(
    stage: StageSchema, staged: StagedColumn, value: str | None, bound: str | None, format: Input
) -> str:
    """Return why a value that could be parsed is not stored. `bound` is the tenant that the token is bound to."""
    if is_tenant_column(stage, staged) and value is None:
        return "the tenant is missing or null"
    shown = "missing or null" if value is None else f"`{value[:MAX_SHOWN_CHARACTERS]}`"
    if not is_tenant_column(stage, staged):
        column = next(c for c in stage.source.columns if c.name == staged.column)
        if column.required and value in (None, "", "[]", "{}"):
            return "it is required, and is " + (shown if value is None else "empty")
        if flag := flag_of(stage.source, staged.column):
            allowed = " or ".join(map(str, FLAGS[flag]))
            return f"{shown} is not {allowed}, as `{flag}` of {stage.source.engine.type} must be"
        return f"{shown} does not fit {column.type}{spelling_hint(value or '', column.type, format)}"
    if bound is not None:
        return f"{shown} is not the tenant that the token writes for"
    return f"{shown} is not a canonical tenant id of type {base_type(tenant_type(stage.source))}"


def column_values(row: bytes, format: Input, header: bytes, stage: StageSchema) -> dict[str, str | None]:
    """Return a row's values as strings by the datasource's columns, for those that can be read."""
    values = _csv_values(row, header) if format is Input.CSV else _json_values(row)
    # The engine matches names case-insensitively.
    by_name = {name.lower(): value for name, value in values.items()}
    sources = [(c, c.source_name.lower()) for c in stage.columns]
    return {c.column: _text(_value_at(by_name[name], c.path)) for c, name in sources if name in by_name}


def event_of_file_row(stage: StageSchema, row: bytes) -> bytes:
    """Convert a file's row, a JSON object by column name, to an event with the values at the columns' paths."""
    values = _json_values(row)
    event: dict[str, Any] = {}
    for column in stage.source.columns:
        if column.name in values:
            _put(event, column.steps, values[column.name])
    return orjson.dumps(event, default=str)


def _put(target: dict[str, Any], steps: Sequence[str | None], value: Any) -> None:
    """Put a value at a path in an object. The elements of an array go into the objects of an array."""
    key, *rest = steps
    if not rest or key is None:
        target[str(key)] = value
    elif rest[0] is not None:
        inner = target.setdefault(key, {})
        _put(inner if isinstance(inner, dict) else {}, rest, value)
    elif isinstance(value, list):
        items = target.setdefault(key, [])
        if isinstance(items, list):
            items += [{} for _ in range(len(value) - len(items))]
            for item, element in zip(items, value, strict=False):
                if isinstance(item, dict):
                    _put(item, rest[1:], element)


def _value_at(value: Any, path: Sequence[str | None]) -> Any:
    for number, step in enumerate(path, 1):
        if step is None:
            return [_value_at(v, path[number:]) for v in value] if isinstance(value, list) else None
        value = value.get(step) if isinstance(value, dict) else None
    return value


@lru_cache(maxsize=8)
def header_names(header: bytes) -> tuple[str, ...]:
    """Return the names in a CSV header."""
    with suppress(csv.Error):
        return tuple(next(csv.reader([header.decode(errors="replace")]), ()))
    return ()


def csv_cells(row: bytes) -> list[str] | None:
    """Return the cells of a CSV record, or None if the text is not exactly one record, or has too many cells."""
    if row.count(b",") > MAX_CELLS:
        return None
    with suppress(csv.Error):
        records = list(csv.reader(io.StringIO(row.decode(errors="replace"), newline="")))
        return records[0] if len(records) == 1 else None
    return None


def _csv_values(row: bytes, header: bytes) -> dict[str, Any]:
    return dict(zip(header_names(header), csv_cells(row) or (), strict=False))


def _json_values(row: bytes) -> dict[str, Any]:
    value = parse_json(row)
    return value if isinstance(value, dict) else {}


def parse_json(text: bytes) -> Any:
    """Parse JSON leniently, and return None for anything else. Raises RK5004 for too many values.

    Control characters in strings and numbers of any size are accepted, because the engine decides about them.
    """
    require_parsable(text)
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(text)
    with suppress(ValueError, RecursionError):
        return json.loads(text.decode(errors="replace"), strict=False)
    return None


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        # Half of a surrogate pair cannot be encoded.
        return value.encode(errors="replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return json.dumps(value)


def unknown_keys_reason(row: bytes) -> str:
    """Return why an event without any of a datasource's keys is not stored."""
    values = _json_values(row)
    if not values:
        return "the row is empty"
    shown = ", ".join(f"`{_text(key)}`"[:MAX_SHOWN_CHARACTERS] for key in list(values)[:_MAX_SHOWN_KEYS])
    more = ", …" if len(values) > _MAX_SHOWN_KEYS else ""
    return f"the row has none of the datasource's columns; its keys are {shown}{more}"


def unreadable_reason(row: bytes, format: Input, header: bytes) -> str:
    """Return why the engine cannot parse a row, if the row itself shows the reason."""
    if format is Input.CSV:
        cells, names = csv_cells(row), header_names(header)
        if cells is not None and len(cells) != len(names):
            return f"it has {len(cells)} fields, and the header {len(names)}"
        return "the row cannot be read"
    if row == UNTERMINATED_ARRAY:
        return "the array has no closing bracket, so rows may be missing"
    try:
        orjson.loads(row)
    except orjson.JSONDecodeError as exc:
        if row.startswith(b"{") and ("unexpected end" in str(exc) or "EOF" in str(exc)):
            return "the row is truncated"
    return "the row is not a JSON object, or is nested too deeply"


def matches_header(row: bytes, header: bytes) -> bool:
    """Return whether a CSV record has as many cells as the header."""
    return len(csv_cells(row) or ()) == len(header_names(header))
