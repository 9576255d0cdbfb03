"""A process of its own that opens a large Parquet file, which it has as stdin; its arguments are those of `main`.

A few bytes of such a file may stand for any number of others, and the library has no limit of its own. Here the
operating system sets one, and a crash of the library ends this process only. On stdout come pieces, each a length of
eight bytes and a Parquet file. Length zero ends them; after the largest length comes the reason why there are no
more: a word, a blank, and what else is known.
"""

from __future__ import annotations

import io
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

LENGTH = 8
FAILED = (1 << 64) - 1
"""In place of a length: a reason follows."""
ROWS = 100_000
"""Rows of a piece."""
BUFFER = 1 << 20
"""Bytes of a column that are read at once."""


UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError)
"""What a broken Parquet file may raise."""


class TotalExceeded(Exception):
    """The rows are larger than they may be."""


def main(memory: int, total: int) -> None:
    """Open the file with so many bytes of memory, as long as its rows are so many bytes at most."""
    pa.set_cpu_count(1)
    pa.set_memory_pool(pa.system_memory_pool())
    # The library loads parts of itself at first use, which would count.
    pq.write_table(pa.table({"a": pa.array(["a"]).dictionary_encode()}), io.BytesIO())
    with suppress(FileNotFoundError):
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open(0, "rb", closefd=False) as file:
            for piece in unpack(file, total):
                _put(piece)
        _put(b"")
    except MemoryError:
        _fail("memory", "")
    except TotalExceeded as exc:
        _fail("total", str(exc))
    except UNREADABLE as exc:
        _fail("unreadable", str(exc)[:300])


def unpack(file: BinaryIO, total: int) -> Iterator[bytes]:
    """The pieces of a file. Raises TotalExceeded, or one of UNREADABLE for what is no Parquet file."""
    texts = [f.name for f in pq.read_schema(file) if f.type in (pa.string(), pa.binary(), pa.large_string())]
    file.seek(0)
    # A long text that many rows share stays in a dictionary.
    found = pq.ParquetFile(file, read_dictionary=texts, buffer_size=BUFFER)
    _hold_to(total, _declared(found.metadata))
    opened = 0
    for batch in found.iter_batches(batch_size=ROWS, use_threads=False):
        # What the file declares may be wrong.
        opened += max(batch.nbytes, batch.num_rows * batch.num_columns)
        _hold_to(total, opened)
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_batches([batch]), sink)
        yield sink.getvalue()


def _declared(metadata: pq.FileMetaData) -> int:
    """Bytes of the rows as the file declares them; a value takes one at least, however it is packed."""
    groups = (metadata.row_group(n) for n in range(metadata.num_row_groups))
    return max(int(metadata.num_rows * metadata.num_columns), sum(int(g.total_byte_size) for g in groups))


def _hold_to(total: int, size: int) -> None:
    if size > total:
        raise TotalExceeded(size)


def _put(piece: bytes) -> None:
    sys.stdout.buffer.write(len(piece).to_bytes(LENGTH, "big"))
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def _fail(kind: str, detail: str) -> None:
    sys.stdout.buffer.write(FAILED.to_bytes(LENGTH, "big"))
    sys.stdout.buffer.write(f"{kind} {detail}".encode())
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
