"""What `plan` and `push` print: losses first, one line for all nests, the permission that is needed, and a diff."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.billing import FILES
from tests.cli.commands import Cli, for_server
from tests.cli.writers import history
from tests.support.server import Server, running

PIPE = "pipes/usage_pipe.yaml"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A workspace with three tenants that have tables, and history."""
    with running(tmp_path_factory.mktemp("plan")) as server:
        server.push(FILES)
        history(server, [1, 2, 3], 60)
        for tenant in (1, 2, 3):
            server.tenant(str(tenant), "tables")
        yield server


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    """A checkout of what is deployed, in which a query is changed."""
    cli = for_server(server, tmp_path / "checkout")
    cli.write({**FILES, PIPE: FILES[PIPE].replace("FROM events", "FROM events WHERE event != 'z'")})
    return cli


def test_a_plan_before_the_first_push(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write(FILES)
    out = cli("plan", code=3).out
    first, *lines = out.splitlines()
    assert first == "Created"
    assert "  + datasource events (datasources/events.yaml)" in lines
    assert "  + table events" in lines
    assert "@@" not in out and "Changed" not in out and "Lost" not in out


def test_a_rebuild_is_grouped_over_nests_and_names_the_permission(cli: Cli) -> None:
    out = cli("plan", code=3).out
    assert "Changed\n  ~ pipe usage_pipe (pipes/usage_pipe.yaml)\n" in out
    assert out.count("table usage_daily in 3 nests: rebuilt") == 1
    assert out.splitlines()[-1] == "needs --allow-destructive usage_pipe"
    assert "Lost" not in out


def test_the_diff_compares_with_what_is_deployed(cli: Cli) -> None:
    lines = cli("plan", code=3).out.splitlines()
    assert f"--- deployed/{PIPE}" in lines and f"+++ {PIPE}" in lines
    changed = [line for line in lines if line.startswith(("+", "-")) and line[:3] not in ("+++", "---")]
    assert len(changed) == 2 and "event != 'z'" in changed[1]
    assert "@@" not in cli("plan", "--no-diff", code=3).out
    (change,) = cli("plan", "--json", code=3).json["changes"]
    assert change["diff"].splitlines()[0] == f"--- deployed/{PIPE}"


def test_losses_are_first(cli: Cli, server: Server) -> None:
    extra = "columns:\n  - {name: a, type: UInt64}\nengine: {sorting_key: tuple()}\n"
    cli.write({"datasources/extra.yaml": extra})
    cli("push", "extra")
    server.events("extra", [{"a": 1}])
    cli.write({"datasources/extra.yaml": extra.replace("UInt64", "UInt8")})
    lines = cli("plan", code=3).out.splitlines()
    assert lines[0] == "Lost"
    assert lines[1].startswith("  ! column extra.a: type UInt64 → UInt8; converts 1 row, and loses values")
    assert lines[-2].startswith("1 lost, ")
    assert lines[-1] == "needs --allow-destructive extra --allow-destructive usage_pipe"
    (cli.directory / "datasources/extra.yaml").unlink()
    pruned = cli("plan", "--prune", code=3).out
    assert "  ! table extra: is no longer declared; loses its 1 row\n" in pruned
    assert "Removed\n  - datasource extra (datasources/extra.yaml)\n" in pruned
    cli.write(FILES)
    cli("push", "--prune", "--allow-destructive", "extra", "--allow-destructive", "extra_quarantine")


def test_a_refused_push_prints_its_plan(cli: Cli, server: Server) -> None:
    before = server.admin_json("GET", "/v0/workspace")
    done = cli("push", code=4)
    assert "table usage_daily in 3 nests" in done.out and "@@" in done.out
    assert "RK3001" in done.err and "table usage_daily" in done.err
    assert server.admin_json("GET", "/v0/workspace") == before


def test_a_push_prints_its_plan_once(server: Server, cli: Cli) -> None:
    cli.write(FILES)
    cli.write({"endpoints/extra.yaml": "sql: SELECT count() AS n FROM events\n"})
    done = cli("push")
    assert done.out.count("+ pipe extra (endpoints/extra.yaml)") == 1
    assert "needs" not in done.out
    assert "pushed" in done.err
    assert "plan" not in cli("push", "--json").json
    cli("pipe", "rm", "extra")


def test_colors(cli: Cli) -> None:
    green = "\x1b[32m"
    assert green in cli.terminal("plan", code=3, TERM="xterm")
    assert green not in cli.terminal("plan", code=3, TERM="xterm", NO_COLOR="1")
    assert "\x1b" not in cli("plan", code=3).out
