"""Files and directories of an installation that only their owner can read, such as those with tokens."""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

HOME = ".rookery"
"""Name of the directory that holds an installation's private files."""


MAX_SMALL_BYTES = 64 << 10
"""Maximum size of a file that `read_small` reads."""


def private_directory(path: Path) -> None:
    """Create a directory that only its owner can access.

    An existing directory is restricted to its owner only if it is named `.rookery`. Raises OSError on failure.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.name == HOME and path.stat().st_mode & 0o077:
        path.chmod(0o700)


def private_file(path: Path, text: str) -> None:
    """Write a file that only its owner can read, atomically. Its directory becomes private as well.

    Raises OSError with the file's name; the file is unchanged then.
    """
    private_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # A file or link of this name, of a killed process or of another user, keeps its mode or leads elsewhere.
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except OSError as exc:
        # On a read-only file system this fails too.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(exc.errno, exc.strerror, str(path)) from exc


def read_small(path: Path) -> str:
    """The text of a small file. Raises OSError if it is large or something else, such as a pipe."""
    status = path.stat()
    # A pipe or a device might never end.
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_SMALL_BYTES:
        raise OSError(errno.EINVAL, f"not a file of at most {MAX_SMALL_BYTES >> 10} KiB", str(path))
    return path.read_text(encoding="utf-8", errors="replace")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a small file; None if there is none."""
    try:
        content = json.loads(read_small(path))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def is_own(path: Path) -> bool:
    """Whether a file belongs to this user."""
    return path.stat().st_uid == os.geteuid()
