"""Detects errors that a ClickHouse server reports at the end of a document.

A server sends the HTTP status before the rows, so it can only report a later failure after them. Current servers
append the error between markers with a random tag, which a header announces. Older servers append the bare message,
or close the connection, which the client notices. The last bytes are therefore withheld until the document is
complete.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine import errors
from engine.warehouse.errors import EngineError, translate
from engine.warehouse.port import Format

_TAIL_BYTES = 20 << 10
"""Size of the end that is withheld. A server truncates its message at 16 KiB."""

_MARK = b"__exception__\r\n"
# Lines of a document never begin like this: strings in CSV are quoted, and rows in JSON are objects.
_BARE = re.compile(rb"(?:\A|\n)Code: \d{1,9}\. DB::Exception: ")
_ENDS = {Format.JSON: b"}", Format.PARQUET: b"PAR1"}


class ErrorTrailer:
    """Passes a document on except for its last bytes, and checks those once the document has ended."""

    def __init__(self, format: Format, tag: str | None) -> None:
        self._format = format
        self._mark = _MARK + tag.encode() if tag else None
        self._tail = b""

    def push(self, chunk: bytes) -> Iterator[bytes]:
        """Add a chunk, and yield the bytes that cannot belong to an error."""
        document = self._tail + chunk
        self._tail = document[-_TAIL_BYTES:]
        if len(document) > _TAIL_BYTES:
            yield document[:-_TAIL_BYTES]

    def finish(self) -> Iterator[bytes]:
        """Yield the last bytes of a complete document.

        Raises the error that the server appended, or ENGINE_INTERNAL if the document is incomplete.
        """
        if self._mark and self._mark in self._tail:
            raise self._reported(self._tail.partition(self._mark)[2])
        if bare := self._bare():
            raise self._reported(bare)
        end = _ENDS.get(self._format, b"")
        if not self._tail.rstrip().endswith(end):
            raise EngineError(errors.ENGINE_INTERNAL, "the result is incomplete: the server stopped sending it")
        if self._tail:
            yield self._tail

    def _bare(self) -> bytes | None:
        """The bare message at the end, if any: from `Code:` at the start of a line to the server's version."""
        text = self._tail.rstrip()
        version = text.rfind(b"(version ")
        if version < 0 or not text.endswith(b")") or b"\n" in text[version:]:
            return None
        match = _BARE.search(text, 0, version)
        return text[match.start() :] if match else None

    def _reported(self, text: bytes) -> EngineError:
        return translate(RuntimeError(text.decode(errors="replace").strip()))
