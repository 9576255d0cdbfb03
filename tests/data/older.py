"""Small directories that older programs wrote, `older_COMMIT.tar.xz`: what was sent to them, and how they are made.

    .venv/bin/python -m tests.data.older

runs those commits, from the history. The files are part of the repository and are not made again.
"""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tests.cli.billing import FILES
from tests.data.make_first_layout import checkout
from tests.support import server as support

COMMITS = {"bb39384": ("time zone", "views that re-encode columns"), "9f5a91c": ()}
"""Commits, and the steps that an upgrade of their directory runs: one in the middle of a layout, and a newer one."""
OWN, POOLED = (1, 2), (8,)
KEY = "sent to the older program"
READER = "reader"
SUMS = [{"event": "a", "events": 9, "units": 37}, {"event": "b", "events": 1, "units": 5}]
"""The endpoint's answer for each tenant."""


def archive(commit: str) -> Path:
    return Path(__file__).parent / f"older_{commit}.tar.xz"


def keyed() -> dict[str, Any]:
    """A request with a key: a good row for each tenant, and a bad one."""
    rows = [{"tenant_id": t, "event": "b", "units": 5} for t in (*OWN, *POOLED)]
    body = "\n".join(map(json.dumps, [*rows, {"tenant_id": 1, "event": "b", "units": "bad"}]))
    return {"params": {"name": "events", "wait": "true"}, "content": body, "headers": {"Idempotency-Key": KEY}}


def files(commit: str) -> dict[str, str]:
    """The project, as far as the program knows it."""
    kinds = FILES["datasources/kinds.yaml"]
    return {**FILES, "datasources/kinds.yaml": kinds.replace("shared: true\n", "") if commit == "bb39384" else kinds}


def unpacked(commit: str, directory: Path) -> Path:
    """A directory, in which `.rookery` is the one of the older program."""
    directory.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive(commit)) as packed:
        packed.extractall(directory, filter="data")
    return directory


def _make(commit: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "home"
        support.ROOT = checkout(Path(temporary) / "old", commit)
        # A variable that is not a setting: the server is started, and not forked from the current program.
        with support.running(home, PYTHONDONTWRITEBYTECODE="1") as server:
            server.push(files(commit))
            for tenant in (*OWN, *POOLED):
                server.tenant(str(tenant), "tables" if tenant in OWN else "pooled")
            server.static(READER, "PIPES:READ:usage", tenant="1")
            for n in range(9):
                server.events(
                    "events", [{"tenant_id": t, "event": "a", "units": n + (n == 8)} for t in (*OWN, *POOLED)]
                )
            server.admin_json("POST", "/v0/events", **keyed())
        with tarfile.open(archive(commit), "w:xz", preset=9) as packed:
            for name in ("admin_token", "data"):
                packed.add(home / ".rookery" / name, f".rookery/{name}")
    sys.stdout.write(f"{archive(commit).name}: {archive(commit).stat().st_size} bytes\n")


if __name__ == "__main__":
    for commit in COMMITS:
        _make(commit)
