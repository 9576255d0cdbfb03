"""Writes, verifies and restores backup files."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.errors import (
    ALREADY_EXISTS,
    BACKUP_UNUSABLE,
    DISK_FULL,
    NO_FILE,
    RookeryError,
)
from engine.warehouse import archive
from engine.warehouse.directory_copy import CANNOT_LINK
from engine.warehouse.errors import file_error
from engine.warehouse.unfinished import BACKUP, VERIFY, unfinished_directory, unfinished_file

DOCTOR = ("-m", "cli.main", "--json", "doctor", "--deep", "--data")
"""Python arguments that run the doctor on a data directory, whose path follows."""


def new_file(target: Path) -> Path:
    """The file to write. Raises ALREADY_EXISTS if it exists, and NO_FILE if its directory does not."""
    file = target / f"rookery-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.tar" if target.is_dir() else target
    if os.path.lexists(file):
        raise _exists(file)
    if not file.parent.is_dir():
        raise RookeryError(NO_FILE, f"directory {file.parent} does not exist", hint="create it first")
    return file.absolute()


@contextmanager
def written(file: Path) -> Iterator[Path]:
    """A private file next to `file`, which gets its name when the context ends without an error.

    After an error it is removed. Raises DISK_FULL, and ALREADY_EXISTS if the name was taken meanwhile.
    """
    try:
        with unfinished_file(file.parent, BACKUP) as partial:
            yield partial.path
            # The contents first, so that a crash never leaves an incomplete file with the final name.
            _flush(partial.path)
            _rename(partial.path, file)
            _flush_names(file.parent)
    except FileExistsError as exc:
        raise _exists(file) from exc
    except OSError as exc:
        if file_error(exc).code is DISK_FULL:
            raise RookeryError(
                DISK_FULL, f"the disk of {file.parent} is full", hint="free space there, or name another directory"
            ) from exc
        raise


def _rename(partial: Path, file: Path) -> None:
    """Give the file its name. Raises FileExistsError if the name is taken."""
    try:
        # Unlike a rename, a link never replaces a file.
        os.link(partial, file)
    except OSError as exc:
        if exc.errno not in CANNOT_LINK | {errno.EACCES}:
            raise
        if os.path.lexists(file):
            raise FileExistsError(file) from None
        partial.rename(file)


def _exists(file: Path) -> RookeryError:
    return RookeryError(
        ALREADY_EXISTS, f"{file} already exists", hint="name a new file, or a directory: nothing is ever overwritten"
    )


def _flush(path: Path) -> None:
    """Wait until a file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_names(directory: Path) -> None:
    """Wait until the names in a directory are on the disk, if its file system can say that."""
    try:
        _flush(directory)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise


def described(file: Path) -> dict[str, Any]:
    """The description at the beginning of a backup. Raises BACKUP_DAMAGED and LAYOUT_NEWER."""
    with file.open("rb") as opened:
        return archive.described(opened)


def restored(source: Path, directory: Path) -> dict[str, Any]:
    """Restore a backup to a new directory. Returns its description. Raises NO_FILE, DISK_FULL and RK702x."""
    if not source.is_file():
        problem = "is not a file" if source.exists() else "does not exist"
        raise RookeryError(NO_FILE, f"{source} {problem}", hint="give the path of a backup file")
    try:
        return archive.restore(source, directory)
    except OSError as exc:
        if file_error(exc).code is DISK_FULL:
            hint = "nothing was restored: free space there, or name another directory"
            raise RookeryError(DISK_FULL, f"the disk of {directory} is full", hint=hint) from exc
        raise


def verify(file: Path, description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Restore a backup next to it and run the deep doctor on the copy, in a process of its own.

    Returns the doctor's findings. Raises BACKUP_UNUSABLE if the copy cannot be opened, and BACKUP_DAMAGED.
    """
    from engine.settings import environment_without_settings

    with unfinished_directory(file.parent, VERIFY) as temporary:
        data = temporary.path / "data"
        try:
            restored(file, data)
        except RookeryError as exc:
            if exc.code is not DISK_FULL:
                raise
            raise RookeryError(
                DISK_FULL,
                f"the disk of {file.parent} has no space for the copy that verifies the backup",
                hint="the backup was removed: free space there, name another directory, or use --no-verify",
            ) from exc
        # Settings that name a server, or another directory, do not concern the copy.
        environment = environment_without_settings(keep=["timezone"])
        environment["ROOKERY_WORKSPACE"] = _workspace(description)
        done = subprocess.run(
            [sys.executable, *DOCTOR, str(data)],
            cwd=temporary.path,
            # If this process is killed, the directory is not abandoned before the doctor ends.
            pass_fds=[temporary.lock],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    try:
        report = json.loads(done.stdout)
        return list(report["findings"])
    except (ValueError, KeyError, TypeError) as exc:
        raise RookeryError(
            BACKUP_UNUSABLE,
            f"the restored copy cannot be examined: {_reason(done)}",
            hint="run `rookery doctor --deep`; --no-verify keeps the backup as it is",
        ) from exc


def _workspace(description: Mapping[str, Any]) -> str:
    """The name of the workspace in a backup, which a server of any kind may have sent. Raises BACKUP_UNUSABLE."""
    name = description.get("workspace")
    if not isinstance(name, str) or not name.isprintable():
        raise RookeryError(BACKUP_UNUSABLE, "the backup does not name its workspace", hint="is it a rookery server?")
    return name


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    """Why the doctor failed."""
    try:
        return str(json.loads(done.stdout)["error"])
    except (ValueError, KeyError, TypeError):
        return done.stderr.decode(errors="replace")[-300:].strip() or f"exit code {done.returncode}"
