"""The program of a separate process that reads a large Parquet file and writes smaller ones to stdout.

A few bytes of a Parquet file can expand to any size, and the library cannot limit that. The operating system limits
the memory of this process, and a crash of the library ends only this process. The command-line arguments are the
file's descriptor and the numbers of the limits and the start; stdin has the plan as JSON. Stdout receives the parts,
each a HEADER and a Parquet file. A header with length zero follows the last part. FAILURE_MARK instead of a length is
followed by the reason: a word, a space, and a detail.
"""

from __future__ import annotations

import io
import math
import resource
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from engine.ingest.formats.parquet_shapes import BadShape, DeepLists, ParquetPlan, reshape

HEADER = struct.Struct(">4Q")
"""In front of a part: its length, and the place where it ends."""
FAILURE_MARK = (1 << 64) - 1
"""Written instead of a length if the reason for a failure follows."""
PART_ROWS = 100_000
"""Maximum number of rows of one part."""
RUN_BYTES = 32 << 20
"""Maximum size of several row groups that are read together, as they declare it."""
MAX_LIST_LENGTH = 30_000
"""Maximum number of row groups of a file, of its columns and fields, and of anything else that its metadata list."""
READ_BUFFER_BYTES = 1 << 20
"""Bytes that are read from a column at once."""


READ_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError)
"""The exceptions that a broken Parquet file may raise."""


class Limits(NamedTuple):
    """What reading a file may take."""

    memory: int
    """Bytes of memory."""
    total: int
    """Bytes of all rows, decompressed."""
    seconds: int = 1 << 31
    """Seconds of CPU time."""
    part_seconds: int = 30
    """Seconds of CPU time for each part: a row may decompress for seconds."""


class Place(NamedTuple):
    """A place between two parts of a file, at which reading can begin."""

    run: int = 0
    """The number of the run (see `_runs`)."""
    parts: int = 0
    """The parts of this run before the place."""
    row_bytes: int = 0
    """The size of all rows before the place."""


BEGINNING = Place()
END = Place(run=MAX_LIST_LENGTH + 1)
"""Behind all runs of any file."""


class Part(NamedTuple):
    """A Parquet file with some of the rows of a larger one."""

    data: bytes
    end: Place
    """The place where these rows end."""


class ListTooLong(ValueError):
    """A list in the metadata is too long."""


class TotalExceeded(Exception):
    """The rows exceed the maximum size."""


def main(descriptor: int, plan: ParquetPlan, limits: Limits, start: Place) -> None:
    """Write the parts of a file that follow a place."""
    pa.set_cpu_count(1)
    pa.set_memory_pool(pa.system_memory_pool())
    # The library loads modules at first use. They are loaded now, so that they do not count against the limit.
    pq.write_table(pa.table({"a": pa.array(["a"]).dictionary_encode()}), io.BytesIO())
    # Without /proc, as on macOS, only the declared and the counted sizes limit what is read.
    with suppress(FileNotFoundError):
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + limits.memory, size + limits.memory))
    end = time.process_time() + limits.seconds
    # The parts before the place are read too.
    _limit_time(end, limits.part_seconds * (start.parts + 1))
    # A crash is expected, and must not leave a file with the process's memory.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open(descriptor, "rb") as file:
            for part in unpack(file, limits.total, plan, start):
                _put(*part)
                _limit_time(end, limits.part_seconds)
        _put(b"")
    except MemoryError:
        _fail("memory", "")
    except TotalExceeded as exc:
        _fail("total", str(exc))
    except ListTooLong:
        _fail("list", "")
    except DeepLists as exc:
        _fail("deep", str(exc)[:300])
    except BadShape as exc:
        _fail("shape", str(exc)[:300])
    except READ_ERRORS as exc:
        # The library reports a lack of memory for the metadata as broken metadata.
        _fail("memory" if "bad_alloc" in str(exc) else "unreadable", str(exc)[:300])


