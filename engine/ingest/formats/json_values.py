"""Finds where values end in possibly malformed JSON, from its strings, escapes and nesting."""

from __future__ import annotations

import re
from collections.abc import Iterator

import orjson

from engine.errors import TOO_LARGE, RookeryError

BLANK = b" \t\r\n"
"""JSON's white space."""
MAX_VALUES = 1 << 18
"""Maximum number of values in an event that is parsed in Python: all other threads wait meanwhile, and each value
takes up to 100 bytes.
"""
UNTERMINATED_ARRAY = b"["
"""A placeholder row for the rows that an array without an end may have lost."""
_OUTSIDE = re.compile(rb'["\[\]{},]')
_INSIDE = re.compile(rb'["\[\]{}]')
_ESCAPED = re.compile(rb"\\.|\n", re.DOTALL)
_NO_ESCAPE = re.compile(rb'\\[^"/bfnrtu]')
_QUOTE, _BACKSLASH, _CLOSING_BRACKET = b'"\\]'
_OPENING, _ELEMENT_ENDS = b"[{", b",]"
_MAX_FAILED_GUESSES = 8
"""After this many consecutive wrong guesses of an element's end, no more guesses are made."""
_GUESSED_BRACES, _GUESS_BYTES = 4, 1 << 16
_MAX_READ_BYTES = 1 << 20
"""Maximum bytes of finished elements that stay in the buffer: removing them one by one would copy the buffer each
time.
"""


def has_too_many_values(text: bytes | bytearray) -> bool:
    """Return whether a string may have more than MAX_VALUES values, if it is JSON."""
    if len(text) <= MAX_VALUES:
        return False
    at = values = strings = 0
    while at >= 0 and max(values, strings) < MAX_VALUES:
        quote = text.find(b'"', at)
        end = len(text) if quote < 0 else quote
        # Values are separated by commas, or are the first ones in objects and arrays.
        values += sum(text.count(separator, at, end) for separator in (b",", b"[", b"{"))
        strings += 1
        at = -1 if quote < 0 else string_end(text, quote + 1)
    return max(values, strings) >= MAX_VALUES


def require_parsable(text: bytes | bytearray) -> None:
    """Raise RK5004 for an event with too many values to parse it in Python."""
    if has_too_many_values(text):
        raise RookeryError(
            TOO_LARGE, f"a row has more than {MAX_VALUES:,} values", hint="nothing was stored; send smaller rows"
        )


def is_object(text: bytes | bytearray) -> bool:
    """Return whether a string is exactly one object in strict JSON. Raises RK5004 if it has too many values."""
    require_parsable(text)
    try:
        return type(orjson.loads(text)) is dict
    except orjson.JSONDecodeError:
        return False


def has_unknown_escape(text: bytes) -> bool:
    """Return whether a string has an escape unknown to JSON, such as `\\x22`. The engine drops the backslash."""
    if b"\\" not in text:
        return False
    return _NO_ESCAPE.search(text.replace(b"\\\\", b"")) is not None


def row_too_long(limit: int) -> RookeryError:
    """Return the error for a row longer than `limit` bytes."""
    return RookeryError(
        TOO_LARGE, f"a row is longer than {limit:,} bytes", hint="is a quote or a bracket never closed?"
    )


def string_end(text: bytes | bytearray, at: int) -> int:
    """Return the position after the string whose text begins at `at`, or -1 if the string has no end."""
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
    """Return the position after the object or array that begins at `at`, or -1 if it has no end."""
    depth = 0
    while token := _INSIDE.search(text, at):
        at = token.end()
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
    """Remove line breaks from a value: those between tokens become spaces, those in strings become `\\n`."""
    if b"\n" not in text:
        return text
    if is_object(text):
        return text.replace(b"\n", b" ")  # in strict JSON, no string contains a line break
    parts: list[bytes] = []
    at = 0
    while (quote := text.find(b'"', at)) >= 0:
        end = string_end(text, quote + 1)
        end = len(text) if end < 0 else end
        parts += (text[at:quote].replace(b"\n", b" "), _ESCAPED.sub(_escape, text[quote:end]))
        at = end
    return b"".join((*parts, text[at:].replace(b"\n", b" ")))


