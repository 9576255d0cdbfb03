"""Compressed bodies: any chunk sizes, broken streams, and bounds on what they expand to."""

from __future__ import annotations

import gzip
import sys
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BAD_ENCODING, TOO_LARGE, RookeryError
from engine.ingest.formats.compression import OUTPUT_BYTES, Decompressor, sniff_encoding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd
from tests.ingest.bodies import chunked, chunks, quick


def packed(encoding: str, body: bytes) -> bytes:
    if encoding == "gzip":
        return gzip.compress(body, 1)
    return zstd.compress(body) if encoding == "zstd" else body


def decompressed(chunks: Iterable[bytes], encoding: str, limit: int) -> Iterator[bytes]:
    decompressor = Decompressor(encoding, limit)
    for chunk in chunks:
        yield from decompressor.decompress(chunk)
    yield decompressor.finish()


def refused(encoding: str, parts: list[bytes], limit: int = 1000) -> RookeryError:
    with pytest.raises(RookeryError) as caught:
        list(decompressed(parts, encoding, limit))
    return caught.value


packings = pytest.mark.parametrize("encoding", ["gzip", "zstd"])


@quick
@given(st.lists(st.binary(max_size=60), max_size=4), chunks, st.sampled_from(["", "identity", "gzip", "zstd"]))
def test_decompressed_bodies_equal_the_originals(members: list[bytes], sizes: list[int], encoding: str) -> None:
    body = b"".join(packed(encoding, m) for m in members)
    whole = b"".join(members)
    if encoding == "" and sniff_encoding(whole):
        return
    assert b"".join(decompressed(chunked(body, sizes), encoding.upper(), 1000)) == whole
    unsaid = encoding if encoding == "identity" or not body else ""
    assert b"".join(decompressed(chunked(body, sizes), unsaid, 1000)) == whole
    assert b"".join(decompressed([body], unsaid, len(whole))) == whole
    if whole:
        assert refused(encoding, [body], len(whole) - 1).code is TOO_LARGE


@packings
def test_broken_streams(encoding: str) -> None:
    body = packed(encoding, bytes(range(256)))
    for at in range(1, len(body)):
        error = refused(encoding, [body[:at]])
        assert (error.code, "truncated" in error.message) == (BAD_ENCODING, True)
    for broken in (b"{}" + body, body[:1] + b"\0" + body[2:], body + b"garbage"):
        error = refused(encoding, [broken])
        assert (error.code, "corrupt" in error.message) == (BAD_ENCODING, True)


def test_gzip_checksums_are_verified_and_padding_is_allowed() -> None:
    body = gzip.compress(b"abc")
    assert "corrupt" in refused("gzip", [body[:-5] + b"\0\0\0\0\0"]).message
    assert b"".join(decompressed([body + b"\0" * 9, b"\0", body], "x-gzip", 6)) == b"abcabc"
    assert "truncated" in refused("gzip", [body + b"\x1f"]).message


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "é" * 100])
def test_unknown_encodings(encoding: str) -> None:
    assert refused(encoding, []).code is BAD_ENCODING


@packings
def test_a_decompression_bomb_is_refused(encoding: str) -> None:
    bomb = packed(encoding, bytes(100 << 20))
    tracemalloc.start()
    with pytest.raises(RookeryError, match="larger"):
        sum(map(len, decompressed([bomb], encoding, 50 << 20)))
    assert sum(map(len, decompressed([bomb], encoding, 200 << 20))) == 100 << 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * OUTPUT_BYTES
    assert max(map(len, Decompressor(encoding, 200 << 20).decompress(bomb))) <= OUTPUT_BYTES


@packings
def test_many_empty_members_are_refused(encoding: str) -> None:
    assert "empty" in refused(encoding, [packed(encoding, b"") * 100_000]).message


def test_a_large_decompression_window_is_refused() -> None:
    options = {zstd.CompressionParameter.window_log: 25}
    packer = zstd.ZstdCompressor(options=options)
    assert "8 MiB" in refused("zstd", [packer.compress(b"x" * 1000) + packer.flush()]).message
