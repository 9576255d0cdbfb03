"""Completion of names in the shell, through the protocol of its scripts: environment variables and standard output."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from cli.completion import FOLDERS
from engine.project.files import FOLDERS as PROJECT_FOLDERS
from tests.cli.billing import FILES
from tests.cli.commands import REAL, Cli, for_server
from tests.cli.test_start import LIBRARIES, OWN, modules
from tests.support.server import Server, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A workspace with names of every kind, some of which a shell could interpret."""
    with running(tmp_path_factory.mktemp("completion")) as server:
        server.push(FILES)
        server.tenant("17", "pooled")
        server.events("events", [{"tenant_id": 18, "event": "a"}])
        for name in ("web", "web; touch pwned", "web$(id)", "web`id`", "-web"):
            server.admin_json("POST", "/v0/tokens", json={"name": name, "scopes": ["PIPES:READ:usage"]})
        yield server


def bash(words: str) -> dict[str, str]:
    return {"_ROOKERY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}


def completed(cli: Cli, environment: dict[str, str], command: Sequence[str] = ()) -> str:
    """What a completion prints. It must not print anything else, and must not fail."""
    done = subprocess.run(
        command or cli.command,
        cwd=cli.directory,
        env=cli.seen(**environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("rookery get u", "usage"),
        ("rookery get ", "usage"),
        ("rookery append ", "events kinds usage_daily"),
        ("rookery pipe show ", "kinds_pipe usage usage_pipe"),
        ("rookery pipe rm --force k", "kinds_pipe"),
        ("rookery datasource rm ", "events kinds usage_daily"),
        ("rookery materialize us", "usage usage_pipe"),
        ("rookery materialize usage k", "kinds"),
        ("rookery tenant show ", "17"),
        ("rookery tenant add ", "18"),
        ("rookery get usage --tenant ", "17"),
        ("rookery token refresh w", "web"),
        ("rookery token create w", ""),
        ("rookery quarantine ls e", "events"),
        ("rookery push --skip-backfill k", "kinds_pipe"),
        ("rookery push --allow-destructive k", "kinds kinds_pipe"),
        ("rookery get nothing", ""),
    ],
)
def test_names_of_a_running_server(server: Server, tmp_path: Path, words: str, names: str) -> None:
    cli = for_server(server, tmp_path / "here")
    assert completed(cli, bash(words)).split() == names.split()
    assert not list(cli.directory.iterdir())


def test_other_shells(server: Server, tmp_path: Path) -> None:
    cli = for_server(server, tmp_path)
    arguments = {"_TYPER_COMPLETE_ARGS": "rookery datasource show k"}
    assert (
        completed(cli, {"_ROOKERY_COMPLETE": "complete_zsh", **arguments}, REAL) == "_arguments '*: :((\"kinds\"))'"
    )
    fish = {"_ROOKERY_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args", **arguments}
    assert completed(cli, fish) == "kinds"


def test_a_server_of_the_directory_is_found(server: Server, tmp_path: Path) -> None:
    state = tmp_path / ".rookery"
    state.mkdir()
    (state / "admin_token").write_text(server.admin_token)
    status = state.stat()
    note = {"url": server.url, "pid": 1, "identity": [status.st_dev, status.st_ino]}
    (state / "server.json").write_text(json.dumps(note))
    assert completed(Cli(tmp_path), bash("rookery get ")) == "usage"


def test_the_server_of_a_copied_directory_is_not_asked(tmp_path: Path) -> None:
    state = tmp_path / ".rookery"
    state.mkdir()
    (state / "admin_token").write_text("secret")
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        other.setblocking(False)
        note = {"url": f"http://127.0.0.1:{other.getsockname()[1]}", "pid": 1, "identity": [0, 0]}
        (state / "server.json").write_text(json.dumps(note))
        assert completed(Cli(tmp_path), bash("rookery get ")) == ""
        with pytest.raises(BlockingIOError):
            other.accept()


@pytest.mark.parametrize("token", ["", "secret"])
def test_a_url_that_others_may_have_written_is_not_used(tmp_path: Path, token: str) -> None:
    state = tmp_path / ".rookery"
    state.mkdir(mode=0o700)
    (state / "admin_token").write_text("secret")
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        other.setblocking(False)
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        (state / "auth.json").write_text(json.dumps({"url": url, "token": "t"}))
        (state / "auth.json").chmod(0o600)
        assert completed(Cli(tmp_path), {**bash("rookery get "), "ROOKERY_TOKEN": token}) == ""
        (state / "auth.json").unlink()
        if os.geteuid() == 0:
            status = state.stat()
            (state / "server.json").write_text(json.dumps({"url": url, "identity": [status.st_dev, status.st_ino]}))
            os.chown(state / "server.json", 12_345, 12_345)
            assert completed(Cli(tmp_path), bash("rookery get ")) == ""
        with pytest.raises(BlockingIOError):
            other.accept()


def test_names_of_files_without_a_server(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write({**FILES, "pipes/deep/inner.yaml": "sql: SELECT 1 AS one\n", "pipes/odd $(id).yaml": "sql: SELECT 1\n"})
    assert completed(cli, bash("rookery get ")).split() == ["inner", "usage"]
    assert completed(cli, bash("rookery append ")).split() == ["events", "kinds", "usage_daily"]
    assert completed(cli, bash("rookery push us")).split() == ["usage", "usage_daily", "usage_pipe"]
    elsewhere = cli.at(tmp_path / "pipes")
    assert completed(elsewhere, bash(f"rookery -C {tmp_path} get u")) == "usage"
    assert not (tmp_path / ".rookery").exists()


def test_the_files_folders_are_those_of_a_project() -> None:
    assert sorted(f for folders in FOLDERS.values() for f in folders) == sorted(PROJECT_FOLDERS)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", b"\x00\xff"])
def test_a_server_that_does_not_answer_properly_is_ignored(tmp_path: Path, answer: bytes) -> None:
    """An empty answer means that the server keeps the connection open and stays silent."""
    cli = Cli(tmp_path)
    cli.write(FILES)
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        access = {"ROOKERY_URL": f"http://127.0.0.1:{listening.getsockname()[1]}", "ROOKERY_TOKEN": "t"}
        process = subprocess.Popen(
            REAL, cwd=tmp_path, env=cli.seen(**bash("rookery get "), **access), stdout=-1, stderr=-1, text=True
        )
        connection, _ = listening.accept()
        with connection:
            if answer:
                connection.recv(4096)
                connection.sendall(answer)
                connection.close()
            out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    # On a busy machine, the time for a silent server may leave none for the files.
    assert out.split() == ["usage"] or (not answer and not out)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "not a url", "http://[", "https://127.0.0.1:1"])
def test_a_wrong_address_is_ignored(tmp_path: Path, url: str) -> None:
    assert completed(Cli(tmp_path), {**bash("rookery get "), "ROOKERY_URL": url}) == ""


def test_damaged_state_files_are_ignored(tmp_path: Path) -> None:
    state = tmp_path / ".rookery"
    state.mkdir()
    for content in ("", "[]", '{"url": 5}', "{"):
        (state / "server.json").write_text(content)
        (state / "auth.json").write_text(content)
        assert completed(Cli(tmp_path), bash("rookery tenant rm ")) == ""


def test_a_completion_of_names_imports_few_modules(server: Server, tmp_path: Path) -> None:
    access = {"ROOKERY_URL": server.url, "ROOKERY_TOKEN": server.admin_token}
    imported = modules(tmp_path, **bash("rookery get "), **access)
    assert {m for m in imported if m.partition(".")[0] == "engine"} == OWN
    assert not {m.partition(".")[0] for m in imported} & LIBRARIES
    assert len(imported) < 500
