"""Private files next to the engine's data: `server.json` with the running server, `auth.json` with a stored URL and
token.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.trust import is_on_this_machine
from engine.private_files import private_directory, private_file, read_json
from engine.settings import Settings


def auth_file(settings: Settings) -> Path:
    return settings.state_directory / "auth.json"


def server_file(settings: Settings) -> Path:
    return settings.state_directory / "server.json"


@dataclass(frozen=True, slots=True)
class RunningServer:
    """The content of `server.json`."""

    url: str | None
    """Where the server listens; None while it starts."""
    pid: int
    directory: str
    """The directory that it serves."""
    here: bool
    """Whether the file belongs to this directory. A file that was copied together with its directory does not."""

    @property
    def starting(self) -> bool:
        """Whether a server of this directory is starting and does not listen yet."""
        return self.here and self.url is None and _is_alive(self.pid)


def announce_start(settings: Settings) -> bool:
    """Record that a server is about to open this directory, unless another one is starting or running.

    Returns whether the directory's last server was killed: it left its file behind.
    """
    content = _read(settings)
    # In a container, a killed server often had the same number as this process.
    if content is not None and _pid(content) != os.getpid() and _is_alive(_pid(content)):
        return False
    _write(settings, None)
    return content is not None and content.get("identity") == _identity(settings)


def announce(settings: Settings, url: str) -> None:
    """Record the address of this directory's server."""
    _write(settings, url)


def withdraw(settings: Settings) -> None:
    """Remove the file if this process wrote it."""
    content = _read(settings)
    if content is not None and content.get("pid") == os.getpid():
        with suppress(OSError):
            server_file(settings).unlink()


def announced(settings: Settings) -> RunningServer | None:
    """The server in the file, if it runs on this machine and serves the same workspace in the same database."""
    content = _read(settings)
    try:
        if content is None or (content["workspace"], content["clickhouse"]) != (
            settings.workspace,
            settings.clickhouse_url,
        ):
            return None
        url = content.get("url")
        if url is not None and not is_on_this_machine(url):
            return None
        return RunningServer(
            url,
            _pid(content),
            str(content.get("directory", "another directory")),
            content.get("identity") == _identity(settings),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _write(settings: Settings, url: str | None) -> None:
    private_directory(settings.state_directory)
    content = {
        "url": url,
        "pid": os.getpid(),
        "workspace": settings.workspace,
        "clickhouse": settings.clickhouse_url,
        "directory": str(settings.state_directory.resolve()),
        "identity": _identity(settings),
    }
    private_file(server_file(settings), json.dumps({k: v for k, v in content.items() if k != "url" or v}) + "\n")


def _read(settings: Settings) -> dict[str, Any] | None:
    return read_json(server_file(settings))


def _identity(settings: Settings) -> list[int]:
    """Device and inode of the directory: different for each copy, and the same for every path to it."""
    status = settings.state_directory.stat()
    return [status.st_dev, status.st_ino]


def _pid(content: dict[str, Any]) -> int:
    """The process in the file; 0, which is not a process, if the file is damaged."""
    pid = content.get("pid")
    return pid if isinstance(pid, int) and not isinstance(pid, bool) and pid > 0 else 0


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        # The system would interpret these numbers as groups of processes.
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
