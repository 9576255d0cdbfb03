"""What is said of rows that cannot be stored: the values that they have for columns, and what is wrong with them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import orjson

from engine.compiler.scope import base_type
from engine.serve.arrival import Staged
from engine.serve.elements import UNENDED
from engine.serve.staging import Stage, is_tenant, tenant_kind
from engine.warehouse.port import Input

SHOWN = 80
"""Characters of a value that a reason shows."""


def reason(stage: Stage, staged: Staged, value: str | None, bound: str | None) -> str:
    """Why a value that could be read is not stored, in words for its sender."""
    shown = "missing or null" if value is None else f"`{value[:SHOWN]}`"
    if not is_tenant(stage, staged):
        kind = next(c.type for c in stage.source.columns if c.name == staged.column)
        seconds = "DateTime" in kind and value is not None and value.isdigit()
        return f"{shown} does not fit {kind}" + (": a number is in seconds" if seconds else "")
    if bound is not None:
        return f"{shown} is not the tenant that the token writes for"
    return f"{shown} is no canonical {base_type(tenant_kind(stage.source))}"


def values_of(row: bytes, format: Input, header: bytes, stage: Stage) -> dict[str, str | None]:
    """The texts that a row has for the datasource's columns, as far as they can be told."""
    given = _csv_values(row, header) if format is Input.CSV else json_values(row)
    return {c.column: _text(_at(given[c.name], c.path)) for c in stage.columns if c.name in given}


def _at(value: Any, path: Sequence[str]) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _csv_values(row: bytes, header: bytes) -> dict[str, Any]:
    with suppress(csv.Error):
        names, *cells = csv.reader(io.StringIO(b"\n".join((header, row)).decode(errors="replace"), newline=""))
        if len(cells) == 1:
            return dict(zip(names, cells[0], strict=False))
    return {}


def json_values(row: bytes) -> dict[str, Any]:
    found = loaded(row)
    return found if isinstance(found, dict) else {}


def loaded(text: bytes) -> Any:
    """JSON's value, None if it is none. Of numbers too large for orjson the engine is to judge."""
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(text)
    with suppress(ValueError, RecursionError):
        return json.loads(text)
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


def unreadable(row: bytes, format: Input) -> str:
    if format is Input.CSV:
        return "the row cannot be read"
    if row == UNENDED:
        return "the list has no end: rows may be missing"
    return "the row is not a JSON object, or goes too deep"
