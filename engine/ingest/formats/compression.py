"""Decompresses request bodies chunk by chunk, and never beyond a limit."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from typing import Protocol

from engine.errors import BAD_ENCODING, TOO_LARGE, RookeryError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OUTPUT_BYTES = 1 << 20
"""Maximum bytes that one step of decompression returns."""
INPUT_BYTES = 1 << 15
"""Number of bytes passed to a library at once. Each new member of a stream copies the remaining ones."""
FREE_MEMBERS = 1000
"""Number of members that a body may have regardless of their size."""
MIN_AVERAGE_MEMBER_BYTES = 64
"""Average size in bytes that members beyond FREE_MEMBERS must have: opening a member takes more time than its size
suggests.
"""
MAX_WINDOW_LOG = 23
"""Maximum window of Zstandard, as a power of two: 8 MiB, as HTTP allows (RFC 9659). Each body may use that memory."""

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_NAMES = {"": "", "identity": "identity", "gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}


class _Member(Protocol):
    """The decompressor of one gzip member or one Zstandard frame."""

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
        # zlib returns the input that it has not processed; Zstandard keeps it.
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def _member(encoding: str) -> _Member:
    if encoding == "gzip":
        return _Gzip()
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG})


def sniff_encoding(first: bytes) -> str:
    """Return the encoding that a body's first bytes show: `gzip`, `zstd`, or an empty string for any other body."""
    if first.startswith(_GZIP):
        return "gzip"
    return "zstd" if first.startswith(_ZSTD) else ""


class Decompressor:
    """Decompresses one body that arrives in chunks. The event loop runs it, so each step is short.

    `encoding` is the request's Content-Encoding; if it is empty, the first bytes decide. Bodies that are not
    compressed pass unchanged. Every method raises RK5004 if the output exceeds `limit` bytes, and RK5007 if the
    encoding is unknown, or the stream is corrupt or truncated.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        name = encoding.strip().lower()
        if name not in _NAMES:
            raise RookeryError(
                BAD_ENCODING,
                f"unknown Content-Encoding {encoding[:40]!r}",
                hint="use gzip or zstd, or send the body uncompressed",
            )
        self._encoding, self._limit = _NAMES[name], limit
        # The first bytes, until they decide the encoding; None once it is known.
        self._first: bytes | None = None if self._encoding else b""
        self._member: _Member | None = None
        self._members = 0
        # The first byte after a gzip member, kept until the second one shows whether another member begins.
        self._between = b""
        # Bytes of output so far.
        self._produced = 0

    @property
    def window_bytes(self) -> int:
        """Bytes of earlier output that the library keeps. Those of gzip are not worth counting."""
        is_open = self._member is not None and self._encoding == "zstd"
        return min(self._produced, 1 << MAX_WINDOW_LOG) if is_open else 0

    def decompress(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the output for a chunk, at most OUTPUT_BYTES at a time. Exhaust it before the next chunk."""
        if self._first is not None:
            self._first += chunk
            if len(self._first) < len(_ZSTD) and _undecided(self._first):
                return
            self._encoding = sniff_encoding(self._first) or "identity"
            chunk, self._first = self._first, None
        if self._encoding == "identity":
            yield from self._counted(chunk)
            return
        for at in range(0, len(chunk), INPUT_BYTES):
            yield from self._decompressed(chunk[at : at + INPUT_BYTES])

    def finish(self) -> bytes:
        """End the body after its last chunk, and return the output that remains."""
        if self._first:
            undecided, self._first = self._first, None
            return b"".join(self._counted(undecided))
        if self._member is not None or self._between:
            raise RookeryError(BAD_ENCODING, f"the {self._encoding} stream is truncated", hint="send it completely")
        return b""

    def _decompressed(self, data: bytes) -> Iterator[bytes]:
        while data or self._member is not None:
            if self._member is None:
                data = self._begin_member(data)
                if self._member is None:
                    return
            max_output = min(OUTPUT_BYTES, self._limit - self._produced + 1)
            try:
                output = self._member.decompress(data, max_output)
            except zlib.error as exc:
                raise self._corrupt(str(exc)) from exc
            except zstd.ZstdError as exc:
                raise self._corrupt(f"{exc} (the window may be at most 8 MiB)") from exc
            data = b""
            yield from self._counted(output)
            if self._member.eof:
                data, self._member = self._member.unused_data, None
            elif len(output) < max_output:
                return

    def _begin_member(self, data: bytes) -> bytes:
        """Begin a member at the first byte of the data, after the zeros that may pad a gzip file.

        Returns the data from there on; no member has begun if it is empty.
        """
        data = self._between + data
        self._between = b""
        if self._encoding == "gzip" and self._members:
            data = data.lstrip(b"\0")
            if len(data) == 1 and _GZIP.startswith(data):
                self._between = data
                return b""
            if data and not data.startswith(_GZIP):
                raise self._corrupt("there are bytes after its end")
        if data:
            self._members += 1
            if self._members > FREE_MEMBERS + self._produced // MIN_AVERAGE_MEMBER_BYTES:
                raise self._corrupt("too many empty parts")
            self._member = _member(self._encoding)
        return data

    def _counted(self, output: bytes) -> Iterator[bytes]:
        self._produced += len(output)
        if self._produced > self._limit:
            raise RookeryError(
                TOO_LARGE,
                f"the decompressed body is larger than {self._limit:,} bytes",
                hint="send it in parts",
            )
        if output:
            yield output

    def _corrupt(self, why: str) -> RookeryError:
        return RookeryError(BAD_ENCODING, f"the {self._encoding} stream is corrupt: {why}")


def _undecided(first: bytes) -> bool:
    return any(magic.startswith(first) for magic in (_GZIP, _ZSTD))
