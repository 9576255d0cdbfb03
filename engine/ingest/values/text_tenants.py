"""Finds events whose tenant is not a JSON string although the tenants of their datasource are strings.

The engine reads a number, a boolean, an object or an array for a string column as the text that was sent, so the
stage does not show the difference. Batches are searched quickly; only the rows of a batch that may have such a tenant
are read in Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache

import orjson

from engine.ingest.values.shared_keys import members
from engine.project.datasource import Column, Datasource
from engine.tenant_ids import base_type


def text_tenant_column(source: Datasource) -> Column | None:
    """Return the tenant column, or None if the datasource has none or its type is not a string."""
    column = next((c for c in source.columns if c.name == source.tenant_column), None)
    return column if column is not None and base_type(column.type) == "String" else None


def may_have_other_tenants(column: Column, body: bytes) -> bool:
    """Return whether a body may have a tenant that is neither a string nor null. Fast, and never wrongly false."""
    return other_tenant_pattern(column.path[-1]).search(body) is not None


@lru_cache(maxsize=256)
def other_tenant_pattern(key: str) -> re.Pattern[bytes]:
    """Return the pattern of a key, with or without escapes, before anything but a string or null."""
    spelled = b"".join(map(_spellings, key))
    return re.compile(b'"' + spelled + rb'"\s*+:\s*+(?!"|null[\s,}])', re.IGNORECASE)


def _spellings(character: str) -> bytes:
    """Return the pattern of a character of a key in all forms in which JSON can have it."""
    units = character.encode("utf-16-be", "surrogatepass").hex()
    escapes = {"".join(rf"\\u{units[n : n + 4]}" for n in range(0, len(units), 4))}
    if character.isascii():
        escapes |= {rf"\\u{ord(c):04x}" for c in (character.lower(), character.upper())} | {
            rf"\\{re.escape(character)}"
        }
    return b"(?:%s)" % b"|".join([re.escape(character.encode()), *(e.encode() for e in sorted(escapes))])


def other_tenants(column: Column, rows: Iterable[bytes]) -> dict[int, bytes]:
    """Return the tenants that are neither strings nor null, as they are written, by the row's position, from 0."""
    suspects = ((n, row) for n, row in enumerate(rows) if may_have_other_tenants(column, row))
    found = ((n, _other_value(row, column.path)) for n, row in suspects if not _certainly_has_text(row, column.path))
    return {n: value for n, value in found if value is not None}


def _certainly_has_text(row: bytes, path: list[str]) -> bool:
    """Return whether a parser finds a string at a path of a row. A repeated key is an error for the engine."""
    with suppress(orjson.JSONDecodeError):
        value = orjson.loads(row)
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return isinstance(value, str)
    return False


def _other_value(row: bytes, path: list[str]) -> bytes | None:
    """Return the value at a path if it is neither a string nor null. A key that is repeated has several values."""
    values = [m.value for m in members(row) or () if m.name == path[0].encode().lower()]
    for key in path[1:]:
        values = [m.value for value in values for m in members(value) or () if m.text == key]
    return next((v for v in values if not v.startswith(b'"') and v != b"null"), None)
