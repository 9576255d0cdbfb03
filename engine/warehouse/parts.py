"""Checks that the files of a part are complete.

ClickHouse 26.9 stores a part and reports success even if a write to one of its files has failed. `checksums.txt` has
the expected lengths of most files. A few small files are not listed; their contents show whether they are complete.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection
from pathlib import Path

import pyarrow

CHECKSUMS = "checksums.txt"
_VERSION = b"checksums format version: 4"
_CODECS = {0x82: "lz4_raw", 0x90: "zstd"}
_NONE = 0x02
_HASH_BYTES = 16
NEVER_EMPTY = (
    "columns.txt",
    "columns_substreams.txt",
    "count.txt",
    "default_compression_codec.txt",
    "metadata_version.txt",
    "partition.dat",
    "serialization.json",
)
"""Files that `checksums.txt` may not list, but that must not be empty if they exist."""
_COUNT = re.compile(r"(\d+) (?:columns:|substreams for column )")


def why_damaged(part: Path) -> str | None:
    """What is wrong with the files of a part; None if they are complete, or the part no longer exists.

    Only lengths are checked, not the checksums of the contents.
    """
    try:
        sizes = _sizes((part / CHECKSUMS).read_bytes())
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing" if part.is_dir() else None
    except (ValueError, IndexError, struct.error, OSError, pyarrow.ArrowException):
        return f"{CHECKSUMS} cannot be read"
    if sizes is None:
        return None
    # The size is -1 for files whose length is unknown.
    for name, size in {**dict.fromkeys(NEVER_EMPTY, -1), **sizes}.items():
        try:
            actual = (part / name).stat().st_size
        except OSError:
            # A merge may remove the part at any time.
            if not part.is_dir():
                return None
            if size >= 0:
                return f"{name} is missing"
            continue
        if actual != size if size >= 0 else not actual:
            return f"{name} has {actual} bytes" + (f" of {size}" if size >= 0 else "")
    return _why_truncated(part, sizes)


def _why_truncated(part: Path, sizes: Collection[str]) -> str | None:
    """What is wrong with the files that `checksums.txt` does not list."""
    for name, is_complete in _COMPLETENESS_CHECKS.items():
        try:
            if name not in sizes and not is_complete((part / name).read_text(encoding="utf-8", errors="replace")):
                return f"{name} is truncated"
        except OSError:
            continue
    return None


def _has_all_columns(text: str) -> bool:
    """Whether a list of columns has as many lines as its headings state, for columns and their substreams."""
    version, ended, content = text.partition("\n")
    if ended and not version.endswith("version: 1"):
        return True
    lines = content.split("\n")
    announced = sum(int(count[1]) for line in lines if (count := _COUNT.match(line)) is not None)
    return lines.pop() == "" and len(lines) > announced > 0


_COMPLETENESS_CHECKS: dict[str, Callable[[str], bool]] = {
    "columns.txt": _has_all_columns,
    "columns_substreams.txt": _has_all_columns,
    "default_compression_codec.txt": lambda text: text.rstrip().endswith(")"),
}


def _sizes(text: bytes) -> dict[str, int] | None:
    """Parse `checksums.txt` into file sizes by name; None if its format is unknown. Raises if it is truncated."""
    version, _, body = text.partition(b"\n")
    if version != _VERSION:
        if not text or _VERSION.startswith(version):
            raise ValueError("the file is truncated")
        return None
    return _Reader(_decompressed(body)).entries()


def _decompressed(body: bytes) -> bytes:
    """Decompress blocks of: hash, method, compressed size (which includes the 9 bytes of header), size, payload."""
    data = b""
    while body:
        method = body[_HASH_BYTES]
        packed, size = struct.unpack("<II", body[_HASH_BYTES + 1 : _HASH_BYTES + 9])
        payload = body[_HASH_BYTES + 9 : _HASH_BYTES + packed]
        if len(payload) != packed - 9:
            raise ValueError("the file is truncated")
        if method != _NONE and method not in _CODECS:
            raise ValueError(f"the codec {method} is unknown")
        data += payload if method == _NONE else pyarrow.Codec(_CODECS[method]).decompress(payload, size).to_pybytes()
        body = body[_HASH_BYTES + packed :]
    return data


class _Reader:
    """Parses the engine's binary format of numbers and strings."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def entries(self) -> dict[str, int]:
        """The sizes of all listed files, by name."""
        sizes: dict[str, int] = {}
        for _ in range(self._number()):
            length = self._number()
            name = self._data[self._at : self._at + length].decode()
            self._at += length
            size = self._number()
            if not name.endswith(".proj"):
                # A projection is a directory with its own checksums.
                sizes[name] = size
            self._at += _HASH_BYTES
            compressed = self._data[self._at]
            self._at += 1
            if compressed:
                self._number()
                self._at += _HASH_BYTES
        return sizes

    def _number(self) -> int:
        """Read a number in groups of seven bits, lowest first."""
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
