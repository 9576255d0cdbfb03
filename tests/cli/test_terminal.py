"""The main commands on a terminal of 80 columns, as users see them, and on terminals with less."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.tables import cells_of
from tests.cli.billing import FILES
from tests.cli.commands import REAL, Cli, for_server
from tests.support.server import Server, running
from tests.support.soak import soaking

STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\+00:00)?")
LONG = "customer-with-a-rather-long-name"
WIDE = "SELECT 605132 AS number, 'some words that are more than the rest' AS text, repeat('x', 30) AS name, 7 AS last"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A workspace with tenants of each placement, rows, a quarantine and tokens."""
    with running(tmp_path_factory.mktemp("terminal")) as server:
        server.push(FILES)
        for tenant, placement in (("1", "tables"), ("2", "pooled")):
            server.tenant(tenant, placement)
        server.events("events", [{"tenant_id": 1 + i % 3, "event": "a", "units": 1} for i in range(3000)])
        server.events("events", [{"tenant_id": 1, "event": "a", "units": "a long text, where a number should be"}])
        server.admin_json("POST", "/v0/tokens", json={"name": "web", "scopes": ["PIPES:READ:usage"], "tenant": "2"})
        server.admin_json("POST", "/v0/tokens", json={"name": LONG, "scopes": ["READ:ALL"]})
        yield server


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    return for_server(server, tmp_path)


def screen(cli: Cli, *arguments: str, columns: int = 80, code: int = 0, **environment: str) -> str:
    """What a command shows, without styles, and with the same text for every time."""
    text = STYLES.sub("", cli.terminal(*arguments, columns=columns, code=code, TERM="dumb", **environment))
    return "".join(f"{line}\n" for line in TIME.sub("TIME", text).splitlines() if not line.startswith("\r"))


def test_tenant_ls(cli: Cli) -> None:
    assert screen(cli, "tenant", "ls") == (
        "id  placement  state     rows  lag_rows  lag_seconds  error\n"
        "1   tables     ready    1,000         0          0.0  –\n"
        "2   pooled     ready    1,000         0          0.0  –\n"
        "3   –          unknown  1,000         0          0.0  –\n"
        "not shown: created_at; --wide or --json shows all columns\n"
    )
    assert "created_at" in screen(cli, "tenant", "ls", "--wide", columns=40).splitlines()[0]
    assert screen(cli, "tenant", "ls", columns=24).splitlines()[1].split() == ["1", "ready", "1,000"]


def test_resources(cli: Cli) -> None:
    assert screen(cli, "pipe", "ls") == (
        "name        type          materialized_datasource  per_tenant\n"
        "kinds_pipe  materialized  kinds                    no\n"
        "usage       endpoint      –                        no\n"
        "usage_pipe  materialized  usage_daily              yes\n"
    )
    assert screen(cli, "datasource", "ls").splitlines()[0].split() == ["name", "kind", "rows"]


def test_token_ls(cli: Cli) -> None:
    assert screen(cli, "token", "ls") == (
        "name                              tenant  origin  scopes\n"
        "admin token                       –       admin   ADMIN\n"
        f"{LONG}  –       user    READ:ALL\n"
        "web                               2       user    PIPES:READ:usage\n"
    )
    assert LONG in screen(cli, "token", "ls", columns=40)


def test_quarantine_ls(cli: Cli, server: Server) -> None:
    (row,) = server.admin_json("GET", "/v0/datasources/events/quarantine")["rows"]
    for columns in (60, 80, 120):
        lines = screen(cli, "quarantine", "ls", "events", columns=columns).splitlines()
        assert lines[0].split()[0] == "id" and "error" in lines[0]
        assert lines[1].split()[0] == row["c__id"]
        assert all(cells_of(line) <= columns for line in lines)


def test_fanout_status(cli: Cli) -> None:
    assert screen(cli, "fanout", "status") == (
        "datasource  mode    rows  seconds  in_sync  lagging\nevents      direct     0      0.0        1        0\n"
    )


def test_sql_wraps_texts_and_becomes_blocks_when_it_does_not_fit(cli: Cli) -> None:
    assert screen(cli, "sql", WIDE) == (
        "number  text                                name                            last\n"
        "605132  some words that are more than the   xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx     7\n"
        "        rest\n"
    )
    assert screen(cli, "sql", WIDE, columns=50) == (
        "row 1\n"
        "number  605132\n"
        "text    some words that are more than the rest\n"
        "name    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"
        "last    7\n"
    )
    assert len(screen(cli, "sql", WIDE, "--wide", columns=50).splitlines()) == 2


def test_get(cli: Cli) -> None:
    assert screen(cli, "get", "usage", "--tenant", "1") == "event  events  units\na        1000   1000\n"


def test_doctor_wraps_its_findings(cli: Cli) -> None:
    lines = screen(cli, "doctor").splitlines()
    assert lines and all(cells_of(line) <= 80 for line in lines)


