"""Reads the log files of a server: selects lines, prints them, and follows the newest file."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from cli import output
from engine.errors import NO_FILE, USAGE, RookeryError
from engine.observe.log_file import older_files
from engine.observe.log_lines import LEVELS, as_json, as_text
from engine.settings import Settings

DEFAULT_LINES = 100
POLL_SECONDS = 0.25
"""Seconds between two checks for new lines."""
_AGE = re.compile(r"(\d{1,6})([smhd])")
_STYLES = {"warning": "yellow", "error": "red"}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class Selection:
    """The lines to show."""

    levels: frozenset[str]
    after: str
    """Only lines with a later timestamp, compared as text; empty for all."""
    lines: int | None
    """Only the last lines; None for all."""

    @classmethod
    def of(cls, level: str, since: str | None, lines: int | None) -> Selection:
        """The selection of command-line options. Raises RK7002."""
        if level.lower() not in LEVELS:
            raise RookeryError(USAGE, f"unknown level {level[:40]!r}", hint=", ".join(LEVELS))
        levels = frozenset(LEVELS[LEVELS.index(level.lower()) :])
        after = "" if since is None else _moment(since).isoformat(timespec="microseconds")
        return cls(levels, after, DEFAULT_LINES if lines is None and since is None else lines)

    def takes(self, event: dict[str, Any]) -> bool:
        return str(event.get("level")) in self.levels and str(event.get("timestamp", "")) >= self.after


def _moment(text: str) -> datetime:
    """A time in UTC from an age such as `2h`, or from an ISO time, which is local without a zone. Raises RK7002."""
    age = _AGE.fullmatch(text)
    try:
        if age is not None:
            return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        hint = "15m, 2h, 3d, or a time such as 2026-11-29T10:00"
        raise RookeryError(USAGE, f"--since must be an age or a time, not {text[:40]!r}", hint=hint) from exc


def show(settings: Settings, selection: Selection, *, follow: bool, json_lines: bool) -> None:
    """Print the selected lines; with `follow`, wait for further ones until interrupted.

    Raises RK1008 if the log file does not exist.
    """
    files = {} if settings.url is not None else _opened(settings.log_file)
    if not files and not (follow and settings.url is None):
        raise _no_log(settings)
    events = (event for file in reversed(files.values()) for event in _events(file))
    selected = (event for event in events if selection.takes(event))
    for event in selected if selection.lines is None else deque(selected, maxlen=selection.lines):
        _print(event, json_lines)
    if follow:
        for event in _following(settings.log_file, next(iter(files.values()), None)):
            if selection.takes(event):
                _print(event, json_lines)


def _opened(path: Path) -> dict[int, IO[bytes]]:
    """The log files by inode, the newest first.

    They are opened in this order, because files move to the next number while they are written. A file that moves in
    the meantime is found twice.
    """
    files: dict[int, IO[bytes]] = {}
    for name in (path, *older_files(path)):
        with suppress(FileNotFoundError):
            file = _open(name)
            files.setdefault(os.fstat(file.fileno()).st_ino, file)
    return files


def _open(path: Path) -> IO[bytes]:
    """Raises FileNotFoundError also for other things than files: a pipe or a device might never end."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "not a file", str(path))
    return path.open("rb")


def _no_log(settings: Settings) -> RookeryError:
    if settings.url is not None:
        return RookeryError(
            NO_FILE,
            f"the log of {settings.url} is on the machine of that server",
            hint="run `rookery log` there, in the directory of the server",
        )
    return RookeryError(
        NO_FILE,
        f"the log file {settings.log_file} does not exist",
        hint="`rookery serve` writes it, unless ROOKERY_LOG_FILE_BYTES is 0; -C DIRECTORY selects another directory",
    )


def _following(path: Path, file: IO[bytes] | None) -> Iterator[dict[str, Any]]:
    """Events that are written from now on. When the file is moved, the rest of it comes before the new one."""
    while True:
        moved = file is not None and not _is_at(file, path)
        if file is not None:
            yield from _events(file)
        if file is None or moved:
            with suppress(FileNotFoundError):
                replacement = _open(path)
                file = replacement
                continue
        time.sleep(POLL_SECONDS)


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _events(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Events from the position of a file to its last complete line. Lines that are not events are skipped."""
    while True:
        start = file.tell()
        line = file.readline()
        if not line.endswith(b"\n"):
            # The rest of the line has not been written yet.
            file.seek(start)
            return
        with suppress(ValueError, RecursionError):
            event = json.loads(line)
            if isinstance(event, dict):
                yield event


def _print(event: dict[str, Any], json_lines: bool) -> None:
    if json_lines:
        output.raw(as_json(event).encode("utf-8", "backslashreplace") + b"\n")
    else:
        output.line((as_text(event), _STYLES.get(str(event.get("level")))))
