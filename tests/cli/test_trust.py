"""Data and tokens are not sent to a URL that others may have written into a project."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from cli.state_files import announce, announced
from engine.settings import load
from tests.cli.billing import FILES
from tests.cli.commands import Cli
from tests.support.server import Server


def test_private_files_are_private(shared_server: Server, tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli("auth", "--url", shared_server.url, "--token", shared_server.admin_token)
    stored = tmp_path / ".rookery" / "auth.json"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    written = json.loads(stored.read_text())
    assert (written["url"], written["token"]) == (shared_server.url, shared_server.admin_token)
    assert "placement" in cli("tenant", "ls").out
    for private in ("admin_token", "server.json"):
        assert stat.S_IMODE((shared_server.directory / ".rookery" / private).stat().st_mode) == 0o600
    before = stored.read_text()
    cli("auth", "--url", shared_server.url, "--token", "p.wrong.token", code=5)
    cli("auth", "--url", "http://127.0.0.1:9", "--token", "x", code=6)
    assert stored.read_text() == before, "what does not work was stored"
    cli("auth", "--url", shared_server.url, code=2)
    cli("tenant", "ls", ROOKERY_TOKEN=shared_server.admin_token)
    # The author of a project could otherwise choose where its user's files, rows and tokens are sent.
    (tmp_path / "unpacked" / ".rookery").mkdir(parents=True, mode=0o700)
    shutil.copy(stored, tmp_path / "unpacked" / ".rookery")
    unpacked = cli.at(tmp_path / "unpacked")
    refused_to_send(unpacked)
    refused_to_send(unpacked, ROOKERY_TOKEN=shared_server.admin_token)
    cli("auth", "--url", shared_server.url, "--token", shared_server.admin_token)
    refused_to_send(unpacked)
    unpacked("auth", "--url", shared_server.url, "--token", shared_server.admin_token)
    unpacked("tenant", "ls")
    # The files of a cloned project must not get to the server of another one, which it names with a link.
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / ".rookery").symlink_to(tmp_path / ".rookery")
    refused_to_send(cli.at(tmp_path / "linked"))
    (tmp_path / "linked" / ".rookery").unlink()
    (tmp_path / "linked" / ".rookery").mkdir()
    (tmp_path / "linked" / ".rookery" / "auth.json").symlink_to(stored)
    refused_to_send(cli.at(tmp_path / "linked"))
    # A home of another user, as `sudo` may leave it, and none at all.
    refused_to_send(cli, XDG_CONFIG_HOME=str(tmp_path / "none"))
    nowhere = {"XDG_CONFIG_HOME": "relative", "HOME": "relative"}
    refused_to_send(cli, **nowhere)
    refused = cli("auth", "--url", shared_server.url, "--token", shared_server.admin_token, code=1, **nowhere)
    assert "HOME" in refused.err and not (tmp_path / "relative").exists()
    # As if it was not set.
    (home := tmp_path / "home").mkdir()
    for unset in ("", "relative"):
        elsewhere = {"XDG_CONFIG_HOME": unset, "HOME": str(home)}
        cli("auth", "--url", shared_server.url, "--token", shared_server.admin_token, **elsewhere)
        cli("tenant", "ls", **elsewhere)
        shutil.rmtree(home / ".config" / "rookery" / "trusted")
    for content in (json.dumps({"url": shared_server.url, "token": "x"}), json.dumps({"url": shared_server.url})):
        stored.write_text(content)
        refused_to_send(cli)
    for content in ("[" * 20_000, ""):
        stored.write_text(content)
        assert "RK7007" in cli("tenant", "ls", code=7).err


def refused_to_send(cli: Cli, **environment: str) -> None:
    refused = cli("tenant", "ls", code=5, **environment)
    assert "RK7008" in refused.err and "others" in refused.err and "ROOKERY_URL" in refused.err


def test_a_server_file_that_names_another_machine_is_ignored(tmp_path: Path) -> None:
    """Even if it guessed the directory's number."""
    (state := tmp_path / ".rookery").mkdir(mode=0o700)
    (state / "admin_token").write_text("secret")
    settings = load(data=state / "data")
    for url in ("http://192.0.2.1:80", "http://[2001:db8::1]:80", "http://127.0.0.1.example.com:80", "https://127.0.0.1:1",
                "http://127.0.0.1:1@192.0.2.1:80", "http://127.0.0.1:1\\@192.0.2.1", "http://localhost:80", 5):  # fmt: skip
        announce(settings, url)  # type: ignore[arg-type]
        assert announced(settings) is None, url
        assert "RK7007" in Cli(tmp_path)("tenant", "ls", code=7).err
    for url in ("http://127.0.0.1:80", "http://0.0.0.0:80", "http://[::1]:80"):
        announce(settings, url)
        assert announced(settings) is not None, url


def test_files_that_never_end_are_not_read(shared_server: Server, tmp_path: Path) -> None:
    """A project that was unpacked may contain a pipe, or a link to a device, in place of any file."""
    cli = Cli(tmp_path)
    (state := tmp_path / ".rookery").mkdir(mode=0o700)
    announce(load(data=state / "data"), shared_server.url)
    file, log, ignored = state / "admin_token", state / "server.log", tmp_path / ".gitignore"
    file.write_bytes(b"\xff\xfe")
    assert "RK7002" in cli("tenant", "ls", code=2).err
    for path, command in ((file, "tenant ls"), (log, "log"), (ignored, "init")):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        assert "RK1008" in cli(*command.split(), code=1).err
        path.unlink()
        path.symlink_to("/dev/zero")
        assert "RK1008" in cli(*command.split(), code=1).err


@pytest.mark.parametrize("name", ("rookery.lock", "rookery.xml", "rookery_users.xml", ".rookery.layout", "log"))
def test_links_in_a_data_directory_change_no_file_elsewhere(tmp_path: Path, name: str) -> None:
    cli = Cli(tmp_path)
    data, elsewhere = tmp_path / ".rookery" / "data", tmp_path / "elsewhere"
    elsewhere.write_text("precious\n")
    if name == "log":
        cli.write(FILES)
        cli("push")
        cli("append", "events", "-", input='{"tenant_id": 1, "event": "a"}')
        link = next(data.glob("store/*/*/deduplication_logs/*_1.txt"))
        link.unlink()
    else:
        data.mkdir(parents=True, mode=0o700)
        link = data / name
        cli.write({"pipes/one.yaml": "sql: SELECT 1 AS x\n"})
    link.symlink_to(elsewhere)
    if name == "rookery.lock":
        assert "RK6001" in cli("push", code=6).err
    else:
        cli("push")
    assert elsewhere.read_text() == "precious\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
def test_secrets_are_not_sent_to_a_url_that_another_user_wrote(shared_server: Server) -> None:
    cli = Cli(shared_server.directory)
    state, other = shared_server.directory / ".rookery", 12_345
    cli("tenant", "ls")
    os.chown(state / "server.json", other, other)
    refused_to_send(cli, ROOKERY_TOKEN=shared_server.admin_token)
    refused_to_send(cli, ROOKERY_ADMIN_TOKEN=shared_server.admin_token)
    # It may be a link to any secret of this user.
    refused_to_send(cli)
    os.chown(state / "admin_token", other, other)
    cli("tenant", "ls")
    for file in ("server.json", "admin_token"):
        os.chown(state / file, 0, 0)
