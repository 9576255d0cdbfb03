"""Private files beside the engine's data: where the server listens, the admin token, what `auth` stored."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.settings import Settings, private_directory, private_file


def auth_file(settings: Settings) -> Path:
    return settings.state_directory / "auth.json"


def server_file(settings: Settings) -> Path:
    return settings.state_directory / "server.json"


@dataclass(frozen=True, slots=True)
class RunningServer:
    """What `server.json` says: where a server listens (None while it starts), its process, and whether it is `here`.

    It is not if the file was copied here from another `directory`, which the server serves.
    """

    url: str | None
    pid: int
    directory: str
    here: bool

    @property
    def starting(self) -> bool:
        """Whether a server of this directory has begun to start and does not listen yet."""
        return self.here and self.url is None and _is_alive(self.pid)


def announce_start(settings: Settings) -> None:
    """Note that a server is about to open this directory, unless another says the same or listens."""
    found = _read(settings)
    if found is None or not _is_alive(_pid(found)):
        _write(settings, None)


def announce(settings: Settings, url: str) -> None:
    """Note where the server of this directory listens, and what it serves."""
    _write(settings, url)


def withdraw(settings: Settings) -> None:
    """Remove this process's note."""
    found = _read(settings)
    if found is not None and found.get("pid") == os.getpid():
        with suppress(OSError):
            server_file(settings).unlink()


def announced(settings: Settings) -> RunningServer | None:
    """What is noted of a server for the same workspace of the same database; None if there is nothing."""
    found = _read(settings)
    try:
        if found is None or (found["workspace"], found["clickhouse"]) != (
            settings.workspace,
            settings.clickhouse_url,
        ):
            return None
        url = found.get("url")
        return RunningServer(
            None if url is None else str(url),
            _pid(found),
            str(found.get("directory", "another directory")),
            found.get("identity") == _identity(settings),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _write(settings: Settings, url: str | None) -> None:
    private_directory(settings.state_directory)
    note = {
        "url": url,
        "pid": os.getpid(),
        "workspace": settings.workspace,
        "clickhouse": settings.clickhouse_url,
        "directory": str(settings.state_directory.resolve()),
        "identity": _identity(settings),
    }
    private_file(server_file(settings), json.dumps({k: v for k, v in note.items() if k != "url" or v}) + "\n")


def _read(settings: Settings) -> dict[str, Any] | None:
    try:
        found = json.loads(server_file(settings).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _identity(settings: Settings) -> list[int]:
    """What tells a directory from its copies, and is the same under all of its paths."""
    found = settings.state_directory.stat()
    return [found.st_dev, found.st_ino]


def _pid(found: dict[str, Any]) -> int:
    """The process that a note names; 0, which is none, if the note is damaged."""
    pid = found.get("pid")
    return pid if isinstance(pid, int) and not isinstance(pid, bool) and pid > 0 else 0


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        # To the system, these are groups of processes.
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
