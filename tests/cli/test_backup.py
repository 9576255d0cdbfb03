"""`rookery backup` and `rookery restore`: what is restored, and what a failure leaves behind."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.warehouse.unfinished import BACKUP, RESTORE, VERIFY, unfinished_directory, unfinished_file
from tests.cli.backups import fill, left
from tests.cli.billing import FILES, assert_exact, assert_kinds_exact
from tests.cli.commands import Cli, for_server
from tests.support.forking import Forked
from tests.support.server import Server, running


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("backup") / "home") as server:
        fill(server)
        yield server


@pytest.fixture(scope="module")
def saved(workspace: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of the workspace."""
    directory = tmp_path_factory.mktemp("saved")
    for_server(workspace, directory)("backup", "good.tar", "--no-verify")
    return directory / "good.tar"


@pytest.mark.feature
def test_a_verified_backup_is_restored_elsewhere(workspace: Server, tmp_path: Path) -> None:
    cli = for_server(workspace, tmp_path / "backups")
    token = workspace.static("reader", "PIPES:READ:usage", tenant="1")
    done = cli("--json", "backup", ".").json
    file = Path(done["file"])
    assert (done["verified"], done["findings"]) == (True, [])
    assert done["tables"]["main.events"]["rows"] == 60
    assert left(file.parent) == [file.name]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    home = tmp_path / "elsewhere"
    home.mkdir()
    assert Cli(home)("--json", "restore", file, ".rookery/data").json["tables"] == done["tables"]
    assert stat.S_IMODE((home / ".rookery" / "data").stat().st_mode) == 0o700
    with running(home) as server:
        assert_exact(server, (1, 2), (8,))
        assert_kinds_exact(server)
        assert server.get("/v0/pipes/usage.json", token).json()["data"] == [
            {"event": "a", "events": 20, "units": 190}
        ]
        assert server.push(FILES, dry_run=True)["steps"] == []
        server.events("events", [{"tenant_id": t, "event": "b", "units": 7} for t in (1, 2, 8)])
        assert_exact(server, (1, 2), (8,))


