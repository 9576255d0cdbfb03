"""The program of a separate process that reads a large Parquet file from stdin and writes smaller ones to stdout.

A few bytes of a Parquet file can expand to any size, and the library cannot limit that. The operating system limits
the memory of this process, and a crash of the library ends only this process. The command-line arguments are those of
`main`, the plan as JSON. Stdout receives the parts, each a length of eight bytes and a Parquet file. Length zero
follows the last part. FAILURE_MARK instead of a length is followed by the reason: a word, a space, and a detail.
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

from engine.ingest.formats.parquet_shapes import BadShape, ParquetPlan, reshape

LENGTH_BYTES = 8
FAILURE_MARK = (1 << 64) - 1
"""Written instead of a length if the reason for a failure follows."""
PART_ROWS = 100_000
"""Rows of one part."""
READ_BUFFER_BYTES = 1 << 20
"""Bytes that are read from a column at once."""


READ_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError)
"""The exceptions that a broken Parquet file may raise."""


class TotalExceeded(Exception):
    """The rows exceed the maximum size."""


def main(memory: int, total: int, plan: ParquetPlan) -> None:
    """Write the parts of the file. It may allocate `memory` bytes, and its rows may have `total` bytes."""
    pa.set_cpu_count(1)
    pa.set_memory_pool(pa.system_memory_pool())
    # The library loads modules at first use. They are loaded now, so that they do not count against the limit.
    pq.write_table(pa.table({"a": pa.array(["a"]).dictionary_encode()}), io.BytesIO())
    # Without /proc, as on macOS, only the declared and the counted sizes limit what is read.
    with suppress(FileNotFoundError):
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))
    # A crash is expected, and must not leave a file with the process's memory.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open(0, "rb", closefd=False) as file:
            for part in unpack(file, total, plan):
                _put(part)
        _put(b"")
    except MemoryError:
        _fail("memory", "")
    except TotalExceeded as exc:
        _fail("total", str(exc))
    except BadShape as exc:
        _fail("shape", str(exc)[:300])
    except READ_ERRORS as exc:
        _fail("unreadable", str(exc)[:300])


def unpack(file: BinaryIO, total: int, plan: ParquetPlan) -> Iterator[bytes]:
    """Yield the parts of a file, reshaped as planned.

    Raises TotalExceeded, BadShape, or one of READ_ERRORS if it is not a Parquet file.
    """
    texts = [f.name for f in pq.read_schema(file) if f.type in (pa.string(), pa.binary(), pa.large_string())]
    file.seek(0)
    # A dictionary keeps one copy of a long string that many rows share.
    parquet = pq.ParquetFile(file, read_dictionary=texts, buffer_size=READ_BUFFER_BYTES)
    _check_total(total, _declared_bytes(parquet.metadata))
    row_bytes = 0
    for batch in parquet.iter_batches(batch_size=PART_ROWS, use_threads=False):
        # The sizes that the file declares may be wrong, so the rows are counted too.
        row_bytes += max(batch.nbytes, batch.num_rows * batch.num_columns)
        _check_total(total, row_bytes)
        if plan.columns:
            batch = reshape(batch, plan)
            row_bytes += batch.nbytes
            _check_total(total, row_bytes)
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_batches([batch]), sink)
        yield sink.getvalue()


def _declared_bytes(metadata: pq.FileMetaData) -> int:
    """Return the size of the rows that the file declares. Each value counts as at least one byte, even if it takes
    less when it is compressed.
    """
    groups = (metadata.row_group(n) for n in range(metadata.num_row_groups))
    return max(int(metadata.num_rows * metadata.num_columns), sum(int(g.total_byte_size) for g in groups))


def _check_total(total: int, size: int) -> None:
    """Raise TotalExceeded for more bytes than are allowed."""
    if size > total:
        raise TotalExceeded(size)


def _put(part: bytes) -> None:
    """Write one part to the parent process: its length, then its bytes."""
    sys.stdout.buffer.write(len(part).to_bytes(LENGTH_BYTES, "big"))
    sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


def _fail(kind: str, detail: str) -> None:
    """Write the reason why the file cannot be split, instead of a part."""
    sys.stdout.buffer.write(FAILURE_MARK.to_bytes(LENGTH_BYTES, "big"))
    sys.stdout.buffer.write(f"{kind} {detail}".encode())
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), ParquetPlan.of_json(sys.argv[3]))
