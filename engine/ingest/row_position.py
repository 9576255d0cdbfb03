"""Locates a row in the body that its sender wrote, and formulates the engine's error about it."""

from __future__ import annotations

import csv
import io
import re
from contextlib import suppress

from engine.errors import BAD_ROW, RookeryError
from engine.warehouse.port import Input

_ROW = re.compile(r"\(at row (\d+)\)")
_ENGINE_CONTEXT = re.compile(
    r"[.:]\s*(?:\(at row|While executing|\(in file|\(while reading header|In JSON input formats)"
)
"""The beginning of the part of an engine's message that is not useful to the sender of the rows."""
_MAX_REASON_CHARACTERS = 300


def bad_row(exc: RookeryError, body: bytes, format: Input) -> RookeryError:
    """RK5001 with the line that the engine refused. Values in the message are the sender's own."""
    text = exc.detail or exc.message
    match = _ROW.search(text)
    where = line_of(body, format, int(match.group(1))) if match else "the batch"
    reason = _ENGINE_CONTEXT.split(exc.message)[0].strip()
    return RookeryError(
        BAD_ROW, f"{where}: {reason[:_MAX_REASON_CHARACTERS]}", hint="nothing was stored", detail=text
    )


def line_of(body: bytes, format: Input, row: int) -> str:
    """A description of the line of a body that has the row with a number (from 1), or else of the row."""
    number = None
    if format is Input.NDJSON:
        number = _ndjson_line(body, row)
    elif format is Input.CSV:
        number = _csv_line(body, row)
    return f"row {row}" if number is None else f"line {number}"


def _ndjson_line(body: bytes, row: int) -> int | None:
    """The number of the line with a row, counted from 1; None unless each line is an object."""
    rows = 0
    # The engine does not count blank lines. The byte order mark is not part of the first row.
    for number, line in enumerate(body.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        rows += 1
        if rows == row:
            return number
        if not line.lstrip().startswith(b"{"):
            return None  # a list, or objects over several lines
    return None


def _csv_line(body: bytes, row: int) -> int | None:
    """The line on which a record begins. Quoted values may contain line breaks, so CSV must be parsed."""
    reader = csv.reader(io.StringIO(body.decode(errors="replace"), newline=""))
    rows, last_line = -1, 0  # the header is not a row
    with suppress(csv.Error):
        for cells in reader:
            rows += bool(cells)
            if rows == row:
                return last_line + 1
            last_line = reader.line_num
    return None
