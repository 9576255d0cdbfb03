"""The start of a command: it imports only what the command needs, and Ctrl-C ends it quietly at any moment."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import REAL, Cli, for_server
from tests.cli.test_directories import FILES, held, wait_until
from tests.support.server import Server
from tests.support.soak import sampled

COUNTED = """
import atexit, sys
atexit.register(lambda: sys.stderr.write("\\n".join(["", "modules:", *sys.modules])))
from cli.main import main
main()
"""
"""`rookery`, which lists the modules that it has imported when it ends."""
COLLECTED = """
import atexit, gc, sys
atexit.register(lambda: sys.stderr.write(f"searched: {gc.get_stats()[1]['collections']}"))
from cli.main import main
main()
"""
"""`rookery`, which says in the end how often older objects have been searched for garbage."""
INTERRUPTED = """
import os, signal, sys
moment, seen = int(sys.argv.pop(1)), 0

def imported(event, _details):
    global seen
    if event == "import":
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGINT)

from cli.main import main
sys.addaudithook(imported)
main()
"""
"""`rookery`, which gets a SIGINT at the n-th import after its entry point has begun."""
OWN = {"engine", "engine.errors", "engine.plurals"}
"""Modules of the engine that every command needs. They import only the standard library."""
LIBRARIES = {
    "httpx",
    "pyarrow",
    "numpy",
    "chdb",
    "clickhouse_connect",
    "jinja2",
    "yaml",
    "orjson",
    "uvicorn",
    "starlette",
    "asyncio",
    "pydantic_settings",
}
MOMENTS = (1, 3, 10, 30, 60, 100, 200, 400, 700, 1000)


def modules(directory: Path, *arguments: str, **environment: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    seen = Cli(directory).seen(**environment)
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, *arguments], cwd=directory, env=seen, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr, done.stderr
    return set(done.stderr.partition("\nmodules:\n")[2].split("\n"))


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("--help",), {}),
        pytest.param(("tenant", "--help"), {}, marks=pytest.mark.soak_only),
        (("token", "mint", "--help"), {}),
        (("nosuch",), {}),
        pytest.param(("tenant", "add"), {}, marks=pytest.mark.soak_only),
        (("push", "--nosuch"), {}),
        ((), {"_ROOKERY_COMPLETE": "complete_bash", "COMP_WORDS": "rookery tenant a", "COMP_CWORD": "2"}),
        pytest.param(
            (),
            {"_ROOKERY_COMPLETE": "complete_bash", "COMP_WORDS": "rookery tenant add --p", "COMP_CWORD": "3"},
            marks=pytest.mark.soak_only,
        ),
    ],
    ids=["help", "of a group", "of a command", "unknown", "incomplete", "option", "completion", "of an option"],
)
def test_commands_without_a_workspace_import_few_modules(
    tmp_path: Path, arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    imported = modules(tmp_path, *arguments, **environment)
    assert "cli.app" in imported
    assert {m for m in imported if m.partition(".")[0] == "engine"} == OWN
    assert not {m.partition(".")[0] for m in imported} & LIBRARIES


def test_a_command_for_a_running_server_does_not_import_the_engine(shared_server: Server, tmp_path: Path) -> None:
    access = {"ROOKERY_URL": shared_server.url, "ROOKERY_TOKEN": shared_server.admin_token}
    imported = modules(tmp_path, "tenant", "ls", **access)
    assert {m for m in imported if m.partition(".")[0] == "engine"} == {
        *OWN,
        "engine.machine_memory",
        "engine.private_files",
        "engine.settings",
    }
    assert not {m.partition(".")[0] for m in imported} & (LIBRARIES - {"httpx", "orjson"})


def test_a_command_for_a_running_server_does_not_search_for_garbage(shared_server: Server, tmp_path: Path) -> None:
    access = {"ROOKERY_URL": shared_server.url, "ROOKERY_TOKEN": shared_server.admin_token}
    done = subprocess.run(
        [sys.executable, "-c", COLLECTED, "tenant", "ls"],
        cwd=tmp_path,
        env=Cli(tmp_path).seen(**access),
        capture_output=True,
        text=True,
    )
    assert int(done.stderr.rpartition("searched: ")[2]) <= 2


@pytest.mark.parametrize("moment", sampled(MOMENTS, 2))
def test_an_interrupt_while_modules_are_imported(tmp_path: Path, moment: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(moment), "tenant", "ls"],
        cwd=tmp_path,
        env=Cli(tmp_path).seen(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_interrupt_of_a_server_closes_the_workspace(tmp_path: Path) -> None:
    note, log = tmp_path / ".rookery" / "server.json", tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*REAL, "serve", "--port", "0"], cwd=tmp_path, env=Cli(tmp_path).seen(), stderr=out
        )
    wait_until(lambda: process.poll() is not None or (note.is_file() and "url" in note.read_text()))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "Traceback" not in log.read_text()
    assert not note.exists()


def test_an_interrupt_of_a_command_that_waits(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write(FILES)
    cli("push")
    command = [*REAL, "tenant", "ls"]
    with held(tmp_path):
        process = subprocess.Popen(command, cwd=tmp_path, env=cli.seen(), stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("waiting: ")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert process.stderr.read() == ""


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    """A shell makes the jobs that a script runs in the background ignore it."""
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", INTERRUPTED, "5", "init", "made"]
    done = subprocess.run(command, cwd=tmp_path, env=Cli(tmp_path).seen(), capture_output=True, text=True)
    assert (done.returncode, (tmp_path / "made" / "pipes").is_dir()) == (0, True), done.stderr


def test_data_is_printed_as_it_is(shared_server: Server, tmp_path: Path) -> None:
    cli = for_server(shared_server, tmp_path)
    text = "sql: |\n  SELECT ':key: [bold]x[/] \\e' AS a -- :smile:\n"
    cli.write({"pipes/marked.yaml": text})
    cli("push")
    assert cli("pipe", "show", "marked").out.rstrip("\n") == text.rstrip("\n")
