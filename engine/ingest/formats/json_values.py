"""Where values end in JSON text that may be broken, told by strings, escapes and depth."""

from __future__ import annotations

import re
from collections.abc import Iterator

import orjson

from engine.errors import TOO_LARGE, RookeryError

BLANK = b" \t\r\n"
"""What JSON takes for white space."""
UNENDED = b"["
"""A row that stands for what a list without an end does not have any more."""
_OUTSIDE = re.compile(rb'["\[\]{},]')
_INSIDE = re.compile(rb'["\[\]{}]')
_ESCAPED = re.compile(rb"\\.|\n", re.DOTALL)
_NO_ESCAPE = re.compile(rb'\\[^"/bfnrtu]')
_QUOTE, _BACKSLASH, _LAST = b'"\\]'
_OPENING, _BORDERS = b"[{", b",]"
_GUESSES = 8
"""How often a guess at the end of an element may fail before no more are made."""
_BRACES, _NEAR = 4, 1 << 16
_KEPT = 1 << 20
"""Bytes that have been read and may stay in memory."""


def is_object(text: bytes | bytearray) -> bool:
    """Whether a text is one JSON object and nothing else, strictly."""
    try:
        return type(orjson.loads(text)) is dict
    except orjson.JSONDecodeError:
        return False


def has_unknown_escape(text: bytes) -> bool:
    """Whether a backslash stands before what JSON does not escape, as in `\\x22`: the engine would drop it."""
    if b"\\" not in text:
        return False
    return _NO_ESCAPE.search(text.replace(b"\\\\", b"")) is not None


def too_long(limit: int) -> RookeryError:
    """One row takes more than all rows may."""
    return RookeryError(TOO_LARGE, f"a row is longer than {limit:,} bytes", hint="is a quote or a bracket left open?")


def string_end(text: bytes | bytearray, at: int) -> int:
    """The position behind the string that is open at `at`, or -1."""
    quote = text.find(b'"', at)
    while quote >= 0:
        back = quote
        while back > at and text[back - 1] == _BACKSLASH:
            back -= 1
        if (quote - back) % 2 == 0:
            return quote + 1
        at = quote + 1
        quote = text.find(b'"', at)
    return -1


def value_end(text: bytes, at: int) -> int:
    """The position behind the object or list that begins at `at`, or -1 if it has no end."""
    depth = 0
    while found := _INSIDE.search(text, at):
        at = found.end()
        byte = text[at - 1]
        if byte == _QUOTE:
            at = string_end(text, at)
            if at < 0:
                return -1
        elif byte in _OPENING:
            depth += 1
        else:
            depth -= 1
            if depth <= 0:
                return at
    return -1


def on_one_line(text: bytes) -> bytes:
    """A value without line breaks: a space for those between tokens, the escape for those that stand in strings."""
    if b"\n" not in text:
        return text
    if is_object(text):
        return text.replace(b"\n", b" ")  # strict JSON has none in strings
    parts: list[bytes] = []
    at = 0
    while (quote := text.find(b'"', at)) >= 0:
        end = string_end(text, quote + 1)
        end = len(text) if end < 0 else end
        parts += (text[at:quote].replace(b"\n", b" "), _ESCAPED.sub(_escape, text[quote:end]))
        at = end
    return b"".join((*parts, text[at:].replace(b"\n", b" ")))


def _escape(found: re.Match[bytes]) -> bytes:
    # A backslash before a line break is no escape of JSON, and must not become one.
    return b"\\n" if found.group() == b"\n" else found.group().replace(b"\n", b" ")


class JsonElements:
    """The elements of a JSON array that arrives in chunks, as their texts; `append` what is behind the first bracket.

    An element goes to the next comma of the array, so a bad one does not take others with it unless its strings or
    brackets stay open. `rest` is what follows the array's end, once that was met.
    """

    def __init__(self, limit: int) -> None:
        self.rest: bytes | None = None
        self._limit = limit
        self._buffer = bytearray()
        self._start = self._at = self._depth = 0
        self._string = False
        self._guesses = _GUESSES

    @property
    def held(self) -> int:
        """Bytes of what has not ended."""
        return len(self._buffer)

    def append(self, chunk: bytes) -> None:
        """Take a chunk."""
        self._buffer += chunk

    def complete(self) -> Iterator[bytes]:
        """Elements whose end is there. Raises RK5004 for one above the limit."""
        while self.rest is None and (end := self._end()) >= 0:
            text = bytes(self._buffer[self._start : end])
            if len(text) > self._limit:
                raise too_long(self._limit)
            self._start = self._at
            if self._buffer[end] == _LAST:
                self.rest = bytes(self._buffer[self._at :])
                self._buffer.clear()
            elif self._start > _KEPT:
                self._forget()
            if text := text.strip(BLANK):
                yield text
        self._forget()
        if len(self._buffer) > self._limit:
            raise too_long(self._limit)

    def unended(self) -> list[bytes]:
        """What was begun in a list without an end, which `UNENDED` stands for where nothing is torn."""
        left = bytes(self._buffer).strip(BLANK)
        self._buffer = bytearray()
        if left and not is_object(left):
            return [left]
        return [left, UNENDED] if left else [UNENDED]

    def _forget(self) -> None:
        del self._buffer[: self._start]
        self._at -= self._start
        self._start = 0

    def _end(self) -> int:
        """Where the element ends, at a comma or bracket of the array, or -1 if that is not there yet."""
        if self._at == self._start:
            self._guess()
        buffer = self._buffer
        while True:
            if self._string and not self._closed():
                return -1
            found = (_INSIDE if self._depth else _OUTSIDE).search(buffer, self._at)
            if found is None:
                self._at = len(buffer)
                return -1
            self._at = found.end()
            byte = buffer[self._at - 1]
            if byte == _QUOTE:
                self._string = True
            elif byte in _OPENING:
                self._depth += 1
            elif self._depth:
                self._depth -= 1
            elif byte in _BORDERS:
                return self._at - 1

    def _closed(self) -> bool:
        """Go behind the open string, or as far as there is text of it, but never into an escape."""
        end = string_end(self._buffer, self._at)
        if end < 0:
            back = end = len(self._buffer)
            while back > self._at and self._buffer[back - 1] == _BACKSLASH:
                back -= 1
            self._at = end - (end - back) % 2
            return False
        self._at, self._string = end, False
        return True

    def _guess(self) -> None:
        """An object ends at its first brace or one of the next: a parser tells it sooner than a walk by strings."""
        end = self._at
        for _ in range(_BRACES if self._guesses else 0):
            end = self._buffer.find(b"}", end, self._at + _NEAR) + 1
            if not end:
                break
            if is_object(self._buffer[self._at : end]):
                self._at, self._guesses = end, _GUESSES
                return
        self._guesses = max(self._guesses - 1, 0)
