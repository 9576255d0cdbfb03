"""A directory of the first layout's program is opened, migrated and continued, and that program then refuses it.

The directory was written in a zone other than UTC, by another process; see `tests/data`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data import first_layout as old
from tests.data.make_first_layout import checkout
from tests.support.server import ROOT, Server, running
from tests.support.soak import soaking

HOME = {"TZ": old.ZONE}
"""Where the directory was written."""


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory, whose migration was killed at its writes, one after the other, before it was completed."""
    home = old.unpacked(tmp_path_factory.mktemp("first") / "home")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_migrations", str(home)],
        cwd=ROOT,
        env={**os.environ, **HOME},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 2, "nothing was migrated"
    return home


def _different(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    given, plain_expected = _plain(found), _plain(expected)
    return [
        f"{k}: {plain_expected.get(k)} became {given.get(k)}"
        for k in plain_expected
        if given.get(k) != plain_expected[k]
    ]


def _plain(answers: dict[str, Any]) -> dict[str, Any]:
    """Answers without LowCardinality in the types of columns: elements of arrays and maps are read without it."""
    text = re.sub(r"LowCardinality\(((?:[^()]|\([^()]*\))*)\)", r"\1", json.dumps(answers))
    document: dict[str, Any] = json.loads(text)
    return document


def _send(server: Server, rows: list[dict[str, Any]], token: str | None = None, **headers: str) -> dict[str, Any]:
    body = "\n".join(map(json.dumps, rows))
    params = {"name": "events", "wait": "true"}
    response = server.post("/v0/events", token or server.admin_token, params=params, content=body, headers=headers)
    assert response.status_code == 200, response.text
    counts: dict[str, Any] = response.json()
    return counts


@pytest.mark.feature
@pytest.mark.soak
def test_a_migrated_directory_answers_as_before_and_accepts_new_rows(migrated: Path) -> None:
    """After any kill, and on a host in another zone: tokens, both modes and every target take new rows."""
    rows, before = old.events(100, 40), old.answers()
    with running(migrated, TZ="Asia/Kathmandu") as server:
        assert _different(json.loads(json.dumps(dict(old.asked(server)))), before) == []
        bad = [row | {"id": "no number", "price": "much"} for row in old.events(7, 3)]
        repeated = _send(server, bad, **{"Idempotency-Key": old.BAD_KEY})
        assert repeated["repeated"] is True
        plan = server.push(old.FILES, dry_run=True)
        assert [(s["action"], s["subject"], s["reason"]) for s in plan["steps"]] == []
        totals = {t: _total(server, t) for t in old.TENANTS}
        _send(server, rows, before["static token"])
        server.events("clicks", old.clicks(101, 5))
        for tenant in old.TENANTS:
            more = sum(str(r["tenant_id"]) == tenant for r in rows)
            added = {k: n - totals[tenant][k] for k, n in _total(server, tenant).items()}
            assert added == dict.fromkeys(added, more)


def _total(server: Server, tenant: str) -> dict[str, int]:
    """The number of a tenant's events, by each endpoint that counts them."""
    token = server.mint(*(f"PIPES:READ:{e}" for e in old.ENDPOINTS), tenant=tenant)
    totals = {}
    for endpoint in ("by_day", "of_daily", "of_weekly"):
        data = server.get(f"/v0/pipes/{endpoint}.json", token).json()["data"]
        totals[endpoint] = sum(int(row["events"]) for row in data)
    hours = server.get("/v0/pipes/of_hourly.json", token).json()["data"]
    return {**totals, "of_hourly": sum(int(row["ids"]) for row in hours)}


@pytest.mark.feature
@pytest.mark.soak
def test_the_old_program_refuses_a_migrated_directory(migrated: Path, tmp_path: Path) -> None:
    try:
        program = checkout(tmp_path / "old")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the history is not here")
    environment = {**os.environ, **HOME, "PYTHONPATH": str(program)}
    for command in (["serve", "--port", "0"], ["tenant", "ls"])[: None if soaking() else 1]:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "cli.main", *command],
            cwd=migrated,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0
        assert "newer rookery" in done.stderr
        assert "Traceback" not in done.stderr
