"""No input on the command line or under `parameters` is ignored silently, and refused commands change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.billing import FILES
from tests.cli.commands import Cli, for_server
from tests.support.server import Server, running

TEMPLATE = "sql: SELECT {{ Int8(a, 1) }} AS a, {{ Array(several, 'String', 'x') }} AS several\n"
CHOICES = """
sql: SELECT {{ String(order, 'asc', enum=['asc', 'desc']) }} AS a, {{ Array(sizes, 'Int8', '1') }} AS b
parameters: [{name: sizes, type: Array(Int8), enum: [1, 2]}]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("silent")) as server:
        server.push({**FILES, "endpoints/one.yaml": TEMPLATE, "endpoints/two.yaml": CHOICES})
        server.tenant("1", "tables")
        yield server


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    cli = for_server(server, tmp_path)
    cli.write({**FILES, "endpoints/one.yaml": TEMPLATE, "endpoints/two.yaml": CHOICES})
    return cli


def test_a_token_with_an_unused_fixed_parameter_is_refused(cli: Cli) -> None:
    scope = ("--scope", "PIPES:READ:one")
    for fixed in ("won:a=1", "PIPES:READ:one:a=1", "usage:a=1"):
        refused = cli("token", "mint", "web", *scope, "--fixed", fixed, code=2)
        assert refused.out == "" and fixed in refused.err
    twice = cli("token", "mint", "web", *scope, "--fixed", "one:a=1", "--fixed", "one:a=2", code=2)
    assert "twice" in twice.err
    token = cli("token", "mint", "web", *scope, "--fixed", "one:a=3").out.strip()
    assert cli("get", "one", "a=4", "--format", "ndjson", "--token", token).out.startswith('{"a":3')


def test_ignored_arguments_of_an_endpoint_are_reported(cli: Cli) -> None:
    ignored = cli("get", "one", "b=1", "c=x y", "--format", "csv")
    assert "b, c" in ignored.err and ignored.out.startswith('"a"')
    assert "b, c" in cli("explain", "one", "b=1", "c=x y").err
    assert cli("explain", "one", "a=1", "b=1", "--json").json["ignored_parameters"] == ["b"]
    assert "two values" in cli("get", "one", "a=1", "a=2", code=1).err
    assert "RK7002" in cli("get", "one", "=3", code=2).err
    assert cli("get", "one", "several=p", "several=q", "--format", "ndjson").out == '{"a":1,"several":["p","q"]}\n'


def test_an_empty_query_is_an_error(cli: Cli) -> None:
    for query in ("", " ;\n"):
        assert "is empty" in cli("sql", query, code=2).err


def test_a_refused_materialization_changes_no_files(cli: Cli) -> None:
    refused = cli("materialize", "one", "one_rows", code=1)
    assert "RK2009" in refused.err and "wrote" not in refused.err
    assert (cli.directory / "endpoints/one.yaml").read_text() == TEMPLATE
    assert not (cli.directory / "datasources/one_rows.yaml").exists()
    cli("check")


def test_dropping_rows_that_are_not_in_quarantine_is_reported(cli: Cli) -> None:
    assert "1 id not found" in cli("quarantine", "rm", "events", "unknown", code=1).err


def test_a_dry_run_creates_no_workspace(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write(FILES)
    assert "+ datasource events" in cli("push", "--dry-run").out
    assert not (tmp_path / ".rookery").exists()


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("{name: b, required: true}", "`b` is declared, but no template"),
        ("{name: a, type: Int8, default: x}", "`default` of parameter `a` is not a value of type Int8: x"),
        ("{name: a, type: Int8, example: '300'}", "`example` of parameter `a` is not a value of type Int8: 300"),
        ("{name: a, type: Int8, enum: [1, y]}", "`enum` of parameter `a` is not a value of type Int8: y"),
    ],
)
def test_an_unusable_declaration_is_reported(tmp_path: Path, declared: str, expected: str) -> None:
    cli = Cli(tmp_path)
    cli.write({"endpoints/one.yaml": f"{TEMPLATE}parameters:\n  - {declared}\n"})
    output = cli("check").err
    assert "endpoints/one.yaml:3:" in output and "RK2022" in output and expected in output


def test_the_hint_for_a_contradicting_declaration_says_what_to_write(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write({"endpoints/one.yaml": f"{TEMPLATE}parameters:\n  - {{name: a}}\n"})
    output = cli("check", code=1).err
    assert "RK2006" in output and "`type: Int8` under `parameters`" in output


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("PORT", "abc", "must be a whole number, not 'abc'"),
        ("MAX_SECONDS", "soon", "must be a number, not 'soon'"),
        ("QUOTE_64BIT_INTEGERS", "maybe", "must be true or false, not 'maybe'"),
        ("READERS", "0", "must be greater than or equal to 1, not '0'"),
    ],
)
def test_an_invalid_setting_is_named_with_its_value(tmp_path: Path, setting: str, value: str, expected: str) -> None:
    cli = Cli(tmp_path)
    output = cli("pipe", "ls", code=1, **{f"ROOKERY_{setting}": value}).err
    assert expected in output and f"ROOKERY_{setting}" in output


@pytest.mark.parametrize("command", ["get one", "sql SELECT+1+AS+a"])
def test_a_format_is_never_ignored(cli: Cli, command: str) -> None:
    words = [w.replace("+", " ") for w in command.split()]
    for given in ("xml", "csv"):
        assert "RK7002" in cli(*words, "--format", given, "--json", code=2).text
    assert cli(*words, "--format", "json", "--json").json["data"][0]["a"] == 1
    assert cli(*words, "--format", "csv").out.startswith('"a"')


