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


def admin_file(settings: Settings) -> Path:
    return settings.state_directory / "admin_token"


def announce(settings: Settings, url: str) -> None:
    """Leave word where the server of this directory listens."""
    private_file(server_file(settings), json.dumps({"url": url, "pid": os.getpid()}) + "\n")
