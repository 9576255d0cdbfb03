"""Makes `first_layout.tar.xz` and `first_layout.json`: runs commit 618065d, from the history, over a rich project.

    .venv/bin/python -m tests.data.make_first_layout

The two files are part of the repository and are not made again unless the project in `first_layout.py` changes: what
counts is that the old program wrote them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import chdb

from tests.data import first_layout as project
from tests.support import server as support

ROOT = Path(__file__).resolve().parents[2]


def checkout(directory: Path, commit: str = project.COMMIT) -> Path:
    """The files of a commit in a directory. Raises CalledProcessError where the history is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    packed = subprocess.run(
        ["git", "archive", commit, "engine", "cli"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(directory)], input=packed, check=True)
    return directory


def fill(server: Any) -> None:
    """Push the project and send its rows, with tenants that come before, in between and after."""
    server.push(project.FILES)
    server.tenant("1", "tables")
    server.tenant("3", "pooled")
    server.static("writer of 1", "DATASOURCES:APPEND:events", tenant="1")
    server.events("events", project.events(1, 30))
    server.events("clicks", project.clicks(2, 20))
    server.tenant("2", "tables")
    server.tenant("4", "pooled")
    server.events("events", project.events(3, 30))
    server.events("visits", project.visits(4, 30))
    poison = [row | {"divisor": 0} for row in project.events(5, 4, project.SUSPENDED)]
    server.events("events", poison)
    server.events("events", project.events(6, 20))
    bad = [row | {"id": "no number", "price": "much"} for row in project.events(7, 3)]
    server.events("events", [*bad, *project.events(8, 5)])
    for key, rows in ((project.KEY, project.events(9, 6)), (project.BAD_KEY, bad)):
        body = "\n".join(map(json.dumps, rows))
        headers = {"Idempotency-Key": key}
        server.admin_json(
            "POST", "/v0/events", params={"name": "events", "wait": "true"}, content=body, headers=headers
        )
    rates = "currency,rate,at\nEUR,1.0840,2025-01-01 00:00:00\nEUR,1.0900,2025-02-01 00:00:00\nCHF,1.1000,2025-01-01 00:00:00\n"
    server.admin_json(
        "POST", "/v0/datasources", params={"mode": "append", "name": "rates", "format": "csv"}, content=rates
    )
    server.events("clicks", project.clicks(10, 20))
    last = "\n".join(map(json.dumps, project.clicks(11, 5)))
    server.admin_json("POST", "/v0/events", params={"name": "clicks", "wait": "visible"}, content=last)


def age(data: Path) -> None:
    """Let landing's lifetime take effect, and keep the receipt of the request that stored nothing for good."""
    connection = chdb.connect(str(data))
    connection.query("OPTIMIZE TABLE main.visits FINAL")
    connection.query(
        "INSERT INTO main._rk_receipts SELECT * REPLACE (toDateTime64('2090-01-01', 3) AS at, version + 1 AS version) "
        f"FROM main._rk_receipts WHERE key = '{project.BAD_KEY}'"
    )
    connection.query("SELECT sleep(1)")
    connection.close()


def _on_lines(found: dict[str, Any]) -> str:
    """One answer a line."""
    lines = (f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in found.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "home"
        support.ROOT = checkout(Path(temporary) / "old")
        with support.running(home, TZ=project.ZONE) as server:
            fill(server)
            answers = dict(project.asked(server))
        age(home / ".rookery" / "data")
        project.ANSWERS.write_text(_on_lines(answers), encoding="utf-8")
        with tarfile.open(project.ARCHIVE, "w:xz", preset=9) as archive:
            for name in ("admin_token", "data"):
                archive.add(home / ".rookery" / name, f".rookery/{name}")
    sys.stdout.write(f"{project.ARCHIVE.name}: {project.ARCHIVE.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
