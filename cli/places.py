"""Private files beside the engine's data: where the server listens, the admin token, what `auth` stored."""

from __future__ import annotations

import json
import os
from pathlib import Path

from engine.settings import Settings, private_file


def auth_file(settings: Settings) -> Path:
    return settings.state_directory / "auth.json"


def server_file(settings: Settings) -> Path:
    return settings.state_directory / "server.json"


def announce(settings: Settings, url: str) -> None:
    """Leave word where the server of this directory listens, and what it serves."""
    word = {"url": url, "pid": os.getpid(), "workspace": settings.workspace, "clickhouse": settings.clickhouse_url}
    private_file(server_file(settings), json.dumps(word) + "\n")


def announced(settings: Settings) -> str | None:
    """Where a server of this directory listens that serves the same workspace of the same database."""
    try:
        found = json.loads(server_file(settings).read_text(encoding="utf-8"))
        same = (found["workspace"], found["clickhouse"]) == (settings.workspace, settings.clickhouse_url)
        return str(found["url"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
