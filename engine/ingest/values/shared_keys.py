"""Keys of an event that several columns read: each column gets the value for itself.

The engine fills one column of a stage from one key. Where columns read a key in different ways, the stage has a
column for each way, and a row repeats the value under the names of all of them. What a value is remains the engine's
decision: only the borders of values are found here.
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
"""A key, and its value with what follows if it is no object or list."""
_BEGIN, _EMPTY, _NEXT = re.compile(rb"\s*\{"), re.compile(rb"\s*\}\s*"), re.compile(rb"\s*([,}])")
_SCALAR = re.compile(rb"[A-Za-z0-9+.-]+")


@dataclass(frozen=True, slots=True)
class Reader:
    """A stage's column that reads a key; `opening` is what the value must begin with for it, if that is known."""

    name: str
    opening: bytes = b""


@dataclass(frozen=True, slots=True)
class Member:
    """A key of an object with its value, as they are written: the key between its quotes, and where both stand."""

    key: bytes
    value: bytes
    start: int
    end: int

    @property
    def name(self) -> bytes:
        """The key as the engine compares it."""
        if b"\\" not in self.key:
            return self.key.lower()
        try:
            return str(orjson.loads(b'"' + self.key + b'"')).encode().lower()
        except orjson.JSONDecodeError:
            return self.key.lower()


def members(text: bytes) -> list[Member] | None:
    """The members of one object, None if the text is not one. Values may be anything with an end."""
    begin = _BEGIN.match(text)
    if begin is None:
        return None
    at = begin.end()
    if _EMPTY.fullmatch(text, at):
        return []
    found: list[Member] = []
    while (pair := _MEMBER.match(text, at)) is not None:
        start, end = pair.span(2)
        border = pair[3]
        if end < 0:
            start = pair.end()
            end = _end(text, start)
            following = _NEXT.match(text, end) if end > start else None
            if following is None:
                return None
            border, at = following[1], following.end()
        else:
            at = pair.end()
        found.append(Member(pair[1], text[start:end], pair.start(1) - 1, end))
        if border == b"}":
            return None if text[at:].strip() else found
    return None


def _end(text: bytes, start: int) -> int:
    """The position behind an object or list, -1 if it has none."""
    if text[start : start + 1] not in (b"{", b"["):
        return -1
    if text.isascii():
        try:
            orjson.loads(memoryview(text)[start:])
        except orjson.JSONDecodeError as exc:
            # A parser finds the end sooner than a walk does.
            if exc.msg.startswith("unexpected content after document"):
                return start + len(text[start : start + exc.pos].rstrip(BLANK))
    return value_end(text, start)


def is_readable(value: bytes) -> bool:
    """Whether a member's value has borders that every parser sees alike."""
    if _SCALAR.fullmatch(value):
        return True
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return True


def spread(row: bytes, shared: Mapping[bytes, Sequence[Reader]]) -> bytes | None:
    """A row with the values of shared keys under the names of all who read them; None if it is no object.

    `shared` has keys in lower case. A value that does not begin as a reader needs it is absent for that reader.
    """
    found = members(row)
    if found is None:
        return None
    parts: list[bytes] = []
    at = 0
    for member in found:
        readers = shared.get(member.name)
        if readers is None:
            continue
        parts.append(row[at : member.start])
        taken = [r.name for r in readers if member.value.startswith(r.opening)]
        written = b",".join(b'"%s":%s' % (name.encode(), member.value) for name in taken)
        parts.append(written or row[member.start : member.end])
        at = member.end
    return b"".join((*parts, row[at:])) if parts else row