def test_a_plan_and_a_push(cli: Cli) -> None:
    cli.write(FILES)
    assert screen(cli, "plan") == "nothing to do: the workspace matches the files\n"
    file = "endpoints/usage.yaml"
    cli.write({file: FILES[file].replace("ORDER BY event", "ORDER BY event DESC")})
    expected = (
        "Changed\n"
        "  ~ pipe usage (endpoints/usage.yaml)\n"
        "\n"
        "--- deployed/endpoints/usage.yaml\n"
        "+++ endpoints/usage.yaml\n"
        "@@ -1,4 +1,4 @@\n"
        " \n"
        " nodes:\n"
        "   - name: usage_by_event\n"
        "-    sql: SELECT event, sum(events) AS events, sum(units) AS units FROM usage_daily GROUP BY event ORDER BY event\n"
        "+    sql: SELECT event, sum(events) AS events, sum(units) AS units FROM usage_daily GROUP BY event ORDER BY event DESC\n"
        "\n"
        "1 changed\n"
    )
    assert screen(cli, "plan", code=3) == expected
    assert screen(cli, "push").startswith(f"{expected}pushed\npublished http")
    cli.write(FILES)
    cli("push")


def test_output_that_is_not_a_terminal_has_all_columns(cli: Cli) -> None:
    heading, first, *_ = cli("tenant", "ls", COLUMNS="20").out.splitlines()
    assert heading.split("\t") == [
        "id",
        "placement",
        "state",
        "rows",
        "lag_rows",
        "lag_seconds",
        "created_at",
        "error",
    ]
    assert first.split("\t")[:4] == ["1", "tables", "ready", "1000"]
    assert first.split("\t")[-1] == "\\N"
    query = "SELECT 'a\\tb\\n\\\\c' AS text, NULL AS nothing, true AS yes, [1, 2] AS list"
    assert cli("sql", query).out == "text\tnothing\tyes\tlist\na\\tb\\n\\\\c\t\\N\ttrue\t[1, 2]\n"


# Outside the soak tier: help, a query, a plan and an error, or help and a plan.
PRINTING = (
    (("--help",), 0),
    (("tenant", "--help"), 0),
    (("sql", "SELECT char(228) AS word, NULL AS nothing"), 0),
    (("tenant", "ls"), 0),
    (("plan",), 3),
    (("doctor",), 0),
    (("pipe", "show", "nosuch"), 7),
    (("tenant", "ls", "--nosuch"), 2),
)


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"PYTHONIOENCODING": "ascii"}, id="ascii"),
        # LC_ALL also keeps Python from replacing this locale, so it is the next one by another name.
        pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0"}, id="C", marks=pytest.mark.soak_only),
        pytest.param({"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, id="POSIX"),
    ],
)
def test_a_terminal_without_unicode(cli: Cli, environment: dict[str, str]) -> None:
    cli.write({**FILES, "endpoints/usage.yaml": FILES["endpoints/usage.yaml"] + "# größer → schöner 日本\n"})
    real = Cli(cli.directory, cli.environment, REAL)
    for arguments, code in PRINTING if soaking() else PRINTING[:: 2 if "PYTHONIOENCODING" in environment else 4]:
        cli.terminal(*arguments, code=code, **environment)
        if soaking():
            real(*arguments, code=code, **environment)
    lines = cli.terminal("tenant", "ls", PYTHONIOENCODING="ascii").splitlines()
    assert lines[1].split()[-1] == "-"


def test_an_argument_that_is_not_text_in_the_locale(cli: Cli) -> None:
    posix = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert "RK7002" in Cli(cli.directory, cli.environment, REAL)("sql", "SELECT 'ö'", code=2, **posix).err


def test_no_color(cli: Cli) -> None:
    coloured = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    for arguments, code in ((("get", "nosuch"), 7), (("doctor",), 0)):
        assert coloured.search(cli.terminal(*arguments, code=code, TERM="xterm"))
        assert not coloured.search(cli.terminal(*arguments, code=code, TERM="xterm", NO_COLOR="1"))
        assert "\x1b" not in cli(*arguments, code=code).text


def test_characters_that_rearrange_a_line_are_shown_as_escapes(cli: Cli) -> None:
    shown = screen(cli, "sql", "SELECT 'a\u202eb\u2066c' AS text, 'd\re' AS name", columns=200)
    assert shown.splitlines()[1].split() == ["a\\u202eb\\u2066c", "d\\re"]
    rows = screen(cli, "sql", "SELECT 'a\x1b[2Jb\u202ec' AS text", "--format", "csv", columns=200)
    assert rows.splitlines()[1] == '"a\\x1b[2Jb\\u202ec"'
    refused = screen(cli, "tenant", "show", "x\u202ey", columns=200, code=7)
    assert "x\\u202ey" in refused
