"""Files and directories that are not finished: named `.rookery-…`, and removed after their process was killed.

Each one is locked while its process, or a child that inherits the lock, is alive. So one that can be locked is
abandoned. This holds across containers too, where numbers of processes mean nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

BACKUP, VERIFY, RESTORE = ".rookery-backup-", ".rookery-verify-", ".rookery-restore-"
SCRATCH = ".rookery-scratch-"
"""How the names begin."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A file or directory that only this process uses."""

    path: Path
    lock: int
    """The descriptor that holds the lock. A child that should keep it must inherit it."""


@contextmanager
def unfinished_file(directory: Path, prefix: str) -> Iterator[Unfinished]:
    """A new private file, which is removed at the end. Raises OSError."""
    with _locked(directory, prefix, is_directory=False) as unfinished:
        try:
            yield unfinished
        finally:
            unfinished.path.unlink(missing_ok=True)


@contextmanager
def unfinished_directory(directory: Path, prefix: str) -> Iterator[Unfinished]:
    """A new private directory, which is removed at the end unless it was renamed. Raises OSError."""
    with _locked(directory, prefix, is_directory=True) as unfinished:
        try:
            yield unfinished
        finally:
            shutil.rmtree(unfinished.path, ignore_errors=True)


def scratch_directory() -> AbstractContextManager[Unfinished]:
    """A new private directory for temporary files, which is removed at the end. Raises OSError."""
    return unfinished_directory(Path(tempfile.gettempdir()), SCRATCH)


@contextmanager
def _locked(directory: Path, prefix: str, *, is_directory: bool) -> Iterator[Unfinished]:
    """A new file or directory with its lock, after those that others have abandoned are removed."""
    remove_abandoned(directory)
    try:
        created = _create(directory, prefix, is_directory=is_directory)
        # Another process may have removed it before it was locked.
        while created is None:
            created = _create(directory, prefix, is_directory=is_directory)
    except OSError as exc:
        # The user named the directory, not the file in it.
        raise OSError(exc.errno, exc.strerror, str(directory)) from exc
    try:
        yield created
    finally:
        os.close(created.lock)


def _create(directory: Path, prefix: str, *, is_directory: bool) -> Unfinished | None:
    """A new file or directory; None if another process took it for abandoned."""
    if is_directory:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=directory))
        try:
            lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
    else:
        lock, name = tempfile.mkstemp(prefix=prefix, dir=directory)
        path = Path(name)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), path.lstat()):
            return Unfinished(path, lock)
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        # A file system without locks: nothing is taken for abandoned there.
        return Unfinished(path, lock)
    os.close(lock)
    return None


def remove_abandoned(directory: Path) -> None:
    """Remove what killed processes left in a directory. What cannot be removed stays."""
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith((BACKUP, VERIFY, RESTORE, SCRATCH)):
                # Directories may be nested too deeply.
                with suppress(OSError, RecursionError):
                    _remove_if_abandoned(Path(entry.path))


def _remove_if_abandoned(path: Path) -> None:
    """Remove a file or directory of this user unless a process holds its lock. Raises OSError."""
    lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # In the directory for temporary files, other users may have made anything.
        if os.fstat(lock).st_uid != os.geteuid():
            return
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_ISDIR(os.fstat(lock).st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(lock)
