"""Where records end in CSV text: quoted values may hold line breaks."""

from __future__ import annotations

import re

BOM = b"\xef\xbb\xbf"
_DELIMITER = re.compile(rb"[,;|\t]")


def csv_rows(batch: bytes) -> tuple[bytes, list[bytes]]:
    """The header and the records of a CSV text, each as it stands there but for the line break at its end.

    Blank lines are dropped. A quoted value that is never closed makes one record of all that follows.
    """
    rows = _records(batch.removeprefix(BOM))
    return (rows[0], rows[1:]) if rows else (b"", [])


def _records(text: bytes) -> list[bytes]:
    lines = text.split(b"\n")
    if not any(line.count(b'"') & 1 for line in lines):
        return [row for line in lines if (row := line.removesuffix(b"\r"))]
    rows: list[bytes] = []
    parts: list[bytes] = []
    quoted = False
    for line in lines:
        parts.append(line)
        quoted = ends_quoted(line, quoted)
        if not quoted:
            rows.append(b"\n".join(parts).removesuffix(b"\r"))
            parts = []
    rows.append(b"\n".join(parts).removesuffix(b"\r"))
    return [row for row in rows if row]


def ends_quoted(line: bytes | bytearray, quoted: bool) -> bool:
    """Whether a quoted value is open at a line's end, given whether one was at its beginning."""
    quotes = line.count(b'"')
    if not quotes:
        return quoted
    if not quoted and quotes % 2 == 0:
        return False  # not so if one of them is astray and another opens a value, which no program writes
    return _walked(line, quoted)


def _walked(line: bytes | bytearray, quoted: bool) -> bool:
    """Value by value: a quote opens a value only at its beginning (`5" nails` is not quoted)."""
    at = 0
    while True:
        if not quoted:
            while line[at : at + 1] == b" ":
                at += 1
            quoted = line[at : at + 1] == b'"'
            at += quoted
        if quoted:
            at = _closing(line, at)
            if at < 0:
                return True
        found = _DELIMITER.search(line, at)
        if found is None:
            return False
        at, quoted = found.end(), False


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
