"""What is said of rows that cannot be stored: the values that they have for columns, and what is wrong with them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import orjson

from engine.ingest.formats.json_values import UNTERMINATED_ARRAY
from engine.ingest.row_expressions import FLAGS, flag_of
from engine.ingest.values.staging import StageSchema, is_tenant, tenant_kind
from engine.ingest.values.wide_types import Staged
from engine.tenant_ids import base_type
from engine.warehouse.port import Input

MAX_SHOWN_CHARACTERS = 80
"""Characters of a value that a reason shows."""


def reason(stage: StageSchema, staged: Staged, value: str | None, bound: str | None) -> str:
    """Why a value that could be read is not stored, in words for its sender."""
    if is_tenant(stage, staged) and value is None:
        return "the tenant is missing or null"
    shown = "missing or null" if value is None else f"`{value[:MAX_SHOWN_CHARACTERS]}`"
    if not is_tenant(stage, staged):
        column = next(c for c in stage.source.columns if c.name == staged.column)
        if column.required and value in (None, "", "[]", "{}"):
            return "it is required, and is " + (shown if value is None else "empty")
        if flag := flag_of(stage.source, staged.column):
            wanted = " or ".join(map(str, FLAGS[flag]))
            return f"{shown} is not {wanted}, as `{flag}` of {stage.source.engine.type} must be"
        return f"{shown} does not fit {column.type}"
    if bound is not None:
        return f"{shown} is not the tenant that the token writes for"
    return f"{shown} is not a canonical tenant id of type {base_type(tenant_kind(stage.source))}"


def values_of(row: bytes, format: Input, header: bytes, stage: StageSchema) -> dict[str, str | None]:
    """The texts that a row has for the datasource's columns, as far as they can be told."""
    found = _csv_values(row, header) if format is Input.CSV else _json_values(row)
    # The engine matches names without regard to case.
    given = {name.lower(): value for name, value in found.items()}
    named = [(c, c.given.lower()) for c in stage.columns]
    return {c.column: _text(_at(given[name], c.path)) for c, name in named if name in given}


def as_event(stage: StageSchema, named: bytes) -> bytes:
    """A row of a file, a JSON object by columns' names, as the event that has its values where their paths say."""
    given = _json_values(named)
    event: dict[str, Any] = {}
    for column in stage.source.columns:
        if column.name in given:
            _put(event, column.steps, given[column.name])
    return orjson.dumps(event, default=str)


def _put(place: dict[str, Any], steps: Sequence[str | None], value: Any) -> None:
    """Put a value where a path leads to; elements of a list into the objects of a list."""
    key, *rest = steps
    if not rest or key is None:
        place[str(key)] = value
    elif rest[0] is not None:
        inner = place.setdefault(key, {})
        _put(inner if isinstance(inner, dict) else {}, rest, value)
    elif isinstance(value, list):
        items = place.setdefault(key, [])
        if isinstance(items, list):
            items += [{} for _ in range(len(value) - len(items))]
            for item, element in zip(items, value, strict=False):
                if isinstance(item, dict):
                    _put(item, rest[1:], element)


def _at(value: Any, path: Sequence[str | None]) -> Any:
    for number, step in enumerate(path, 1):
        if step is None:
            return [_at(v, path[number:]) for v in value] if isinstance(value, list) else None
        value = value.get(step) if isinstance(value, dict) else None
    return value


@lru_cache(maxsize=32)
def names_in(header: bytes) -> tuple[str, ...]:
    """The names of a CSV file's columns."""
    with suppress(csv.Error):
        return tuple(next(csv.reader([header.decode(errors="replace")]), ()))
    return ()


def cells_of(row: bytes) -> list[str] | None:
    """The cells of a CSV record, None where it is not one."""
    with suppress(csv.Error):
        found = list(csv.reader(io.StringIO(row.decode(errors="replace"), newline="")))
        return found[0] if len(found) == 1 else None
    return None


def _csv_values(row: bytes, header: bytes) -> dict[str, Any]:
    return dict(zip(names_in(header), cells_of(row) or (), strict=False))


def _json_values(row: bytes) -> dict[str, Any]:
    found = loaded(row)
    return found if isinstance(found, dict) else {}


def loaded(text: bytes) -> Any:
    """JSON's value, None if it is none. What texts hold, and how large numbers may be, the engine is to judge."""
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(text)
    with suppress(ValueError, RecursionError):
        return json.loads(text.decode(errors="replace"), strict=False)
    return None


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        # Half of a surrogate pair is no character.
        return value.encode(errors="replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return json.dumps(value)


def strange(row: bytes) -> str:
    """Why an event with none of a datasource's keys is not stored."""
    given = _json_values(row)
    if not given:
        return "the row is empty"
    shown = ", ".join(f"`{_text(key)}`"[:MAX_SHOWN_CHARACTERS] for key in list(given)[:5])
    return f"the row has none of the datasource's columns; its keys are {shown}{', …' if len(given) > 5 else ''}"


def unreadable(row: bytes, format: Input, header: bytes) -> str:
    """Why a row is none, by itself."""
    if format is Input.CSV:
        cells, names = cells_of(row), names_in(header)
        if cells is not None and len(cells) != len(names):
            return f"it has {len(cells)} fields, and the header {len(names)}"
        return "the row cannot be read"
    if row == UNTERMINATED_ARRAY:
        return "the list has no end: rows may be missing"
    try:
        orjson.loads(row)
    except orjson.JSONDecodeError as exc:
        if row.startswith(b"{") and ("unexpected end" in str(exc) or "EOF" in str(exc)):
            return "the row breaks off before its end"
    return "the row is not a JSON object, or goes too deep"


def has_all_cells(row: bytes, header: bytes) -> bool:
    """Whether a CSV record has as many cells as the header."""
    return len(cells_of(row) or ()) == len(names_in(header))
