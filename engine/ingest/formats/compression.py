"""Compressed bodies, opened piece by piece and never further than a limit."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol

from engine.errors import BAD_ENCODING, TOO_LARGE, RookeryError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OUTPUT_BYTES = 1 << 20
"""Bytes that are opened at once, at most."""
INPUT_BYTES = 1 << 15
"""Bytes that are handed to a library at once: each new member of a stream copies what is left of them."""
FREE_MEMBERS = 1000
MIN_MEMBER_BYTES = 64
"""Members beyond the free ones must hold this many bytes on average: one costs more to open than its bytes tell."""
MAX_WINDOW_LOG = 23
"""Zstandard's window, 8 MiB as a power of two: what HTTP allows (RFC 9659), and memory that each body may ask for."""

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_NAMES = {"": "", "identity": "identity", "gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}


class _Member(Protocol):
    """One gzip member or one frame of Zstandard."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        # What zlib did not get to is handed back by it, where Zstandard keeps it to itself.
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def _member(encoding: str) -> _Member:
    if encoding == "gzip":
        return _Gzip()
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG})


def sniffed(first: bytes) -> str:
    """The encoding that a body's first bytes tell: `gzip`, `zstd`, or nothing."""
    if first.startswith(_GZIP):
        return "gzip"
    return "zstd" if first.startswith(_ZSTD) else ""


class Opened:
    """A body that arrives in chunks, opened.

    `encoding` is what the request says; if it says nothing, the first bytes decide. What is not compressed passes as
    it comes. Every method raises RK5004 when more than `limit` bytes come out, and RK5007 when the stream is corrupt
    or ends too early.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        name = encoding.strip().lower()
        if name not in _NAMES:
            raise RookeryError(
                BAD_ENCODING, f"no Content-Encoding {encoding[:40]!r}", hint="gzip, zstd, or the body as it is"
            )
        self._encoding, self._limit = _NAMES[name], limit
        self._first: bytes | None = None if self._encoding else b""
        self._member: _Member | None = None
        self._members = 0
        self._between = b""
        self.produced = 0

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """What the chunk opens to, in pieces of at most 1 MiB. To be taken to its end before the next chunk."""
        if self._first is not None:
            self._first += chunk
            if len(self._first) < len(_ZSTD) and _undecided(self._first):
                return
            self._encoding = sniffed(self._first) or "identity"
            chunk, self._first = self._first, None
        if self._encoding == "identity":
            yield from self._counted(chunk)
            return
        for at in range(0, len(chunk), INPUT_BYTES):
            yield from self._opened(chunk[at : at + INPUT_BYTES])

    def feed(self, chunk: bytes) -> bytes:
        """What the chunk opens to, at once."""
        return b"".join(self.pieces(chunk))

    def finish(self) -> bytes:
        """What is left when the last chunk has been given."""
        if self._first:
            left, self._first = self._first, None
            return b"".join(self._counted(left))
        if self._member is not None or self._between:
            raise RookeryError(BAD_ENCODING, f"the {self._encoding} stream is truncated", hint="send all of it")
        return b""

    def _opened(self, data: bytes) -> Iterator[bytes]:
        while data or self._member is not None:
            if self._member is None:
                data = self._next(data)
                if self._member is None:
                    return
            room = min(OUTPUT_BYTES, self._limit - self.produced + 1)
            try:
                piece = self._member.decompress(data, room)
            except zlib.error as exc:
                raise self._corrupt(str(exc)) from exc
            except zstd.ZstdError as exc:
                raise self._corrupt(f"{exc} (windows of up to 8 MiB are opened)") from exc
            data = b""
            yield from self._counted(piece)
            if self._member.eof:
                data, self._member = self._member.unused_data, None
            elif len(piece) < room:
                return

    def _next(self, data: bytes) -> bytes:
        """Begin a member at the first byte of the data, behind zeros with which gzip's files may be filled up."""
        data = self._between + data
        self._between = b""
        if self._encoding == "gzip" and self._members:
            data = data.lstrip(b"\0")
            if len(data) == 1 and _GZIP.startswith(data):
                self._between = data
                return b""
            if data and not data.startswith(_GZIP):
                raise self._corrupt("bytes behind its end")
        if data:
            self._members += 1
            if self._members > FREE_MEMBERS + self.produced // MIN_MEMBER_BYTES:
                raise self._corrupt("too many empty parts")
            self._member = _member(self._encoding)
        return data

    def _counted(self, piece: bytes) -> Iterator[bytes]:
        self.produced += len(piece)
        if self.produced > self._limit:
            raise RookeryError(
                TOO_LARGE, f"the body is larger than {self._limit:,} bytes when opened", hint="send it in parts"
            )
        if piece:
            yield piece

    def _corrupt(self, why: str) -> RookeryError:
        return RookeryError(BAD_ENCODING, f"the {self._encoding} stream is corrupt: {why}")


def _undecided(first: bytes) -> bool:
    return any(magic.startswith(first) for magic in (_GZIP, _ZSTD))


def decompressor(encoding: str, limit: int) -> Opened:
    """What opens a body under a Content-Encoding, up to `limit` bytes. Raises RK5007 for an unknown one."""
    return Opened(encoding, limit)


def open_chunks(chunks: Iterable[bytes], encoding: str, limit: int) -> Iterator[bytes]:
    """Chunks of a body, opened, in pieces of at most 1 MiB. Raises RK5004, RK5007."""
    opened = Opened(encoding, limit)
    for chunk in chunks:
        yield from opened.pieces(chunk)
    if left := opened.finish():
        yield left
