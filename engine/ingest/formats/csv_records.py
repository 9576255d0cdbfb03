"""Where records end in CSV text: quoted values may hold line breaks, and a quote may be left open by mistake."""

from __future__ import annotations

BOM = b"\xef\xbb\xbf"
_RESCANS = 8
"""How often all lines of a text may be read again behind quotes that were left open; then every line is a record."""
_BEFORE_OPENING = b', \t\r\n"'


def csv_rows(batch: bytes) -> tuple[bytes, list[bytes]]:
    """The header and the records of a CSV text, each as it stands there but for the line break at its end.

    Blank lines are dropped. Where a quoted value is never closed, or text follows the quote that would close it on a
    later line, the line on which it was opened is a record of its own (`is_open`), and the next line begins another.
    """
    rows = _records(batch.removeprefix(BOM))
    return (rows[0], rows[1:]) if rows else (b"", [])


def _records(text: bytes) -> list[bytes]:
    lines = text.split(b"\n")
    if not any(line.count(b'"') & 1 for line in lines):
        return [row for line in lines if (row := line.removesuffix(b"\r"))]
    rows: list[bytes] = []
    at, again = 0, _RESCANS * len(lines)
    while at < len(lines):
        end, read = _record_end(lines, at) if again > 0 else (at, 0)
        if end < 0:
            again -= read
            end = at
        rows.append(b"\n".join(lines[at : end + 1]).removesuffix(b"\r"))
        at = end + 1
    return [row for row in rows if row]


def _record_end(lines: list[bytes], at: int) -> tuple[int, int]:
    """The last line of the record that begins with a line, -1 if it does not end; and how many lines were read."""
    quoted = False
    for number in range(at, len(lines)):
        found = ends_quoted(lines[number], quoted)
        if found is None:
            return (at if number == at else -1), number - at + 1
        quoted = found
        if not quoted:
            return number, number - at + 1
    return -1, len(lines) - at


def is_open(text: bytes | bytearray) -> bool:
    """Whether a CSV text, or one record, ends within a quoted value."""
    last = text.rfind(b'"')
    if last < 0 or (last and text[last - 1] not in _BEFORE_OPENING):
        return False  # the last quote is not one that opens a value, nor the second of two
    quoted = False
    for line in text.removeprefix(BOM).split(b"\n"):
        quoted = bool(ends_quoted(line, quoted))
    return quoted


def ends_quoted(line: bytes | bytearray, quoted: bool) -> bool | None:
    """Whether a quoted value is open at a line's end, given whether one was at its beginning.

    None if text follows the quote that closes a value.
    """
    quotes = line.count(b'"')
    if not quotes:
        return quoted
    if not quoted and quotes % 2 == 0:
        return False  # not so if one of them is astray and another opens a value, which no program writes
    return _walked(line, quoted)


def _walked(line: bytes | bytearray, quoted: bool) -> bool | None:
    """Value by value: a quote opens a value only at its beginning (`5" nails` is not quoted)."""
    at = 0
    while True:
        if not quoted:
            opened = _open(line, at)
            quoted, at = bool(opened), opened or at
        end = line.find(b",", at)
        if quoted:
            at = _closing(line, at)
            if at < 0:
                return True
            end = line.find(b",", at)
            if line[at : None if end < 0 else end].strip():
                return None
        if end < 0:
            return False
        at, quoted = end + 1, False


def _closing(line: bytes | bytearray, at: int) -> int:
    """The position behind the quote that closes a value, or -1; two quotes in a row stand for one."""
    while (quote := line.find(b'"', at)) >= 0:
        if line[quote + 1 : quote + 2] != b'"':
            return quote + 1
        at = quote + 2
    return -1


def raw_cells(row: bytes) -> list[bytes]:
    """The fields of a record as they are written, with their quotes."""
    if b'"' not in row:
        return row.split(b",")
    found: list[bytes] = []
    at = 0
    while True:
        opened = _open(row, at)
        closed = _closing(row, opened) if opened else at
        end = row.find(b",", at if closed < 0 else closed)
        found.append(row[at : None if end < 0 else end])
        if end < 0:
            return found
        at = end + 1


def ends_with_its_quotes(cell: bytes) -> bool:
    """Whether a field that begins with a quote ends with the one that closes it."""
    opened = _open(cell, 0)
    return not opened or ((closed := _closing(cell, opened)) >= 0 and not cell[closed:].strip())


def _open(text: bytes | bytearray, at: int) -> int:
    """The position behind the quote with which a field begins, or 0 if it begins with none."""
    while text[at : at + 1] == b" ":
        at += 1
    return at + 1 if text[at : at + 1] == b'"' else 0
