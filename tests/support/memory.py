"""The tests' files are in memory where there is enough of it: an engine waits for the disk at every part it writes."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
MIN_FREE = 8 << 30
"""Bytes that must be free, on the file system and in the machine. A whole run uses less than a quarter of them."""


def keep_files_in_memory() -> None:
    """Let temporary directories be in memory, unless TMPDIR names a place. Processes that tests start inherit it."""
    if "TMPDIR" not in os.environ and _is_usable():
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # It may have been read before.


def _is_usable() -> bool:
    """Whether there is such a file system with enough space, on which programs may be run."""
    try:
        allowed = os.access(MEMORY, os.W_OK) and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
        return allowed and min(shutil.disk_usage(MEMORY).free, _available()) > MIN_FREE
    except OSError:
        return False


def _available() -> int:
    """Bytes of memory that programs can still use."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)