def _escape(match: re.Match[bytes]) -> bytes:
    # A backslash before a line break is not a JSON escape, and must not become `\n`.
    return b"\\n" if match.group() == b"\n" else match.group().replace(b"\n", b" ")


class JsonElements:
    """Splits a JSON array that arrives in chunks into the text of its elements.

    The first chunk begins after the array's opening bracket. An element ends at the next comma of the array, so a
    broken element does not affect the others unless its strings or brackets stay open. `limit` is the maximum size
    of an element in bytes.
    """

    def __init__(self, limit: int) -> None:
        self.remainder: bytes | None = None
        """The text after the array's end; None until the end has arrived."""
        self._limit = limit
        self._buffer = bytearray()
        # Positions in the buffer: where the current element starts, and where the scan continues, which is at a
        # depth of brackets within the element, and maybe in a string.
        self._start = self._at = self._depth = 0
        self._in_string = False
        self._guesses_left = _MAX_FAILED_GUESSES

    @property
    def held(self) -> int:
        """Bytes that do not belong to a complete element yet."""
        return len(self._buffer)

    def append(self, chunk: bytes) -> None:
        """Add a chunk."""
        self._buffer += chunk

    def complete(self) -> Iterator[bytes]:
        """Yield the elements whose end has arrived. Raises RK5004 for an element above the limit."""
        while self.remainder is None and (end := self._element_end()) >= 0:
            text = bytes(self._buffer[self._start : end])
            if len(text) > self._limit:
                raise row_too_long(self._limit)
            self._start = self._at
            if self._buffer[end] == _CLOSING_BRACKET:
                self.remainder = bytes(self._buffer[self._at :])
                self._buffer.clear()
            elif self._start > _MAX_READ_BYTES:
                self._drop_read()
            if text := text.strip(BLANK):
                yield text
        self._drop_read()
        if len(self._buffer) > self._limit:
            raise row_too_long(self._limit)

    def unterminated(self) -> list[bytes]:
        """Return the rows at the end of a body whose array has no end.

        They are the incomplete element, and UNTERMINATED_ARRAY unless that element is itself malformed.
        """
        begun = bytes(self._buffer).strip(BLANK)
        self._buffer = bytearray()
        if begun and not is_object(begun):
            return [begun]
        return [begun, UNTERMINATED_ARRAY] if begun else [UNTERMINATED_ARRAY]

    def _drop_read(self) -> None:
        del self._buffer[: self._start]
        self._at -= self._start
        self._start = 0

    def _element_end(self) -> int:
        """Return the position of the comma or bracket that ends the element, or -1 if it has not arrived."""
        if self._at == self._start:
            self._guess_object_end()
        buffer = self._buffer
        while True:
            if self._in_string and not self._skip_string():
                return -1
            token = (_INSIDE if self._depth else _OUTSIDE).search(buffer, self._at)
            if token is None:
                self._at = len(buffer)
                return -1
            self._at = token.end()
            byte = buffer[self._at - 1]
            if byte == _QUOTE:
                self._in_string = True
            elif byte in _OPENING:
                self._depth += 1
            elif self._depth:
                self._depth -= 1
            elif byte in _ELEMENT_ENDS:
                return self._at - 1

    def _skip_string(self) -> bool:
        """Move past the open string, or to the end of the buffer but never into an escape. Return whether the string
        has ended.
        """
        end = string_end(self._buffer, self._at)
        if end < 0:
            back = end = len(self._buffer)
            while back > self._at and self._buffer[back - 1] == _BACKSLASH:
                back -= 1
            self._at = end - (end - back) % 2
            return False
        self._at, self._in_string = end, False
        return True

    def _guess_object_end(self) -> None:
        """Try to end an object at one of its first closing braces: the parser is faster than scanning its strings."""
        end = self._at
        for _ in range(_GUESSED_BRACES if self._guesses_left else 0):
            end = self._buffer.find(b"}", end, self._at + _GUESS_BYTES) + 1
            if not end:
                break
            if is_object(self._buffer[self._at : end]):
                self._at, self._guesses_left = end, _MAX_FAILED_GUESSES
                return
        self._guesses_left = max(self._guesses_left - 1, 0)