@pytest.mark.feature
def test_a_command_without_a_server_backs_up_and_only_one_file_is_written(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write(FILES)
    cli("push")
    cli("backup", "first.tar", "--no-verify")
    before = (tmp_path / "first.tar").read_bytes()
    refused = cli("backup", "first.tar", code=4)
    assert "RK7021" in refused.err
    assert (tmp_path / "first.tar").read_bytes() == before
    assert "RK1008" in cli("backup", "nowhere/first.tar", code=1).err
    assert not list((tmp_path / ".rookery" / "data" / "rookery.copies").iterdir())


@pytest.mark.feature
def test_errors_of_the_workspace_are_reported_and_the_backup_is_kept(tmp_path: Path) -> None:
    divided = FILES["pipes/kinds_pipe.yaml"].replace("sum(units)", "sum(intDiv(100, units))")
    with running(tmp_path / "home") as server:
        server.push({**FILES, "pipes/kinds_pipe.yaml": divided})
        server.events("events", [{"tenant_id": 1, "event": "a", "units": 0}])
        cli = for_server(server, tmp_path / "backups")
        done = cli("--json", "backup", "sick.tar", code=8).json
        assert "suspended-view" in {f["check"] for f in done["findings"]}
    Cli(tmp_path)("restore", "backups/sick.tar", "copy/data")


@pytest.mark.feature
@pytest.mark.parametrize("scopes", [("PIPES:READ:usage",), ("DATASOURCES:READ:events",)])
def test_only_an_admin_may_back_up(workspace: Server, scopes: tuple[str, ...]) -> None:
    for token in (workspace.mint(*scopes, tenant="1"), "nonsense", None):
        answer = workspace.post("/v0/backup", token)
        assert answer.status_code in (401, 403)
        assert answer.json()["code"] in ("RK4001", "RK4002", "RK4003")


@pytest.mark.feature
def test_a_backup_can_follow_another_at_once(workspace: Server) -> None:
    assert {workspace.admin("POST", "/v0/backup").status_code for _ in range(4)} == {200}


@pytest.mark.feature
def test_one_backup_at_a_time(workspace: Server) -> None:
    headers = {"authorization": f"Bearer {workspace.admin_token}"}
    with workspace.http.stream("POST", "/v0/backup", headers=headers) as first:
        assert first.status_code == 200
        chunks = first.iter_raw(1)
        next(chunks)
        second = workspace.admin("POST", "/v0/backup")
        # The first one may already be sent, if all of it fits into the buffers of the connection.
        assert second.status_code in (200, 409)
    # A client that disconnects does not block later backups.
    for _ in range(100):
        answer = workspace.admin("POST", "/v0/backup")
        if answer.status_code == 200:
            return
        assert answer.json()["code"] == "RK6020"
        time.sleep(0.1)
    raise AssertionError("the backup is still running")


@pytest.mark.feature
def test_a_restore_never_overwrites(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain").write_text("mine")
    cli = Cli(tmp_path)
    for target in ("full", "plain"):
        assert "RK7021" in cli("restore", saved, target, code=4).err
    cli("restore", saved, "empty")
    assert left(tmp_path) == ["empty", "full", "plain"]
    assert left(tmp_path / "full") == ["file"]
    assert "RK1008" in cli("restore", "absent.tar", "new", code=1).err


@pytest.mark.feature
def test_a_backup_can_be_checked_with_common_tools(saved: Path, tmp_path: Path) -> None:
    with tarfile.open(saved) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path, filter="data")
    assert (names[0], names[-1]) == ("backup.json", "SHA256SUMS")
    for line in (tmp_path / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ", 1)
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


@pytest.mark.feature
def test_a_full_disk_has_a_clear_error(workspace: Server, tmp_path: Path) -> None:
    """The size of a file is limited, which fails as a full disk does, at a different number."""
    limited = (
        "import errno, os, sys; from pathlib import Path; from cli import backup_file; import cli.connection as c\n"
        "def download(self, method, path, file): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "c.Connection.download = download; sys.argv = ['rookery', 'backup', 'b.tar']\n"
        "from cli.main import main; main()"
    )
    environment = for_server(workspace, tmp_path).seen()
    done = subprocess.run(
        [sys.executable, "-c", limited], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert "RK6008" in done.stderr
    assert "Traceback" not in done.stderr
    assert left(tmp_path) == []


@pytest.mark.feature
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_a_killed_backup_leaves_nothing_that_looks_complete(
    workspace: Server, tmp_path: Path, signal_number: signal.Signals
) -> None:
    chance = random.Random(signal_number.name)
    environment = for_server(workspace, tmp_path).seen()
    complete = 0
    for attempt in range(3):
        with Path(os.devnull).open("r+b") as nothing:
            process = Forked(["backup", "b.tar", "--no-verify"], tmp_path, environment, (nothing.fileno(),) * 3)
        if attempt:
            # From the moment at which the command has opened its file.
            while process.poll() is None and not any(n.startswith(BACKUP) for n in left(tmp_path)):
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal_number)
        process.wait(60)
        names = left(tmp_path)
        if signal_number is signal.SIGINT:
            assert not [n for n in names if n.startswith(".")]
        if "b.tar" in names:
            Cli(tmp_path)("restore", "b.tar", f"data-{attempt}")
            (tmp_path / "b.tar").unlink()
            complete += 1
    # The server is not affected, and neither are later backups.
    for _ in range(100):
        if workspace.admin("POST", "/v0/backup").status_code == 200:
            break
        time.sleep(0.1)
    for_server(workspace, tmp_path)("backup", "last.tar", "--no-verify")
    assert not [n for n in left(tmp_path) if n.startswith(".")], "the killed commands' files"
    assert_exact(workspace, (1, 2), (8,))
    copies = workspace.directory / ".rookery" / "data" / "rookery.copies"
    assert left(copies) == []


@pytest.mark.feature
def test_a_server_that_is_killed_during_a_backup_starts_again(saved: Path, tmp_path: Path) -> None:
    Cli(tmp_path)("restore", saved, ".rookery/data")
    copies = tmp_path / ".rookery" / "data" / "rookery.copies"
    with running(tmp_path) as server:
        headers = {"authorization": f"Bearer {server.admin_token}"}
        with server.http.stream("POST", "/v0/backup", headers=headers) as answer:
            next(answer.iter_raw(1))
            server.process.kill()
            server.process.wait()
    (copies / "left").mkdir(parents=True, exist_ok=True)
    with running(tmp_path) as server:
        assert not copies.exists()
        assert_exact(server, (1, 2), (8,))


def abandon(directory: Path) -> list[str]:
    """What killed commands leave behind."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{BACKUP}killed").write_bytes(b"half a backup")
    for prefix in (VERIFY, RESTORE):
        (directory / f"{prefix}killed" / "data").mkdir(parents=True)
    return [f"{prefix}killed" for prefix in (BACKUP, RESTORE, VERIFY)]


@pytest.mark.feature
def test_what_killed_commands_left_is_removed_and_what_is_in_use_stays(
    workspace: Server, saved: Path, tmp_path: Path
) -> None:
    cli = for_server(workspace, tmp_path)
    places = {name: tmp_path / name for name in ("backups", "restored", "home")}
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("mine")
    for place in (places["backups"], places["restored"], places["home"] / ".rookery"):
        abandon(place)
        (place / f"{RESTORE}link").symlink_to(tmp_path / "outside")
        with unfinished_file(place, BACKUP) as file, unfinished_directory(place, VERIFY) as directory:
            in_use = {file.path.name, directory.path.name, f"{RESTORE}link"}
            abandon(place)
            if place == places["backups"]:
                cli("backup", place, "--no-verify")
            elif place == places["restored"]:
                cli("restore", saved, place / "data")
            else:
                with running(places["home"]):
                    pass
            assert {n for n in left(place) if n.startswith(".rookery")} == in_use
    assert left(tmp_path / "outside") == ["file"]


@pytest.mark.feature
def test_a_directory_that_cannot_be_written_is_named(workspace: Server, saved: Path, tmp_path: Path) -> None:
    """The process may be root, for whom only special file systems refuse files."""
    cli = for_server(workspace, tmp_path)
    for command in (("backup", "/proc"), ("backup", "/proc/b.tar"), ("restore", saved, "/proc/data")):
        refused = cli(*command, code=1)
        assert "RK1008 /proc cannot be used" in refused.err
        assert "hint" in refused.err
