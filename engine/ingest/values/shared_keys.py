"""Repeats the value of a key that several columns read in different ways, once for each of these ways.

The engine fills only one column of a stage from a key. So the stage has a column for each way of reading, and each
row repeats the value under the names of all of them. This module only finds where values begin and end; the engine
parses them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from engine.ingest.formats.json_values import BLANK, value_end

_STRING = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_MEMBER = re.compile(
    rb'\s*"(' + _STRING + rb')"\s*:\s*(?:("' + _STRING + rb'"|[^\s,{}\[\]":]++)\s*([,}]))?', re.DOTALL
)
"""A key, and its value with the character after it unless the value is an object or an array."""
_BEGIN, _EMPTY, _NEXT = re.compile(rb"\s*\{"), re.compile(rb"\s*\}\s*"), re.compile(rb"\s*([,}])")
_SCALAR = re.compile(rb"[A-Za-z0-9+.-]+")
_FIRST_WINDOW_BYTES = 256
"""Bytes in which the end of an object or array is searched first."""


@dataclass(frozen=True, slots=True)
class KeyReader:
    """A stage's column that reads a shared key."""

    name: str
    """The column's name in the stage."""
    opening: bytes = b""
    """The character that the value must begin with; empty if the column reads any value."""


@dataclass(frozen=True, slots=True)
class Member:
    """A key of an object with its value, as they are written."""

    key: bytes
    """The text between the key's quotes."""
    value: bytes
    start: int
    """The position of the key's opening quote."""
    end: int
    """The position after the value."""

    @property
    def name(self) -> bytes:
        """The key in the form in which the engine compares keys: without escapes, in lower case."""
        return self.text.encode().lower() if b"\\" in self.key else self.key.lower()

    @property
    def text(self) -> str:
        """The key without escapes, if they are valid."""
        try:
            return str(orjson.loads(b'"' + self.key + b'"'))
        except orjson.JSONDecodeError:
            return self.key.decode(errors="replace")


def members(text: bytes) -> list[Member] | None:
    """Return the members of an object, or None if the text is not exactly one object. Values may be invalid, as long
    as their end is clear.
    """
    begin = _BEGIN.match(text)
    if begin is None:
        return None
    at = begin.end()
    if _EMPTY.fullmatch(text, at):
        return []
    parsed: list[Member] = []
    while (pair := _MEMBER.match(text, at)) is not None:
        start, end = pair.span(2)
        separator = pair[3]
        if end < 0:
            start = pair.end()
            end = _value_end(text, start)
            following = _NEXT.match(text, end) if end > start else None
            if following is None:
                return None
            separator, at = following[1], following.end()
        else:
            at = pair.end()
        parsed.append(Member(pair[1], text[start:end], pair.start(1) - 1, end))
        if separator == b"}":
            return None if text[at:].strip() else parsed
    return None


def _value_end(text: bytes, start: int) -> int:
    """Return the position after the object or array that begins at `start`, or -1 if it has no end."""
    if text[start : start + 1] not in (b"{", b"["):
        return -1
    # Parsing finds the end faster than scanning in Python does. An error copies the text, so the parser only gets a
    # part that is not much longer than the value. The error's position counts characters, which are bytes in ASCII.
    size = _FIRST_WINDOW_BYTES
    while (window := text[start : start + size]).isascii():
        try:
            orjson.loads(window)
        except orjson.JSONDecodeError as exc:
            if exc.msg.startswith("unexpected content after document"):
                return start + len(window[: exc.pos].rstrip(BLANK))
            if not exc.msg.startswith("unexpected end") or len(window) < size:
                break
        else:
            return start + len(window.rstrip(BLANK))
        size *= 4
    return value_end(text, start)


def is_readable(value: bytes) -> bool:
    """Return whether every parser finds the same end of a member's value."""
    if _SCALAR.fullmatch(value):
        return True
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return True


def expand_shared_keys(row: bytes, shared: Mapping[bytes, Sequence[KeyReader]]) -> bytes | None:
    """Return a row with the values of shared keys under the names of all their readers; None if it is not an object.

    `shared` has the keys in lower case. A value without a reader's opening is absent for that reader.
    """
    row_members = members(row)
    if row_members is None:
        return None
    parts: list[bytes] = []
    at = 0
    for member in row_members:
        readers = shared.get(member.name)
        if readers is None:
            continue
        parts.append(row[at : member.start])
        names = [r.name for r in readers if member.value.startswith(r.opening)]
        repeated = b",".join(b'"%s":%s' % (name.encode(), member.value) for name in names)
        parts.append(repeated or row[member.start : member.end])
        at = member.end
    return b"".join((*parts, row[at:])) if parts else row
