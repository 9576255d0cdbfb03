"""Invalid commands and requests get a code, a message and a hint, and change nothing."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.app import exit_code, file_error, unfinished
from cli.state_files import announce, announce_start, announced, server_file
from engine.errors import RookeryError, codes
from engine.private_files import private_directory, private_file
from engine.settings import load
from tests.cli.commands import Cli, for_server
from tests.support.compiling import BASE
from tests.support.server import ROOT, Server

FOLDERS = {"events": "datasources", "daily": "datasources", "sums": "pipes", "usage": "endpoints"}
NOT_UNDERSTOOD = (
    "nosuch", "--nosuch", "--url", "push --nosuch", "tenant", "tenant add", "pipe nosuch", "token create", "serve --port x",
    "serve --port 99999", "sql", "get", "plan --prune=maybe", "token create a --scope ADMIN --ttl 5x", "append events dir",
)  # fmt: skip
WRONG = {
    'materialize usage "a b"': (1, "RK1006"),
    "materialize unnamed t": (1, "RK2011"),
    "init datasources/events.yaml": (1, "RK1008"),
    'pipe generate p ""': (2, "RK7002"),
    "append events e.csv --rename foo": (2, "RK7002"),
    "tenant ls --url ftp://x": (6, "RK7003"),
    "get usage foo": (2, "RK7002"),
    "push datasources": (1, "RK1008"),
    "-C loop check": (1, "RK1008"),
    "schema loop": (1, "RK1008"),
}
SNOWFLAKE = {"name": "ids", "file": "pipes/ids.yaml", "text": "sql: SELECT generateSnowflakeID() AS id\n"}
STATUSES = {409: 4, 401: 5, 403: 5, 404: 7, 429: 6, 502: 6, 503: 6}


@pytest.fixture(scope="module")
def cli(shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    directory = tmp_path_factory.mktemp("project")
    made = for_server(shared_server, directory)
    made.write({f"{folder}/{name}.yaml": BASE[name] for name, folder in FOLDERS.items()})
    made.write(
        {
            "e.csv": "tenant_id,kind\n1,a\n",
            "dir/x": "",
            "pipes/unnamed.yaml": "sql: SELECT tenant_id + 1 FROM events\n",
        }
    )
    made("push")
    (directory / "loop").symlink_to("loop")
    yield made


def _words(command: str) -> list[str]:
    return [w.strip('"') for w in command.replace('"a b"', "a\0b").split()] if '"a b"' in command else command.split()


@pytest.mark.parametrize("command", NOT_UNDERSTOOD)
def test_commands_that_are_not_understood(cli: Cli, command: str) -> None:
    outcome = cli("--json", *command.split(), code=2)
    assert outcome.json["code"] == "RK7002"
    assert outcome.json["error"] and outcome.json["hint"] and not outcome.err


@pytest.mark.parametrize("command", WRONG)
def test_invalid_commands_have_codes_and_hints(cli: Cli, command: str) -> None:
    words = [w.replace("\0", " ").replace('""', "") for w in _words(command)]
    code, named = WRONG[command]
    outcome = cli("--json", *words, code=code)
    assert (outcome.json["code"], bool(outcome.json["hint"])) == (named, True), outcome.text
    assert "http://ftp" not in outcome.text


def test_the_text_output_has_the_same_code_and_hint(cli: Cli) -> None:
    outcome = cli("push", "--nosuch", code=2)
    assert outcome.err.split() == [
        "RK7002",
        "No",
        "such",
        "option:",
        "--nosuch",
        "hint:",
        "rookery",
        "push",
        "--help",
    ]
    assert "Usage" in cli("tenant", code=2).text


def test_every_code_has_its_exit_code(cli: Cli) -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    assert "4 for 409, 5 for 401 and 403, 6 for 429, 502 and 503, 7 for 404, and 1 for the rest" in text
    for code in codes().values():
        expected = 2 if code.id == "RK7002" else STATUSES.get(code.status, 1)
        assert exit_code(RookeryError(code, "")) == expected, code
    assert unfinished(["--url", "x", "tenant"]) == "rookery tenant"
    assert unfinished(["tenant", "ls"]) is None


def test_a_plan_before_the_first_push(tmp_path: Path) -> None:
    """With and without a data directory; neither it nor a workspace is created."""
    fresh = Cli(tmp_path)
    fresh.write({"datasources/events.yaml": BASE["events"]})
    (change,) = fresh("--json", "plan", code=3).json["changes"]
    assert (change["name"], change["kind"], change["what"]) == ("events", "datasource", "created")
    assert not (tmp_path / ".rookery").exists()
    (tmp_path / ".rookery" / "data").mkdir(parents=True)
    assert "+ datasource events" in fresh("plan", code=3).out
    assert list((tmp_path / ".rookery" / "data").iterdir()) == []


@pytest.mark.parametrize(
    "pid", ["x", None, [], 1e400, -1, 0, True, 2**70, pytest.param(os.getpid(), id="of this process")]
)
def test_a_damaged_state_file_is_ignored(tmp_path: Path, pid: object) -> None:
    settings = load(data=tmp_path / ".rookery" / "data")
    private_directory(settings.state_directory)
    announce_start(settings)
    note = json.loads(server_file(settings).read_text()) | {"pid": pid}
    server_file(settings).write_text(json.dumps(note))
    announcement = announced(settings)
    assert announcement is None or announcement.starting == (pid == os.getpid() and pid is not True)
    announce_start(settings)
    assert json.loads(server_file(settings).read_text())["pid"] == os.getpid()


def test_invalid_requests_have_codes_and_hints(shared_server: Server) -> None:
    for method, path, given, status, code in (
        ("POST", "/v0/push", {"json": {}}, 400, "RK4009"),
        ("POST", "/v0/push", {"json": {"prune": True}}, 400, "RK4009"),
        ("POST", "/v0/push", {"json": {"files": "x"}}, 400, "RK4009"),
        ("POST", "/v0/materialize", {"json": {"files": [], "pipe": "usage", "target": "a b"}}, 400, "RK1006"),
        # What older versions allowed is accepted only in files that were deployed then.
        ("POST", "/v0/materialize", {"json": {"files": [SNOWFLAKE], "pipe": "ids", "target": "t"}}, 400, "RK2003"),
        ("GET", "/v0/sql", {"params": {"q": "SELECT 1 FORMAT Nosuch"}}, 400, "RK4009"),
        ("PUT", "/v0/pipes/usage.json", {}, 405, "RK4020"),
        ("GET", "/v0/nosuch", {}, 404, "RK4019"),
    ):
        answer = shared_server.admin(method, path, **given)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert answer.json()["hint"], answer.text
    assert "Nosuch" in shared_server.admin("GET", "/v0/sql", params={"q": "SELECT 1 FORMAT Nosuch"}).text


@pytest.mark.feature
def test_an_error_names_the_page_that_explains_it(cli: Cli) -> None:
    outcome = cli("get", "missing", code=7)
    assert re.search(r"docs: https://\S*rk4008$", outcome.err, re.MULTILINE)
    assert "docs:" not in cli("push", "--nosuch", code=2).err


@pytest.mark.feature
def test_a_resource_that_was_not_pushed_is_named_with_its_file(cli: Cli) -> None:
    file = cli.directory / "endpoints" / "unpushed.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text("sql: SELECT 1 AS n\n")
    (cli.directory / "events.ndjson").write_text("{}\n")
    (cli.directory / "datasources" / "later.yaml").write_text("columns: [{name: a, type: String}]\n")
    try:
        for command in (("get", "unpushed"), ("pipe", "show", "unpushed"), ("sql", "SELECT * FROM unpushed"),
                        ("append", "later", "events.ndjson")):  # fmt: skip
            assert "not pushed yet: rookery push" in cli(*command, code=7).err
        assert "not pushed" not in cli("get", "unpushd", code=7).err
    finally:
        file.unlink()
        (cli.directory / "datasources" / "later.yaml").unlink()


@pytest.mark.feature
def test_removing_a_pipe_names_the_target_that_it_filled(cli: Cli) -> None:
    assert "`daily` keeps its rows, but no pipe fills it" in cli("pipe", "rm", "sums", "--force", "--dry-run").err
    assert cli("pipe", "rm", "sums", "--force", "--dry-run", "--json").json["unfilled"] == ["daily"]
    assert "unfilled" not in cli("pipe", "rm", "usage", "--force", "--dry-run", "--json").json


def test_a_killed_server_with_the_number_of_this_process_is_recognized(tmp_path: Path) -> None:
    """In a container the server has the same number after every restart."""
    settings = load(data=tmp_path / ".rookery" / "data")
    private_directory(settings.state_directory)
    assert not announce_start(settings)
    announce(settings, "http://127.0.0.1:1")
    assert announce_start(settings)
    announcement = announced(settings)
    assert announcement is not None
    assert announcement.url is None, "commands wait for the start instead of the old address"


@pytest.mark.feature
def test_a_full_disk_is_named_and_leaves_no_half_of_a_private_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".rookery" / "server.json"
    private_file(file, "old")

    def full(*_: object, **__: object) -> object:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("engine.settings.os.fdopen", full)
        with pytest.raises(OSError, match=r"server\.json") as caught:
            private_file(file, "new")
    error = file_error(caught.value)
    assert (error.code.id, exit_code(error)) == ("RK6008", 1)
    assert str(file) in error.message
    assert error.hint
    assert [p.name for p in file.parent.iterdir()] == ["server.json"]
    assert file.read_text() == "old"
    with pytest.raises(OSError, match="/proc/server") as caught:
        private_file(Path("/proc/server"), "new")
    assert file_error(caught.value).code.id == "RK1008"
    assert file_error(OSError(errno.ENOSPC, "full")).code.id == "RK6008"
