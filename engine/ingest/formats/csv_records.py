"""Finds where CSV records end. Quoted values may contain line breaks, and a quote may be left open by mistake."""

from __future__ import annotations

BOM = b"\xef\xbb\xbf"
MAX_CELLS = 1 << 18
"""Maximum number of fields into which a record is split. A header is too short for as many."""
_MAX_RESCANS = 8
"""How often all lines of a body may be scanned again after quotes that are left open. Beyond that, every line is a
record.
"""
_BEFORE_OPENING = b', \t\r\n"'
"""Bytes that can precede a quote that opens a value, or the second quote of a doubled one."""


def csv_rows(batch: bytes) -> tuple[bytes, list[bytes]]:
    """Return the header and the records of a CSV body, unchanged except for the line break at the end of each.

    Blank lines are dropped. If a quoted value is never closed, or text follows the quote that closes it on a later
    line, then the line with the opening quote is a record of its own (see `is_unterminated`), and the next line
    begins another.
    """
    rows = _records(batch.removeprefix(BOM))
    return (rows[0], rows[1:]) if rows else (b"", [])


def _records(text: bytes) -> list[bytes]:
    lines = text.split(b"\n")
    if not any(line.count(b'"') & 1 for line in lines):
        return [row for line in lines if (row := line.removesuffix(b"\r"))]
    rows: list[bytes] = []
    # After each quote that is never closed, all later lines are scanned again. The budget keeps the time linear.
    at, rescan_budget = 0, _MAX_RESCANS * len(lines)
    while at < len(lines):
        end, read = _record_end(lines, at) if rescan_budget > 0 else (at, 0)
        if end < 0:
            rescan_budget -= read
            end = at
        rows.append(b"\n".join(lines[at : end + 1]).removesuffix(b"\r"))
        at = end + 1
    return [row for row in rows if row]


def _record_end(lines: list[bytes], at: int) -> tuple[int, int]:
    """Return the last line of the record that begins at line `at` (-1 if it has no end), and the lines read."""
    quoted = False
    for number in range(at, len(lines)):
        quoted_after = ends_inside_quotes(lines[number], quoted)
        if quoted_after is None:
            return (at if number == at else -1), number - at + 1
        quoted = quoted_after
        if not quoted:
            return number, number - at + 1
    return -1, len(lines) - at


def is_unterminated(text: bytes | bytearray) -> bool:
    """Return whether a CSV body, or one record, ends inside a quoted value."""
    last = text.rfind(b'"')
    if last < 0 or (last and text[last - 1] not in _BEFORE_OPENING):
        return False  # the last quote neither opens a value nor is the second of a doubled quote
    quoted = False
    for line in text.removeprefix(BOM).split(b"\n"):
        quoted = bool(ends_inside_quotes(line, quoted))
    return quoted


def ends_inside_quotes(line: bytes | bytearray, quoted: bool) -> bool | None:
    """Return whether a line ends inside a quoted value. `quoted` says whether it begins inside one.

    Returns None if text follows the quote that closes a value.
    """
    quotes = line.count(b'"')
    if not quotes:
        return quoted
    if not quoted and quotes % 2 == 0:
        return False  # only wrong for a stray quote before one that opens a value, which programs do not write
    return _ends_inside_quotes_by_value(line, quoted)


def _ends_inside_quotes_by_value(line: bytes | bytearray, quoted: bool) -> bool | None:
    """Go through the line value by value: a quote opens a value only at the value's beginning (`5" nails` is not
    quoted).
    """
    at = 0
    while True:
        if not quoted:
            opened = _after_opening_quote(line, at)
            quoted, at = bool(opened), opened or at
        end = line.find(b",", at)
        if quoted:
            at = _after_closing_quote(line, at)
            if at < 0:
                return True
            end = line.find(b",", at)
            if line[at : None if end < 0 else end].strip():
                return None
        if end < 0:
            return False
        at, quoted = end + 1, False


def _after_closing_quote(line: bytes | bytearray, at: int) -> int:
    """Return the position after the quote that closes a value, or -1. Two quotes in a row are an escaped quote."""
    while (quote := line.find(b'"', at)) >= 0:
        if line[quote + 1 : quote + 2] != b'"':
            return quote + 1
        at = quote + 2
    return -1


def raw_cells(row: bytes) -> list[bytes]:
    """Return the fields of a record as they are written, with their quotes. The last of MAX_CELLS has the rest."""
    if b'"' not in row:
        return row.split(b",", MAX_CELLS - 1)
    cells: list[bytes] = []
    at = 0
    while True:
        opened = _after_opening_quote(row, at)
        closed = _after_closing_quote(row, opened) if opened else at
        end = row.find(b",", at if closed < 0 else closed) if len(cells) < MAX_CELLS - 1 else -1
        cells.append(row[at : None if end < 0 else end])
        if end < 0:
            return cells
        at = end + 1


def has_closing_quote(cell: bytes) -> bool:
    """Return whether a field is not quoted, or ends with its closing quote."""
    opened = _after_opening_quote(cell, 0)
    return not opened or ((closed := _after_closing_quote(cell, opened)) >= 0 and not cell[closed:].strip())


def _after_opening_quote(text: bytes | bytearray, at: int) -> int:
    """Return the position after a field's opening quote, or 0 if the field is not quoted."""
    while text[at : at + 1] == b" ":
        at += 1
    return at + 1 if text[at : at + 1] == b'"' else 0
