"""`rookery upgrade` with directories of older programs: shown, backed up, migrated, and back again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli import backup_file, upgrading
from engine.errors import BACKUP_UNUSABLE, RookeryError
from engine.settings import Settings
from tests.cli.billing import FILES, assert_exact, assert_kinds_exact
from tests.cli.commands import Cli
from tests.data import first_layout, older
from tests.data.make_first_layout import checkout
from tests.support.server import Server, running
from tests.support.soak import sampled

pytestmark = pytest.mark.feature


def content(home: Path) -> dict[str, str]:
    """The files of a data directory, without those that every opening writes."""
    data = home / ".rookery" / "data"
    files = [p for p in sorted(data.rglob("*")) if p.is_file() and p.name not in ("rookery.lock",)]
    return {str(p.relative_to(data)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def assert_values(server: Server) -> None:
    """Everything that was sent to the older program is there, and its tokens and receipts are valid."""
    token = server.admin_json("GET", f"/v0/tokens/{older.READER}")["token"]
    assert server.get("/v0/pipes/usage.json", token).json()["data"] == older.SUMS
    assert_exact(server, older.OWN, older.POOLED)
    assert_kinds_exact(server)
    assert server.admin_json("GET", "/v0/datasources/events/quarantine")["total"] == 1
    assert server.admin_json("POST", "/v0/events", **older.keyed())["repeated"] is True
    assert server.sql("SELECT count() AS n FROM events") == [{"n": 30}]


@pytest.mark.parametrize("commit", sampled(older.COMMITS, 2))
def test_an_older_directory_is_upgraded_and_the_backup_leads_back(commit: str, tmp_path: Path) -> None:
    home = older.unpacked(commit, tmp_path / "home")
    cli = Cli(home)
    before = content(home)
    shown = cli("--json", "upgrade", "--dry-run").json
    assert (shown["layout"], shown["current"]) == (2, 2)
    assert tuple(shown["steps"]) == older.COMMITS[commit]
    assert content(home) == before
    # The doctor finds that `kinds` is shared without a declaration, which older programs did not require.
    done = cli(
        "--json", "upgrade", "--backup-to", tmp_path / "before.tar", code=8 if older.COMMITS[commit] else 0
    ).json
    assert tuple(done["steps"]) == older.COMMITS[commit]
    if not older.COMMITS[commit]:
        assert "nothing to migrate" in cli("upgrade").err
        assert content(home) == before
    else:
        assert done["backup"] == str(tmp_path / "before.tar")
        assert {f["check"] for f in done["findings"] if f["level"] == "error"} == {"undeclared-share"}
        assert cli("--json", "upgrade").json["needed"] is False
        Cli(tmp_path)("restore", "before.tar", "back/.rookery/data")
        restored = content(tmp_path / "back")
        assert {n: d for n, d in before.items() if n.startswith("store/")}.items() >= {
            n: d for n, d in restored.items() if n.startswith("store/")
        }.items()
        assert_older_program_reads(commit, tmp_path / "back", tmp_path / "program")
    with running(home) as server:
        assert_values(server)
        server.push(FILES)
        server.events("events", [{"tenant_id": t, "event": "c", "units": 2} for t in (*older.OWN, *older.POOLED)])
        assert_exact(server, older.OWN, older.POOLED)


def assert_older_program_reads(commit: str, home: Path, program: Path) -> None:
    """The program that wrote a directory opens it, and has all rows."""
    try:
        checkout(program, commit)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the history is not here")
    command = [sys.executable, "-P", "-m", "cli.main", "--json", "sql", "SELECT count() AS n FROM events"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ROOKERY_")}
    done = subprocess.run(
        command,
        cwd=home,
        env={**environment, "PYTHONPATH": str(program)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"n":30' in done.stdout.replace(" ", "")


def test_the_steps_from_the_first_layout_are_shown(tmp_path: Path) -> None:
    home = first_layout.unpacked(tmp_path / "home")
    before = content(home)
    shown = Cli(home, {"TZ": first_layout.ZONE})("--json", "upgrade", "--dry-run").json
    assert (shown["layout"], shown["steps"]) == (1, ["time zone", "views that re-encode columns"])
    assert content(home) == before


@pytest.mark.soak_only
def test_the_first_layout_is_upgraded(tmp_path: Path) -> None:
    """`tests/workspace/test_first_layout.py` migrates the same directory without this command."""
    home = first_layout.unpacked(tmp_path / "home")
    cli = Cli(home, {"TZ": first_layout.ZONE})
    # The doctor reports the view that is suspended in this directory, and tables that are shared without a declaration.
    done = cli("--json", "upgrade", "--no-backup", code=8).json
    assert (done["layout"], done["steps"]) == (1, ["time zone", "views that re-encode columns"])
    assert {f["check"] for f in done["findings"] if f["level"] == "error"} == {"suspended-view", "undeclared-share"}
    assert not list((home / ".rookery").glob("*.tar*"))
    expected = first_layout.answers()
    with running(home, TZ="UTC") as server:
        token = server.mint("PIPES:READ:of_daily", tenant="1")
        assert server.get("/v0/pipes/of_daily.json", token).json()["data"] == expected["of_daily of 1"]["data"]


def newer(home: Path) -> dict[str, Any]:
    file = home / ".rookery" / "data" / "rookery.layout"
    written: dict[str, Any] = json.loads(file.read_text())
    file.write_text(json.dumps({**written, "layout": 9}))
    return written


def test_a_newer_directory_a_running_server_and_no_directory_are_refused(tmp_path: Path) -> None:
    assert "RK7007" in Cli(tmp_path)("upgrade", code=7).err
    home = older.unpacked("9f5a91c", tmp_path / "home")
    cli = Cli(home, {"ROOKERY_WAIT_SECONDS": "0"})
    written = newer(home)
    refused = cli("upgrade", code=6).err
    assert "RK6013" in refused
    assert "layout 9" in refused
    (home / ".rookery" / "data" / "rookery.layout").write_text(json.dumps(written))
    with running(home):
        assert "RK6001" in cli("upgrade", code=6).err
    assert "RK6021" in cli("--url", "http://127.0.0.1:1", "upgrade", code=1).err


def test_a_copy_that_cannot_be_migrated_stops_the_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = older.unpacked("bb39384", tmp_path / "home")
    before = content(home)
    monkeypatch.setattr(backup_file, "DOCTOR", ("-c", "import sys; sys.exit('no space for the migration')"))
    with pytest.raises(RookeryError, match="no space for the migration") as refused:
        upgrading.back_up(Settings(data=home / ".rookery" / "data"), None)
    assert refused.value.code is BACKUP_UNUSABLE
    assert content(home) == before
    assert sorted(p.name for p in (home / ".rookery").iterdir()) == ["admin_token", "data"]
