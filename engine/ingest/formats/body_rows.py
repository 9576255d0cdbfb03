"""Bodies as rows of text: NDJSON, JSON arrays, objects over several lines, CSV. What a row means is not asked."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import orjson

from engine.ingest.formats.chunker import Chunker
from engine.ingest.formats.csv_records import BOM, csv_rows
from engine.ingest.formats.json_values import BLANK, JsonElements, is_object, on_one_line, value_end

__all__ = ["Chunker", "csv_rows", "is_object", "is_open_list", "is_stranger", "json_rows", "small_lines"]
_TAIL = 1024
_SOLID = re.compile(rb"[^ \t\r\n]")


def small_lines(body: bytes, look: Callable[[dict[str, Any]], object] | None = None) -> list[bytes] | None:
    """The lines of a body in which every line but blank ones is a complete JSON object; None for any other body.

    Strict JSON, so that no text of one line can reach into the next, whatever it is put together with. `look` is
    called with each object.
    """
    loads = orjson.loads
    rows: list[bytes] = []
    try:
        for line in body.removeprefix(BOM).split(b"\n"):
            if row := line.strip(BLANK):
                found = loads(row)
                if type(found) is not dict:
                    return None
                if look is not None:
                    look(found)
                rows.append(row)
    except orjson.JSONDecodeError:
        return None
    return rows


def is_stranger(row: object, keys: frozenset[str]) -> bool:
    """Whether an event has none of a stage's keys, without regard to case."""
    return isinstance(row, dict) and keys.isdisjoint(row) and keys.isdisjoint(map(str.lower, row))


def json_rows(body: bytes, *, whole: bool = True) -> list[bytes]:
    """The rows of any body that should be JSON, each on one line. Nothing but blank lines is dropped, nothing raises.

    A body that begins with `[` is a list, and its elements are rows; what follows its end is taken by lines. Any
    other is a sequence of objects, over several lines or not; if it is not all that, each line is a row, or several
    if it is several objects. What is no object is a row as well, for others to refuse. `whole=False` is for a batch
    that was cut out of a stream, which is a list only at its beginning.
    """
    text = body.removeprefix(BOM).strip(BLANK)
    if not (whole and text.startswith(b"[")):
        return _by_lines(text) if (found := _objects(text)) is None else found
    elements = JsonElements(sys.maxsize)
    elements.append(text[1:])
    texts = list(elements.complete())
    if elements.rest is None:
        texts += elements.unended()
    rows = [row for element in texts for row in _split(on_one_line(element))]
    return rows + _by_lines(elements.rest or b"")


def is_open_list(body: bytes) -> bool:
    """Whether a body begins as a list and does not end as one: what is missing at its end is not known."""
    first = _SOLID.search(body, len(BOM) if body.startswith(BOM) else 0)
    return first is not None and first.group() == b"[" and body[-_TAIL:].rstrip(BLANK)[-1:] != b"]"


def _by_lines(text: bytes) -> list[bytes]:
    return [row for line in text.split(b"\n") if (stripped := line.strip(BLANK)) for row in _split(stripped)]


def _split(line: bytes) -> list[bytes]:
    if is_object(line):
        return [line]
    return _objects(line) or [line]


def _objects(text: bytes) -> list[bytes] | None:
    """A text that is complete objects and nothing else, taken apart; None for any other."""
    rows: list[bytes] = []
    at = line = 0
    while found := _SOLID.search(text, at):
        at, end = found.start(), -1
        if at >= line:
            # Most objects are a line: tried once for each line, so that a long one is not read again and again.
            line = text.find(b"\n", at)
            line = len(text) if line < 0 else line
            end = line if is_object(text[at:line]) else -1
        if end < 0 and found.group() == b"{":
            end = value_end(text, at)
            end = end if is_object(text[at:end]) else -1
        if end < 0:
            return None
        rows.append(text[at:end].replace(b"\n", b" ").rstrip(BLANK))
        at = end
    return rows