def test_an_empty_value_of_an_option_is_refused(cli: Cli) -> None:
    """A script whose variable is not set would otherwise use another server or project than it names."""
    for words in (
        ["--url", ""],
        ["--token="],
        ["--project", ""],
        ["-C", ""],
        ["--data="],
        ["--format", ""],
        ["-k", ""],
    ):
        assert words[0].rstrip("=") in cli("tenant", "ls", *words, code=2).err
    assert cli("get", "one", "--", "a=2").out.startswith("a")


@pytest.mark.parametrize("command", ["backup", "push", "tenant show", "pipe show", "restore x", "schema"])
def test_an_empty_argument_is_refused(cli: Cli, command: str) -> None:
    refused = cli(*command.split(), "", "--json", code=2).json
    assert refused["code"] == "RK7002" and "an argument is empty" in refused["error"] and refused["hint"]
    assert not list(cli.directory.glob("*.tar"))
    if command == "push":
        assert "is empty" in cli(command, "--", "", code=2).err


def test_an_option_without_effect_is_refused(cli: Cli, server: Server) -> None:
    assert server.admin("DELETE", "/v0/tenants/1?allow=daily").json()["code"] == "RK4009"
    assert "RK7002" in cli("tenant", "rm", "1", "--allow-destructive", "daily", code=2).err
    assert [t["id"] for t in cli("tenant", "ls", "--json").json] == ["1"]


def test_a_purge_that_finds_nothing_is_reported(cli: Cli) -> None:
    """The id may be misspelled, and the sender of the command would believe that the rows are gone."""
    refused = cli("tenant", "rm", "11", "--purge", code=7)
    assert "RK3004" in refused.err and "did you mean `1`" in refused.err
    cli("tenant", "add", "2")
    for _ in range(2):
        cli("tenant", "rm", "2", "--purge")


def test_a_token_that_cannot_be_sent_is_refused_before_the_request(cli: Cli) -> None:
    for token in ("tökén", "a\nb", "a b"):
        refused = cli("tenant", "ls", "--token", token, code=2)
        assert "RK7002" in refused.err and "token" in refused.err and token not in refused.err
    read_from_file = cli.environment["ROOKERY_TOKEN"] + "\n"
    cli("tenant", "ls", ROOKERY_TOKEN=read_from_file)


def test_a_resource_that_is_no_endpoint_is_described(cli: Cli) -> None:
    """Its file exists, but it has been pushed."""
    for name in ("events", "usage_pipe"):
        refused = cli("get", name, code=7).err
        assert "RK4008" in refused and "not pushed" not in refused and "rookery sql" in refused
    cli.write({"endpoints/later.yaml": "sql: SELECT 1 AS one\n"})
    assert "later.yaml is not pushed yet" in cli("get", "later", code=7).err


def test_a_resource_of_the_other_kind_is_described(cli: Cli) -> None:
    for command, hint in (("pipe show events", "datasource show events"), ("datasource rm usage", "pipe show usage")):
        refused = cli(*command.split(), code=7).err
        assert "RK3007" in refused and hint in refused and "not pushed" not in refused


def test_an_idempotency_key_is_checked_before_the_upload(cli: Cli) -> None:
    (cli.directory / "e.ndjson").write_text('{"tenant_id": 1, "event": "a"}\n')
    for key in ("é", "x" * 256):
        assert "idempotency key" in cli("append", "events", "e.ndjson", "--key", key, code=2).err


def test_an_empty_result_has_its_header(cli: Cli) -> None:
    empty = cli("sql", "SELECT 1 AS a, 'x' AS b WHERE 0")
    assert (empty.out, "no rows" in empty.err) == ("a\tb\n", True)
    assert cli("sql", "SELECT 1 AS a WHERE 0", "--json").json["data"] == []


def test_an_unusable_token_is_refused(cli: Cli) -> None:
    value = cli("token", "mint", "web", "--scope", "PIPES:READ:one", "--fixed", "one:a=z", code=1)
    assert value.out == "" and "RK4018" in value.err and "`a`" in value.err and "Int8" in value.err
    for fixed in ("two:order=up", "two:sizes=1,3"):
        made = cli("token", "mint", "web", "--scope", "PIPES:READ:two", "--fixed", fixed, code=1)
        assert made.out == "" and "RK4018" in made.err and "one of" in made.err
    cli("token", "mint", "web", "--scope", "PIPES:READ:two", "--fixed", "two:order=desc", "--fixed", "two:sizes=1,2")
    for command in ("mint", "create"):
        for condition in ("sleep(1)", "tenant_id =", "nothing = 1"):
            made = cli("token", command, "web", "--scope", f"DATASOURCES:READ:events:{condition}", code=1)
            assert made.out == "" and "RK4018" in made.err and "hint" in made.err


def test_the_error_for_a_node_that_reads_a_later_one(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write(
        {"pipes/two.yaml": "nodes:\n  - {name: a, sql: SELECT * FROM b}\n  - {name: b, sql: SELECT 1 AS one}\n"}
    )
    output = cli("check", code=1).err
    assert "RK1010" in output and "`b`" in output and "move `b` up" in output


def test_empty_standard_input_has_no_tenants(cli: Cli) -> None:
    assert "standard input" in cli("tenant", "add", "-", input=" \n", code=2).err
