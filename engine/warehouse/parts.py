"""Whether the files of a part are as long as the engine meant them to be.

Engine 26.9 stores a part, and says so, although a write into one of its files has failed. The lengths that most files
should have are in `checksums.txt`; a few small ones that it does not name tell by their text whether they are whole.
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
_HASH = 16
NEVER_EMPTY = (
    "columns.txt",
    "columns_substreams.txt",
    "count.txt",
    "default_compression_codec.txt",
    "metadata_version.txt",
    "partition.dat",
    "serialization.json",
)
"""Files that the checksums need not name."""
_COUNT = re.compile(r"(\d+) (?:columns:|substreams for column )")


def why_damaged(part: Path) -> str | None:
    """What is wrong with a part's files; None if nothing is, or the part is gone. Contents are not compared."""
    try:
        sizes = _sizes((part / CHECKSUMS).read_bytes())
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing" if part.is_dir() else None
    except (ValueError, IndexError, struct.error, OSError, pyarrow.ArrowException):
        return f"{CHECKSUMS} cannot be read"
    if sizes is None:
        return None
    for name, size in {**dict.fromkeys(NEVER_EMPTY, -1), **sizes}.items():
        try:
            found = (part / name).stat().st_size
        except OSError:
            if not part.is_dir():
                return None
            if size >= 0:
                return f"{name} is missing"
            continue
        if found != size if size >= 0 else not found:
            return f"{name} has {found} bytes" + (f" of {size}" if size >= 0 else "")
    return _why_cut_off(part, sizes)


def _why_cut_off(part: Path, sizes: Collection[str]) -> str | None:
    """What is wrong with the files that have no checksum."""
    for name, whole in _WHOLE.items():
        try:
            if name not in sizes and not whole((part / name).read_text(encoding="utf-8", errors="replace")):
                return f"{name} is cut off"
        except OSError:
            continue
    return None


def _has_all_columns(text: str) -> bool:
    """Whether a list of columns is as long as its first lines say: one line each, and one for each substream."""
    version, ended, rest = text.partition("\n")
    if ended and not version.endswith("version: 1"):
        return True
    lines = rest.split("\n")
    wanted = sum(int(found[1]) for line in lines if (found := _COUNT.match(line)) is not None)
    return lines.pop() == "" and len(lines) > wanted > 0


_WHOLE: dict[str, Callable[[str], bool]] = {
    "columns.txt": _has_all_columns,
    "columns_substreams.txt": _has_all_columns,
    "default_compression_codec.txt": lambda text: text.rstrip().endswith(")"),
}


def _sizes(text: bytes) -> dict[str, int] | None:
    """Sizes of files by name; None for a format that is not known. Raises on anything that is cut off."""
    version, _, body = text.partition(b"\n")
    if version != _VERSION:
        if not text or _VERSION.startswith(version):
            raise ValueError("the file is cut off")
        return None
    return _Reader(_unpacked(body)).entries()


def _unpacked(body: bytes) -> bytes:
    data = b""
    while body:
        method = body[_HASH]
        packed, size = struct.unpack("<II", body[_HASH + 1 : _HASH + 9])
        payload = body[_HASH + 9 : _HASH + packed]
        if len(payload) != packed - 9:
            raise ValueError("the file is cut off")
        data += payload if method == _NONE else pyarrow.Codec(_CODECS[method]).decompress(payload, size).to_pybytes()
        body = body[_HASH + packed :]
    return data


class _Reader:
    """Reads numbers and texts as the engine writes them."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def entries(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for _ in range(self._number()):
            length = self._number()
            name = self._data[self._at : self._at + length].decode()
            self._at += length
            size = self._number()
            if not name.endswith(".proj"):
                # A projection is a directory with checksums of its own.
                found[name] = size
            self._at += _HASH
            packed = self._data[self._at]
            self._at += 1
            if packed:
                self._number()
                self._at += _HASH
        return found

    def _number(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
