"""The log file of a server: lines of JSON in a file of limited size, with older lines in further files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

FILES = 4
"""Number of files: the current one, and older ones with the endings .1 to .3. Each has an equal part of the size."""


class LogFile:
    """Appends lines to a file. Not safe for threads.

    A file that cannot be written is not an error: the log must not stop the work that it describes. Other processes
    may append to the same file, move it away or delete it.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        """`max_bytes` is the maximum size of all files together."""
        self.path = path
        self._max_file_bytes = max_bytes // FILES
        self._descriptor: int | None = None
        self._identity = (0, 0)

    def write(self, lines: Iterable[bytes]) -> int:
        """Append lines, which end with a line feed. Returns how many could not be written."""
        lost = 0
        for group in _grouped(lines, self._max_file_bytes // 4):
            try:
                self._append(b"".join(group))
            except OSError:
                self.close()
                lost += len(group)
        return lost

    def close(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def _append(self, data: bytes) -> None:
        descriptor = self._open()
        # An empty file is not rotated, even if the data is larger than a file may be.
        if (size := os.fstat(descriptor).st_size) and size + len(data) > self._max_file_bytes:
            self._rotate()
            descriptor = self._open()
        while data:
            data = data[os.write(descriptor, data) :]

    def _open(self) -> int:
        """The descriptor of the file that has the path now. Raises OSError."""
        if self._descriptor is not None:
            with suppress(FileNotFoundError):
                status = self.path.lstat()
                if (status.st_dev, status.st_ino) == self._identity:
                    return self._descriptor
            self.close()
        # Opening a pipe would wait for a reader.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o600)
        # The file may have been created with other permissions, for example by a restored backup.
        os.fchmod(self._descriptor, 0o600)
        status = os.fstat(self._descriptor)
        self._identity = (status.st_dev, status.st_ino)
        return self._descriptor

    def _rotate(self) -> None:
        """Move each file to the next number. The oldest one is replaced."""
        self.close()
        names = older_files(self.path)
        # The oldest ones first, so that no file is overwritten before it has moved.
        for source, target in zip([self.path, *names][-2::-1], names[::-1], strict=True):
            with suppress(FileNotFoundError):
                source.replace(target)


def older_files(path: Path) -> list[Path]:
    """The files with older lines, the newest first."""
    return [path.with_name(f"{path.name}.{number}") for number in range(1, FILES)]


def _grouped(lines: Iterable[bytes], max_bytes: int) -> Iterable[list[bytes]]:
    """Lines in groups of at most `max_bytes`; a longer line is a group of its own."""
    group: list[bytes] = []
    size = 0
    for line in lines:
        if group and size + len(line) > max_bytes:
            yield group
            group, size = [], 0
        group.append(line)
        size += len(line)
    if group:
        yield group
