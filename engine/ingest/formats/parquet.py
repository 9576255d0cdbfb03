"""Splits Parquet files that are too large for one INSERT, or that must be reshaped, into smaller Parquet files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO

from engine.errors import BAD_ROW, PARQUET_TOO_LARGE, RookeryError
from engine.ingest.formats import parquet_process
from engine.ingest.formats.parquet_process import FAILURE_MARK, LENGTH_BYTES
from engine.ingest.formats.parquet_shapes import UNCHANGED, ParquetPlan

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


def split_parquet(file: BinaryIO, memory: int, total: int, plan: ParquetPlan = UNCHANGED) -> Generator[bytes]:
    """Yield the rows of a file on disk, in order and reshaped as planned, as smaller Parquet files.

    A separate process reads the file and may allocate `memory` bytes; it ends when the generator is closed. Raises
    RK5001 if the file is not a Parquet file or cannot be reshaped, and RK5030 if the memory does not suffice or the
    rows exceed `total` bytes.
    """
    file.seek(0)
    # Read in a separate process, because the library allocates as much memory as the file declares: a hostile file
    # would end this process.
    # With -P, no module is imported from the current directory.
    command = [sys.executable, "-P", "-c", _RUN, str(_IMPORT_ROOT), str(memory), str(total), plan.as_json()]
    process = subprocess.Popen(command, stdin=file.fileno(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        while True:
            length = int.from_bytes(_read(process.stdout, LENGTH_BYTES, memory), "big")
            if length == FAILURE_MARK:
                raise _refused(process.stdout.read(_MAX_REASON_BYTES).decode(errors="replace"), memory, total)
            if not length:
                return
            yield _read(process.stdout, length, memory)
    finally:
        with suppress(ProcessLookupError):
            # Done even if the generator is closed early because the client has disconnected.
            process.kill()
        process.stdout.close()
        process.wait()


def _read(stream: IO[bytes], length: int, memory: int) -> bytes:
    """Read exactly `length` bytes. Raises RK5030 if the process ends earlier, because it ran out of memory or
    crashed.
    """
    # A process that crashes may have written any length, so this one does not allocate whatever it says.
    data = stream.read(length) if length <= memory or length == LENGTH_BYTES else b""
    if len(data) < length:
        raise _out_of_memory(memory)
    return data


def _out_of_memory(memory: int) -> RookeryError:
    return RookeryError(
        PARQUET_TOO_LARGE,
        f"the Parquet file cannot be opened in {memory:,} bytes of memory",
        hint="write smaller row groups and values, or several files; the limit is ROOKERY_MAX_PARQUET_MEMORY",
    )


def _refused(reason: str, memory: int, total: int) -> RookeryError:
    """Return the error for the reason that the process wrote: a word and a detail, as `parquet_process` has them."""
    kind, _, detail = reason.partition(" ")
    if kind == "memory":
        return _out_of_memory(memory)
    if kind == "total":
        return RookeryError(
            PARQUET_TOO_LARGE,
            f"the rows of the Parquet file are {int(detail):,} bytes; at most {total:,} are allowed",
            hint="send them in several files; the limit is ROOKERY_MAX_PARQUET_BYTES",
        )
    if kind == "shape":
        return RookeryError(BAD_ROW, detail, hint="nothing was stored; give the fields the same type")
    return RookeryError(BAD_ROW, f"the Parquet file cannot be read: {detail}")
