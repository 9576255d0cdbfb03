"""Splits request bodies into the text of their rows: NDJSON, JSON arrays, objects over several lines, and CSV.

It only finds where rows begin and end. Values are interpreted by the engine and by `ingest/values/`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import orjson

from engine.ingest.formats.chunker import Chunker
from engine.ingest.formats.csv_records import BOM, csv_rows
from engine.ingest.formats.json_values import BLANK, JsonElements, is_object, on_one_line, value_end

__all__ = [
    "Chunker",
    "csv_rows",
    "has_no_known_key",
    "is_object",
    "is_unterminated_array",
    "json_rows",
    "strict_ndjson_lines",
]
_TAIL_BYTES = 1024
"""How many bytes from the end of a body its last non-space character is searched."""
_SOLID = re.compile(rb"[^ \t\r\n]")


def strict_ndjson_lines(body: bytes, inspect: Callable[[dict[str, Any]], object] | None = None) -> list[bytes] | None:
    """Return the lines of a body, without blank ones, if each is one complete JSON object; None for any other body.

    The lines are strict JSON, so they stay separate rows when they are joined with other lines. `inspect` is called
    with each object.
    """
    loads = orjson.loads
    rows: list[bytes] = []
    try:
        for line in body.removeprefix(BOM).split(b"\n"):
            if row := line.strip(BLANK):
                value = loads(row)
                if type(value) is not dict:
                    return None
                if inspect is not None:
                    inspect(value)
                rows.append(row)
    except orjson.JSONDecodeError:
        return None
    return rows


def has_no_known_key(row: object, keys: frozenset[str]) -> bool:
    """Return whether an event has none of a stage's keys. `keys` include their lower-case forms."""
    return isinstance(row, dict) and keys.isdisjoint(row) and keys.isdisjoint(map(str.lower, row))


def json_rows(body: bytes, *, whole: bool = True) -> list[bytes]:
    """Split any body into rows, each on one line. Drops only blank lines. Raises RK5004 for a row with too many
    values.

    A body that begins with `[` is an array whose elements are rows; the text after its end is split by lines. Any
    other body is a sequence of objects, each on one line or several; if it is not, each line is a row, or several
    rows if it is several objects. Text that is not an object also becomes a row, and is rejected later. Pass
    `whole=False` for a batch cut out of a stream, because only the beginning of a stream can begin an array.
    """
    text = body.removeprefix(BOM).strip(BLANK)
    if not (whole and text.startswith(b"[")):
        objects = _objects(text)
        return _rows_by_line(text) if objects is None else objects
    elements = JsonElements(sys.maxsize)
    elements.append(text[1:])
    texts = list(elements.complete())
    if elements.remainder is None:
        texts += elements.unterminated()
    rows = [row for element in texts for row in _split(on_one_line(element))]
    return rows + _rows_by_line(elements.remainder or b"")


def is_unterminated_array(body: bytes) -> bool:
    """Return whether a body begins as a JSON array and does not end as one, so that rows may be missing."""
    first = _SOLID.search(body, len(BOM) if body.startswith(BOM) else 0)
    return first is not None and first.group() == b"[" and body[-_TAIL_BYTES:].rstrip(BLANK)[-1:] != b"]"


def _rows_by_line(text: bytes) -> list[bytes]:
    return [row for line in text.split(b"\n") if (stripped := line.strip(BLANK)) for row in _split(stripped)]


def _split(line: bytes) -> list[bytes]:
    """Return the objects on a line, or the line itself if it holds anything else."""
    if is_object(line):
        return [line]
    return _objects(line) or [line]


def _objects(text: bytes) -> list[bytes] | None:
    """Split a body that consists of complete objects; return None for any other body."""
    rows: list[bytes] = []
    at = line_end = 0
    while first := _SOLID.search(text, at):
        at, end = first.start(), -1
        if at >= line_end:
            # Most objects are one line. Each line is tried once, so that a long line is not parsed again and again.
            line_end = text.find(b"\n", at)
            line_end = len(text) if line_end < 0 else line_end
            end = line_end if is_object(text[at:line_end]) else -1
        if end < 0 and first.group() == b"{":
            end = value_end(text, at)
            end = end if is_object(text[at:end]) else -1
        if end < 0:
            return None
        rows.append(text[at:end].replace(b"\n", b" ").rstrip(BLANK))
        at = end
    return rows
