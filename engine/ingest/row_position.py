"""Where in a batch a row stands, and what is wrong with it, for whoever sent it."""

from __future__ import annotations

import csv
import io
import re
from contextlib import suppress

from engine.errors import BAD_ROW, RookeryError
from engine.warehouse.port import Input

_ROW = re.compile(r"\(at row (\d+)\)")
_ASIDE = re.compile(r"[.:]\s*(?:\(at row|While executing|\(in file|\(while reading header|In JSON input formats)")
"""Where the engine stops to tell what the sender can use."""


def bad_row(exc: RookeryError, body: bytes, format: Input) -> RookeryError:
    """The engine's complaint about a row, with its line; values in it are the sender's own."""
    text = exc.detail or exc.message
    found = _ROW.search(text)
    where = line_of(body, format, int(found.group(1))) if found else "the batch"
    reason = _ASIDE.split(exc.message)[0].strip()
    return RookeryError(BAD_ROW, f"{where}: {reason[:300]}", hint="nothing was stored", detail=text)


def line_of(body: bytes, format: Input, row: int) -> str:
    """Where the row with a number (from 1) stands in the body."""
    number = None
    if format is Input.NDJSON:
        number = _ndjson_line(body, row)
    elif format is Input.CSV:
        number = _csv_line(body, row)
    return f"row {row}" if number is None else f"line {number}"


def _ndjson_line(body: bytes, row: int) -> int | None:
    seen = 0
    for number, line in enumerate(body.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        seen += 1
        if seen == row:
            return number
        if not line.lstrip().startswith(b"{"):
            return None  # a list, or objects over several lines
    return None


def _csv_line(body: bytes, row: int) -> int | None:
    """A quoted value may hold line breaks, so rows are counted as CSV counts them."""
    reader = csv.reader(io.StringIO(body.decode(errors="replace"), newline=""))
    seen, before = -1, 0
    with suppress(csv.Error):
        for cells in reader:
            seen += bool(cells)
            if seen == row:
                return before + 1
            before = reader.line_num
    return None
