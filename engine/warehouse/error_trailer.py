"""The end of a document that comes over HTTP, where a server may report that the document failed.

The status is sent before the rows, so a later failure can only follow them: current servers put it between markers
with a random tag that the headers announce, older ones append its bare text, or break the connection, which the
client notices. The last bytes are therefore kept back until it is known that they belong to the document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine import errors
from engine.warehouse.errors import EngineError, translate
from engine.warehouse.port import Format

_KEPT = 20 << 10
"""A server cuts its message at 16 KiB."""

_MARK = b"__exception__\r\n"
# No document of ours has a line that begins so: strings in CSV are quoted, rows in JSON are objects.
_BARE = re.compile(rb"(?:\A|\n)Code: \d{1,9}\. DB::Exception: ")
_ENDS = {Format.JSON: b"}", Format.PARQUET: b"PAR1"}


class ErrorTrailer:
    """Passes a document on, but for its last bytes, and judges those at the end."""

    def __init__(self, format: Format, tag: str | None) -> None:
        self._format = format
        self._mark = _MARK + tag.encode() if tag else None
        self._kept = b""

    def push(self, chunk: bytes) -> Iterator[bytes]:
        """What is certainly not the end."""
        kept = self._kept + chunk
        self._kept = kept[-_KEPT:]
        if len(kept) > _KEPT:
            yield kept[:-_KEPT]

    def finish(self) -> Iterator[bytes]:
        """The rest, when the document is whole. Raises the error that the server appended, or that it is cut."""
        if self._mark and self._mark in self._kept:
            raise self._reported(self._kept.partition(self._mark)[2])
        if bare := self._bare():
            raise self._reported(bare)
        end = _ENDS.get(self._format, b"")
        if not self._kept.rstrip().endswith(end):
            raise EngineError(errors.ENGINE_INTERNAL, "the result broke off before its end")
        if self._kept:
            yield self._kept

    def _bare(self) -> bytes | None:
        """A bare message that the document ends with: from `Code:` at the start of a line to the server's version."""
        text = self._kept.rstrip()
        version = text.rfind(b"(version ")
        if version < 0 or not text.endswith(b")") or b"\n" in text[version:]:
            return None
        found = _BARE.search(text, 0, version)
        return text[found.start() :] if found else None

    def _reported(self, text: bytes) -> EngineError:
        return translate(RuntimeError(text.decode(errors="replace").strip()))
