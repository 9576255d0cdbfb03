"""Commands in directories other than the server's, in directories without a workspace, and during a server's start."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.commands import REAL, Cli
from tests.support.clickhouse_http import WRITER, serve
from tests.support.forking import Forked
from tests.support.server import ROOT, running
from tests.support.soak import sampled

EVENTS = """\
columns:
  - {name: tenant_id, type: UInt32}
  - {name: event, type: String}
tenant: tenant_id
engine: {sorting_key: [tenant_id]}
"""
FILES = {"datasources/events.yaml": EVENTS}
ELSEWHERE = (
    ["tenant", "ls"],
    ["tenant", "add", "1"],
    ["tenant", "rm", "1"],
    ["token", "ls"],
    ["token", "create", "t", "--scope", "PIPES:READ:x"],
    ["datasource", "ls"],
    ["pipe", "ls"],
    ["sql", "SELECT 1"],
    ["get", "usage"],
    ["append", "events", "-"],
    ["quarantine", "ls", "events"],
    ["fanout", "status"],
    ["doctor"],
)


def wait_until(found: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("command", ELSEWHERE, ids=" ".join)
def test_a_command_in_the_wrong_directory_creates_no_workspace(tmp_path: Path, command: list[str]) -> None:
    cli = Cli(tmp_path)
    cli.write(FILES)
    output = cli(*command, code=7).err
    assert "RK7007" in output and "rookery push" in output
    assert not (tmp_path / ".rookery").exists()


def test_a_command_creates_no_second_workspace_in_a_directory(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write(FILES)
    cli("push")
    assert cli("--json", "tenant", "ls").json == []
    before = sorted((tmp_path / ".rookery" / "data" / "metadata").iterdir())
    assert "workspace `other`" in cli("tenant", "ls", code=7, ROOKERY_WORKSPACE="other").err
    assert sorted((tmp_path / ".rookery" / "data" / "metadata").iterdir()) == before


def test_a_copied_directory_does_not_use_the_server_of_the_original(tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    copy.mkdir()
    with running(home) as server:
        server.push(FILES)
        server.tenant("1")
        shutil.copytree(home / ".rookery", copy / ".rookery", symlinks=True)
        added = Cli(copy)("tenant", "add", "2")
        assert f"names a server of {home / '.rookery'}" in added.err
        assert [t["id"] for t in Cli(copy)("--json", "tenant", "ls").json] == ["1", "2"]
        assert [t["id"] for t in server.admin_json("GET", "/v0/tenants")["tenants"]] == ["1"]
        here = Cli(home)("--json", "tenant", "ls")
        assert ([t["id"] for t in here.json], here.err) == (["1"], "")
        # The same directory under another path is the same directory.
        (tmp_path / "link").symlink_to(home)
        assert [t["id"] for t in Cli(tmp_path / "link")("--json", "tenant", "ls").json] == ["1"]


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Another process holds the directory of the engine during the block."""
    with (directory / ".rookery" / "data" / "rookery.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_commands_and_servers_wait_for_the_owner_of_the_directory(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write(FILES)
    cli("push")
    log = tmp_path / "log"
    with log.open("w+b") as out, held(tmp_path):
        server = Forked(["serve", "--port", "0"], tmp_path, cli.seen(), (out.fileno(),) * 3)
        # It has found the directory held.
        wait_until(lambda: b"waiting" in log.read_bytes() or server.poll() is not None)
        assert server.poll() is None, log.read_text()
        # A command that comes now waits for the server, which does not listen yet.
        process = subprocess.Popen(
            [*cli.command, "--json", "tenant", "ls"],
            cwd=tmp_path,
            env=cli.seen(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        line = process.stderr.readline() if process.stderr else b""
        assert f"waiting: the server (process {server.pid}) to start".encode() in line
    try:
        out_text, _ = process.communicate(timeout=60)
        assert (process.returncode, json.loads(out_text)) == (0, [])
        assert server.poll() is None, log.read_text()
    finally:
        server.terminate()
        assert server.wait(30) == 0
    assert not (tmp_path / ".rookery" / "server.json").exists()


def test_a_clickhouse_server_without_the_workspace(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    with serve(tmp_path / "clickhouse") as url:
        user, password = WRITER
        settings = {"CLICKHOUSE_URL": url, "CLICKHOUSE_USER": user, "CLICKHOUSE_PASSWORD": password}
        cli = Cli(project, {f"ROOKERY_{name}": value for name, value in settings.items()})
        assert url in cli("tenant", "ls", code=7).err
        cli.write(FILES)
        cli("push")
        assert cli("--json", "tenant", "ls").json == []


@pytest.mark.parametrize(
    "command",
    sampled([["check"], ["push"], ["tenant", "ls"], ["init"], ["pipe", "generate", "a", "SELECT 1"]], 2),
    ids=" ".join,
)
def test_a_directory_that_was_removed_is_named(tmp_path: Path, command: list[str]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = 'rmdir "$PWD" && exec "$0" "$@"'
    completed = subprocess.run(
        ["/bin/sh", "-c", script, *REAL, *command],
        cwd=gone,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert completed.returncode == 1
    assert "RK1008" in completed.stderr and "current directory" in completed.stderr
    assert "Traceback" not in completed.stderr


def test_check_reports_invalid_settings(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write({"pipes/p.yaml": "sql: SELECT 1 AS one\n"})
    text = cli("check", code=1, ROOKERY_MAX_ROWS="1e6").err
    assert "RK7001" in text and "ROOKERY_MAX_ROWS" in text
    assert "ROOKERY_MAX_ROWS" in cli("check", ROOKERY_MAX_ROW="1").err


def test_the_demo_changes_no_workspace_with_other_resources(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write(FILES)
    cli("push")
    refused = cli("demo", code=4)
    assert "RK3011" in refused.err and "--data" in refused.err
    assert cli("--json", "tenant", "ls").json == []
    assert "nothing to do" in cli("plan").text
    for _ in range(2):
        assert "Done" in cli("--data", "demo/data", "demo").text