def _limit_time(end: float, seconds: int) -> None:
    """Let this process take so many more seconds of CPU time, but none after `end`."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(min(end, time.process_time() + seconds))
    resource.setrlimit(resource.RLIMIT_CPU, (soft if most == resource.RLIM_INFINITY else min(soft, most), most))


def unpack(file: BinaryIO, total: int, plan: ParquetPlan, start: Place = BEGINNING) -> Iterator[Part]:
    """Yield the parts of a file after a place, reshaped as planned. The parts are the same from wherever it starts.

    Raises TotalExceeded, BadShape, or one of READ_ERRORS if it is not a Parquet file.
    """
    plain = open_parquet(file)
    _check_total(total, declared_bytes(plain.metadata))
    # A dictionary keeps one copy of a long string that many rows share.
    texts = [f.name for f in plain.schema_arrow if f.type in (pa.string(), pa.binary(), pa.large_string())]
    parquet = open_parquet(file, texts)
    row_bytes = start.row_bytes
    for run, groups in enumerate(_runs(plain.metadata)):
        if run < start.run:
            continue
        rows, declared = 0, sum(plain.metadata.row_group(group).num_rows for group in groups)
        for number, batch in enumerate(_batches(parquet, plain, groups), 1):
            rows += batch.num_rows
            if run == start.run and number <= start.parts:
                continue
            # The sizes that the file declares may be wrong, so the rows are counted too.
            row_bytes += max(batch.nbytes, batch.num_rows * batch.num_columns)
            _check_total(total, row_bytes)
            if plan.columns:
                batch = reshape(batch, plan)
                row_bytes += batch.nbytes
                _check_total(total, row_bytes)
            sink = io.BytesIO()
            # Without the metadata of the file's writer, which may be large.
            pq.write_table(pa.Table.from_batches([batch.replace_schema_metadata()]), sink)
            yield Part(sink.getvalue(), Place(run, number, row_bytes))
        if rows != declared:
            # The library ends at the last value that it finds.
            raise ValueError(f"the number of rows is {rows:,}, and not {declared:,} as declared")


def _runs(metadata: pq.FileMetaData) -> Iterator[list[int]]:
    """Yield the row groups that are read together: one, or several small ones that follow each other."""
    run: list[int] = []
    rows = size = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if run and (rows + group.num_rows > PART_ROWS or size + group.total_byte_size > RUN_BYTES):
            yield run
            run, rows, size = [], 0, 0
        run.append(number)
        rows += group.num_rows
        size += group.total_byte_size
    if run:
        yield run


def open_parquet(file: BinaryIO, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """Open a file whose columns of these names are read as dictionaries. Raises ListTooLong or one of READ_ERRORS."""
    file.seek(0)
    try:
        return pq.ParquetFile(
            file,
            read_dictionary=list(dictionaries),
            buffer_size=READ_BUFFER_BYTES,
            # It reads whole row groups into memory, and in other threads.
            pre_buffer=False,
            # A column takes 1.6 KiB, and as little as ten bytes in the file.
            thrift_container_size_limit=MAX_LIST_LENGTH,
        )
    except OSError as exc:
        if "Exceeded size limit" in str(exc):
            raise ListTooLong(str(exc)) from exc
        raise


def _batches(parquet: pq.ParquetFile, plain: pq.ParquetFile, groups: list[int]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a run, from the file that is opened with dictionaries, or else from the plain one."""
    done = 0
    try:
        for batch in _batches_of(parquet, groups):
            yield batch
            done += 1
    except OSError as exc:
        # The library does not read all encodings of texts as dictionaries.
        if "Not yet implemented" not in str(exc):
            raise
        yield from islice(_batches_of(plain, groups), done, None)


def _batches_of(parquet: pq.ParquetFile, groups: list[int]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a run of an opened file."""
    if len(groups) == 1:
        yield from parquet.iter_batches(batch_size=PART_ROWS, row_groups=groups, use_threads=False)
        return
    # One after the other, because the library cannot read nested dictionaries of several groups at once.
    tables = [parquet.read_row_group(group, use_threads=False) for group in groups]
    yield from pa.concat_tables(tables).combine_chunks().to_batches(max_chunksize=PART_ROWS)


def declared_bytes(metadata: pq.FileMetaData) -> int:
    """Return the size of the rows that the file declares. Each value counts as at least one byte, even if it takes
    less when it is compressed.
    """
    groups = (metadata.row_group(n) for n in range(metadata.num_row_groups))
    return max(int(metadata.num_rows * metadata.num_columns), sum(int(g.total_byte_size) for g in groups))


def _check_total(total: int, size: int) -> None:
    """Raise TotalExceeded for more bytes than are allowed."""
    if size > total:
        raise TotalExceeded(size)


def _put(data: bytes, end: Place = BEGINNING) -> None:
    """Write one part to the parent process. Without data, the end."""
    sys.stdout.buffer.write(HEADER.pack(len(data), *end))
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _fail(kind: str, detail: str) -> None:
    """Write the reason why the file cannot be split, instead of a part."""
    sys.stdout.buffer.write(HEADER.pack(FAILURE_MARK, *BEGINNING))
    sys.stdout.buffer.write(f"{kind} {detail}".encode())
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:]]
    main(numbers[0], ParquetPlan.of_json(sys.stdin.read()), Limits(*numbers[1:5]), Place(*numbers[5:]))
