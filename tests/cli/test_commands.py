"""How commands behave: help, JSON, exit codes, options anywhere, names or paths, prompts, private files."""

from __future__ import annotations

import json
import os
import pty
import selectors
import stat
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.app import app
from engine.private_files import private_file
from tests.cli.billing import FILES
from tests.cli.commands import REAL, Cli, for_server
from tests.cli.writers import history
from tests.support.server import Server, running
from tests.support.soak import sampled, soaking

TWO_NODES = """
nodes:
  - name: first_node
    sql: SELECT tenant_id, event, units FROM events WHERE tenant_id = 1
  - name: second_node
    sql: SELECT event, sum(units) AS units FROM first_node GROUP BY event
"""


def tree(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every command by its words, with its help."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from tree(inner, (*path, name))
    else:
        yield path, command.help


COMMANDS = dict(tree(typer.main.get_command(app)))
SHOWN = 6
"""Of so many commands, one shows its help outside the soak tier."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("commands")) as server:
        server.push(FILES)
        server.tenant("1", "tables")
        server.tenant("2")
        history(server, [1, 2, 3], 10)
        yield server


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    cli = for_server(server, tmp_path)
    cli.write(FILES)
    return cli


def test_every_help_has_an_example_and_needs_no_server(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    for number, (words, written) in enumerate(COMMANDS.items()):
        shown = soaking() or number % SHOWN == 0
        for text in [written, *([cli(*words, "--help").out] if shown else [])]:
            joined = " ".join(text.split())
            assert "Example" in joined, words
            assert f"rookery {' '.join(words)}" in joined, words
    assert "Exit codes" in cli("--help").out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        "plan", "push", "check", "pipe ls", "pipe show usage", "datasource ls", "datasource show events", "tenant ls",
        "tenant show 1", "tenant add 1", "token ls", "token create web --scope PIPES:READ:usage", "token show web",
        "token refresh web", "token mint m --scope PIPES:READ:usage --tenant 1", "token key",
        "sql SELECT+1+AS+one", "get usage --tenant 1", "append events -", "auth", "init",
        "pipe generate gen SELECT+1", "pipe rm usage --dry-run", "datasource rm kinds --force --dry-run",
        "token rm web",
    ],
)  # fmt: skip
def test_every_command_has_json_output(cli: Cli, command: str) -> None:
    if "web" in command and "create" not in command:
        cli("token", "create", "web", "--scope", "PIPES:READ:usage")
    outcome = cli("--json", *(w.replace("+", " ") for w in command.split()))
    json.loads(outcome.out)


def test_named_exit_codes(cli: Cli, tmp_path: Path) -> None:
    cli("plan", code=0)
    cli.write({"endpoints/more.yaml": "sql: SELECT 1 AS one\n"})
    cli("plan", code=3)
    cli("sql", "SELECT wrong", code=1)
    cli("sql", code=2)
    cli("nonsense", code=2)
    cli("push", "--nonsense", code=2)
    cli("datasource", "rm", "events", code=4)
    cli("tenant", "ls", "--token", "p.wrong", code=5)
    cli("tenant", "ls", "--url", "http://127.0.0.1:9", code=6)
    cli("get", "nothing", code=7)
    cli("pipe", "show", "nothing", code=7)


def test_options_work_anywhere_and_resources_by_name_or_path(cli: Cli, server: Server) -> None:
    bare = Cli(cli.directory.parent, {}, cli.command)
    place = ["--url", server.url, "--token", server.admin_token, "-C", str(cli.directory)]
    here = cli.directory.name
    for command in (
        ["plan", *place],
        [*place, "plan"],
        ["push", f"{here}/endpoints/usage.yaml", *place, "--json"],
        ["--json", "push", *place, "usage"],
        ["pipe", *place, "show", "usage"],
        ["pipe", "show", f"{here}/endpoints/usage.yaml", *place],
        ["get", "usage", f"--url={server.url}", "--token", server.admin_token, "--tenant", "1", "--format", "csv"],
        ["sql", "--format", "ndjson", "SELECT 1 AS one", *place],
    ):
        bare(*command)
    moved = cli.directory / "pipes/deep/er"
    moved.mkdir(parents=True)
    (cli.directory / "endpoints/usage.yaml").rename(moved / "usage.yaml")
    cli("push", "usage")
    cli("plan")


def test_data_is_on_stdout_and_messages_on_stderr(cli: Cli) -> None:
    outcome = cli("sql", "SELECT 1 AS one", "--format", "csv")
    assert (outcome.out, outcome.err) == ('"one"\n1\n', "")
    assert cli("sql", "-", "--format", "ndjson", input="SELECT 2 AS two;\n").out == '{"two":2}\n'
    assert "two" in cli("sql", "SELECT 2 AS two").out
    assert cli("get", "usage", "--tenant", "1", "--format", "json").json["rows"] == 3
    outcome = cli("token", "create", "alone", "--scope", "PIPES:READ:usage")
    assert outcome.out.startswith("p.")
    assert outcome.out.count("\n") == 1
    assert outcome.err == ""


def test_a_failure_in_json_has_code_and_hint(cli: Cli) -> None:
    output = cli("--json", "sql", "SELECT nothing FROM events", code=1).json
    assert output["code"].startswith("RK")
    assert output["error"]


class TestWhichNode:
    """A prompt, a piped answer, the literal text `1\\n`, and the flag have the same effect."""

    TARGET = 0

    @pytest.fixture
    def pipe(self, cli: Cli) -> Iterator[tuple[Cli, str]]:
        type(self).TARGET += 1
        name = f"made_{self.TARGET}"
        cli.write(
            {
                f"pipes/{name}_pipe.yaml": TWO_NODES.replace("first_node", f"{name}_a").replace(
                    "second_node", f"{name}_b"
                )
            }
        )
        yield cli, name
        cli("datasource", "rm", name, "--force")

    def chosen(self, cli: Cli, name: str) -> str:
        text = (cli.directory / f"pipes/{name}_pipe.yaml").read_text()
        return text.partition("node: ")[2].split()[0]

    @pytest.mark.proves("B5")
    @pytest.mark.parametrize("answer", sampled(["1\n", "1", "1\\n\n", "1\r\n", "{name}_a\n", " 1 \n"], 2))
    def test_an_answer_from_a_pipe(self, pipe: tuple[Cli, str], answer: str) -> None:
        cli, name = pipe
        cli("materialize", f"{name}_pipe", name, input=answer.replace("{name}", name))
        assert self.chosen(cli, name) == f"{name}_a"

    @pytest.mark.proves("B5")
    @pytest.mark.parametrize("flag", ["1", "{name}_a"])
    def test_the_flag_wins_over_piped_input(self, pipe: tuple[Cli, str], flag: str) -> None:
        cli, name = pipe
        cli("materialize", f"pipes/{name}_pipe.yaml", name, "--node", flag.replace("{name}", name), input="2\n")
        assert self.chosen(cli, name) == f"{name}_a"

    @pytest.mark.proves("B5")
    def test_the_node_is_asked_for_at_a_terminal(self, pipe: tuple[Cli, str]) -> None:
        cli, name = pipe
        code, text = at_a_terminal(cli, ["materialize", f"{name}_pipe", name], "1\r")
        assert code == 0, text
        assert f"1. {name}_a" in text
        assert "Which node" in text
        assert self.chosen(cli, name) == f"{name}_a"

    @pytest.mark.parametrize("answer", ["", "3\n", "0\n", "nobody\n"])
    def test_a_missing_or_invalid_answer_changes_nothing(self, cli: Cli, server: Server, answer: str) -> None:
        cli.write({"pipes/undecided.yaml": TWO_NODES})
        before = server.admin_json("GET", "/v0/workspace")
        assert "RK3008" in cli("materialize", "undecided", "undecided_ds", code=1, input=answer).err
        assert (cli.directory / "pipes/undecided.yaml").read_text() == TWO_NODES
        assert server.admin_json("GET", "/v0/workspace") == before

    @pytest.mark.parametrize("file", ["../outside/PIPE.yaml", "/OUTSIDE/PIPE.yaml", "pipes/../../outside/PIPE.yaml"])
    def test_the_file_of_a_deployed_pipe_is_not_written_outside_of_the_project(
        self, cli: Cli, server: Server, file: str, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """The path is chosen by the person who pushed the pipe."""
        outside = tmp_path_factory.mktemp("outside")
        file = file.replace("/OUTSIDE", str(outside)).replace("PIPE", "pushed_elsewhere")
        sql = "SELECT units, tenant_id FROM events WHERE tenant_id = 1"
        server.push({file: f"nodes:\n  - name: elsewhere_node\n    sql: {sql}\n"})
        assert "RK1005" in cli("materialize", "pushed_elsewhere", "elsewhere_ds", code=1).err
        assert not (cli.directory.parent / "outside").exists()
        assert not list(outside.iterdir())
        assert not (cli.directory / "datasources/elsewhere_ds.yaml").exists()

    def test_a_materialized_node_is_no_longer_an_endpoint(self, pipe: tuple[Cli, str], server: Server) -> None:
        cli, name = pipe
        cli("push", f"{name}_pipe")
        assert server.admin("GET", f"/v0/pipes/{name}_pipe.json").status_code == 200
        cli("materialize", f"{name}_pipe", name, "--node", "1")
        assert server.admin("GET", f"/v0/pipes/{name}_pipe.json").status_code == 404
        facts = "count() AS n, sum(units) AS u"
        assert server.sql(f"SELECT {facts} FROM {name}") == server.sql(
            f"SELECT {facts} FROM events WHERE tenant_id = 1"
        )

    def test_a_target_that_exists_with_other_columns_is_refused(self, cli: Cli) -> None:
        cli.write({"pipes/other.yaml": "nodes:\n  - name: other_node\n    sql: SELECT units FROM events\n"})
        assert "RK3011" in cli("materialize", "other", "kinds", code=4).err
        assert "RK3007" in cli("materialize", "nobody", "target", code=7).err


def at_a_terminal(cli: Cli, arguments: list[str], typed: str) -> tuple[int, str]:
    """Run a command at a pseudo-terminal and type when it asks; returns its exit code and output."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*cli.command, *arguments], cwd=cli.directory, env=cli.seen(), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown, deadline, answered = b"", time.monotonic() + 60, False
    readable = selectors.DefaultSelector()
    readable.register(ours, selectors.EVENT_READ)
    while time.monotonic() < deadline:
        if readable.select(0.1):
            try:
                shown += os.read(ours, 4096)
            except OSError:
                break
        if not answered and b"Which node" in shown:
            os.write(ours, typed.encode())
            answered = True
    readable.close()
    os.close(ours)
    return process.wait(10), shown.decode()


def test_a_table_at_a_narrow_terminal_has_whole_ids_and_no_control_sequences(cli: Cli) -> None:
    row = {
        "tenant_id": 1,
        "units": "many, in a long text that no terminal of 80 columns can show together with the id",
    }
    cli("append", "events", "-", input=json.dumps(row), code=1)
    ids = [r["c__id"] for r in cli("quarantine", "ls", "events", "--json").json["rows"]]
    code, shown = at_a_terminal(cli, ["quarantine", "ls", "events"], "")
    assert code == 0 and ids and all(i in shown for i in ids)
    assert "error" in shown.splitlines()[0]
    queried = cli("sql", "SELECT 'a' || char(27) || '[2J' AS x", "--format", "table")
    assert "a\\x1b[2J" in queried.out
    cli("quarantine", "rm", "events", "--all")


def test_unused_standard_input_is_ignored(cli: Cli) -> None:
    cli.write({"endpoints/more.yaml": "sql: SELECT 1 AS one\n"})
    for arguments in (["push"], ["plan"], ["tenant", "add", "1"], ["pipe", "rm", "more"]):
        script = f"yes | {cli.command[0]} {' '.join(arguments)}"
        completed = subprocess.run(
            ["bash", "-c", script], cwd=cli.directory, env=cli.seen(), capture_output=True, timeout=60
        )
        assert completed.returncode == 0, completed.stderr
    completed = subprocess.run(
        [*cli.command, "plan"], cwd=cli.directory, env=cli.seen(), stdin=None, close_fds=True, timeout=60
    )
    assert completed.returncode == 3


def test_a_closed_pipe_is_not_an_error(cli: Cli) -> None:
    script = f"{cli.command[0]} sql 'SELECT number FROM numbers(1000000)' --format csv | head -1"
    completed = subprocess.run(
        ["bash", "-c", script], cwd=cli.directory, env=cli.seen(), capture_output=True, timeout=60
    )
    assert b"Traceback" not in completed.stderr
    assert completed.stdout == b'"number"\n'


@pytest.mark.parametrize("command", ("tenant ls >&-", "append events - <&-", "tenant ls <&- >&- 2>&3"))
def test_standard_streams_may_be_closed(cli: Cli, command: str) -> None:
    """No file gets their numbers, so no output is written into one."""
    completed = subprocess.run(
        ["bash", "-c", f"exec 3>&2; {' '.join(REAL)} {command}"],
        cwd=cli.directory,
        env=cli.seen(),
        capture_output=True,
        timeout=60,
    )
    assert (completed.returncode, b"Traceback" in completed.stderr) == (0, False), completed.stderr.decode()


def test_an_unfinished_private_file_of_another_program_is_not_used(tmp_path: Path) -> None:
    """It could be a link, or a file that others can read."""
    temporary = tmp_path / f".secret.{os.getpid()}"
    temporary.symlink_to(tmp_path / "elsewhere")
    private_file(tmp_path / "secret", "token")
    assert not (tmp_path / "elsewhere").exists()
    temporary.touch(mode=0o644)
    private_file(tmp_path / "secret", "token")
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_a_project_without_server_works_on_its_own_directory(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write(FILES)
    cli("init")
    assert "nothing changed" in cli("init").err
    before = {p.name for p in tmp_path.iterdir()}
    cli("push", ROOKERY_DATA="", ROOKERY_URL="", ROOKERY_TOKEN="")
    assert {p.name for p in tmp_path.iterdir()} == {".rookery", *before}, "an empty setting counts as unset"
    cli("append", "events", "-", input='{"tenant_id": 1, "event": "a", "units": 2}\n')
    assert "RK3004" in cli("get", "usage", "--tenant", "1", code=7).err
    cli("tenant", "add", "1", "--placement", "tables")
    assert cli("--json", "get", "usage", "--tenant", "1").json["data"] == [{"event": "a", "events": 1, "units": 2}]
    assert stat.S_IMODE((tmp_path / ".rookery" / "admin_token").stat().st_mode) == 0o600
    # Commands at the same time wait for each other.
    with ThreadPoolExecutor(3) as hands:
        assert all(o.code == 0 for o in hands.map(lambda _: cli("--json", "tenant", "ls"), range(3)))


def test_misspelled_settings_are_reported(tmp_path: Path) -> None:
    variables = {"ROOKERY_PROT": "1", "ROOKERY_SERVICE_PORT_HTTP": "2", "ROOKERY_MAXBODY": "3"}
    message = Cli(tmp_path)("tenant", "ls", code=7, **variables).err
    assert "ROOKERY_PROT;" in message and "ROOKERY_PORT?" in message
    assert "ROOKERY_MAX_BODY?" in message
    assert "SERVICE" not in message


def test_the_case_of_a_settings_name_does_not_matter(tmp_path: Path) -> None:
    assert "ROOKERY_READERS" in Cli(tmp_path)("tenant", "ls", code=1, rookery_readers="0").err


def test_shell_completion(tmp_path: Path) -> None:
    cli = Cli(tmp_path, command=REAL)
    assert "_ROOKERY_COMPLETE" in cli("--show-completion", "bash", code=0).out
    env = {"_ROOKERY_COMPLETE": "complete_bash", "COMP_WORDS": "rookery ten", "COMP_CWORD": "1"}
    assert cli(**env).out.split() == ["tenant"]
