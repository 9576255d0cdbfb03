"""Parquet files too large to be stored in one go, in pieces that are Parquet files themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress
from typing import IO, BinaryIO

from engine.errors import BAD_ROW, PARQUET_TOO_LARGE, RookeryError
from engine.ingest.formats import parquet_process
from engine.ingest.formats.parquet_process import FAILED, LENGTH

_LONGEST = 4096


def pieces(file: BinaryIO, memory: int, total: int) -> Generator[bytes]:
    """The rows of a file on disk, in order, opened by a process that may use so many bytes of memory.

    Raises RK5001 for what is no Parquet file, and RK5030 when that memory does not suffice or the rows are more than
    `total` bytes. The process ends with the generator.
    """
    file.seek(0)
    command = [sys.executable, "-P", parquet_process.__file__, str(memory), str(total)]
    process = subprocess.Popen(command, stdin=file.fileno(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        while True:
            length = int.from_bytes(_read(process.stdout, LENGTH, memory), "big")
            if length == FAILED:
                raise _refused(process.stdout.read(_LONGEST).decode(errors="replace"), memory, total)
            if not length:
                return
            yield _read(process.stdout, length, memory)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.stdout.close()
        process.wait()


def _read(stream: IO[bytes], length: int, memory: int) -> bytes:
    """So many bytes. A process that ended without a word was ended for what it allocated, or crashed."""
    found = stream.read(length) if length <= memory or length == LENGTH else b""
    if len(found) < length:
        raise _out_of_memory(memory)
    return found


def _out_of_memory(memory: int) -> RookeryError:
    return RookeryError(
        PARQUET_TOO_LARGE,
        f"the Parquet file cannot be opened in {memory:,} bytes of memory",
        hint="write smaller row groups and values, or several files; the limit is ROOKERY_MAX_PARQUET_MEMORY",
    )


def _refused(reason: str, memory: int, total: int) -> RookeryError:
    kind, _, detail = reason.partition(" ")
    if kind == "memory":
        return _out_of_memory(memory)
    if kind == "total":
        return RookeryError(
            PARQUET_TOO_LARGE,
            f"the rows of the Parquet file are {int(detail):,} bytes, and {total:,} are allowed",
            hint="send them in several files; the limit is ROOKERY_MAX_PARQUET_BYTES",
        )
    return RookeryError(BAD_ROW, f"the body is no Parquet file that can be read: {detail}")
