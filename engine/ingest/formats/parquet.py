"""Splits Parquet files that are too large for one INSERT, or that must be reshaped, into smaller Parquet files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, BinaryIO

from engine.errors import BAD_ROW, PARQUET_TOO_LARGE, RookeryError
from engine.ingest.formats import parquet_process
from engine.ingest.formats.parquet_process import (
    BEGINNING,
    END,
    FAILURE_MARK,
    HEADER,
    MAX_LIST_LENGTH,
    Limits,
    Part,
    Place,
)
from engine.ingest.formats.parquet_shapes import UNCHANGED, ParquetPlan

SMALL_ROWS_BYTES = 16 << 20
"""Maximum size of the rows of a small file, decompressed. Each value counts as at least one byte."""
_SMALL_LIMITS = Limits(memory=256 << 20, total=SMALL_ROWS_BYTES, seconds=3)
"""What reading a small file may take."""
_METADATA_MEMORY = 1280 << 20
"""Maximum memory of a process that reads metadata. It takes twice as much as they do, since it opens a file twice."""
_MAX_REASON_BYTES = 4096
_IMPORT_ROOT = Path(__file__).resolve().parents[3]
"""The directory from which this package is imported."""
_RUN = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); sys.modules['numpy'] = None; "
    f"runpy.run_module({parquet_process.__name__!r}, run_name='__main__')"
)
"""A program that runs `parquet_process` of the package in the directory that is its first argument.

The library works without numpy, whose import takes a third of the start.
"""


def check_metadata(file: BinaryIO, limits: Limits) -> None:
    """Read metadata in a process, because a few bytes may take any amount of memory. Raises RK5001 and RK5030."""
    for _ in split_parquet(file, limits._replace(memory=min(limits.memory, _METADATA_MEMORY)), start=END):
        pass


def read_small(file: BinaryIO, limits: Limits, plan: ParquetPlan = UNCHANGED) -> list[bytes] | None:
    """Return all parts of a file that declares small rows; see `split_parquet`.

    None if the file has more than it declares, so that reading it exceeds what a small file may take.
    """
    small = Limits(*(min(own, any_file) for own, any_file in zip(_SMALL_LIMITS, limits, strict=True)))
    try:
        return [part.data for part in split_parquet(file, small, plan)]
    except RookeryError as exc:
        if exc.code is not PARQUET_TOO_LARGE:
            raise
        return None


def split_parquet(
    file: BinaryIO, limits: Limits, plan: ParquetPlan = UNCHANGED, start: Place = BEGINNING
) -> Generator[Part]:
    """Yield the rows of a file on disk, in order and reshaped as planned, as smaller Parquet files.

    A separate process reads the file within the limits; it ends when the generator is closed. Reading can begin again
    at the end of any part. Raises RK5001 if the file is not a Parquet file or cannot be reshaped, and RK5030 if it
    exceeds a limit.
    """
    process = _started(file, plan, (*limits, *start))
    assert process.stdout is not None
    try:
        while True:
            length, *end = HEADER.unpack(_read(process.stdout, HEADER.size, limits))
            if length == FAILURE_MARK:
                raise _refused(process.stdout.read(_MAX_REASON_BYTES).decode(errors="replace"), limits)
            if not length:
                return
            yield Part(_read(process.stdout, length, limits), Place(*end))
    finally:
        with suppress(ProcessLookupError):
            # Done even if the generator is closed early because the client has disconnected.
            process.kill()
        process.stdout.close()
        process.wait()


def _started(file: BinaryIO, plan: ParquetPlan, numbers: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """Start a process that reads a file, because the library allocates as much memory as the file declares: a hostile
    file would end this process.
    """
    file.seek(0)
    # With -P, no module is imported from the current directory.
    command = [sys.executable, "-P", "-c", _RUN, str(_IMPORT_ROOT), *map(str, (file.fileno(), *numbers))]
    # The plan of a datasource with many columns is too long for a command line.
    with TemporaryFile() as plan_file:
        plan_file.write(plan.as_json().encode())
        plan_file.seek(0)
        return subprocess.Popen(
            command, stdin=plan_file, pass_fds=[file.fileno()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )


def _read(stream: IO[bytes], length: int, limits: Limits) -> bytes:
    """Read exactly `length` bytes. Raises RK5030 if the process ends earlier, because it ran out of memory or
    crashed.
    """
    # A process that crashes may have written any length, so this one does not allocate whatever it says.
    data = stream.read(length) if length <= limits.memory else b""
    if len(data) < length:
        raise _out_of_memory(limits)
    return data


def _out_of_memory(limits: Limits) -> RookeryError:
    return RookeryError(
        PARQUET_TOO_LARGE,
        f"the Parquet file cannot be opened in {limits.memory:,} bytes of memory, or takes too long to decompress",
        hint="write smaller row groups and values, or several files; the limit is ROOKERY_MAX_PARQUET_MEMORY",
    )


def list_too_long() -> RookeryError:
    """The error for metadata with a list of more than MAX_LIST_LENGTH."""
    return RookeryError(
        PARQUET_TOO_LARGE,
        f"the Parquet file has more than {MAX_LIST_LENGTH:,} row groups, or as many columns and fields",
        hint="write larger row groups, or leave out columns that the datasource does not have",
    )


def _refused(reason: str, limits: Limits) -> RookeryError:
    """Return the error for the reason that the process wrote: a word and a detail, as `parquet_process` has them."""
    kind, _, detail = reason.partition(" ")
    if kind == "memory":
        return _out_of_memory(limits)
    if kind == "list":
        return list_too_long()
    if kind == "total":
        return RookeryError(
            PARQUET_TOO_LARGE,
            f"the rows of the Parquet file are {int(detail):,} bytes; at most {limits.total:,} are allowed",
            hint="send them in several files; the limit is ROOKERY_MAX_PARQUET_BYTES",
        )
    if kind == "deep":
        return RookeryError(BAD_ROW, detail, hint="send flatter values, or store the text in a String column")
    if kind == "shape":
        return RookeryError(BAD_ROW, detail, hint="nothing was stored; give the fields the same type")
    return RookeryError(BAD_ROW, f"the Parquet file cannot be read: {detail}")
