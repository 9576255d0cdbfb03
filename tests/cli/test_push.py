"""What a push does: merging, permission, rebuilding, pruning, and what it never changes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.billing import FILES, KINDS, USAGE, USAGE_PIPE, assert_exact, assert_kinds_exact, rows_as_tenant
from tests.cli.commands import Cli, for_server, write
from tests.cli.writers import history, writing
from tests.support.server import Server, running

TABLES, POOLED, UNKNOWN = [1, 2], [3, 4], [5]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A workspace with two tenants of each placement, history, and rows of a tenant that does not exist."""
    with running(tmp_path_factory.mktemp("push")) as server:
        server.push(FILES)
        history(server, TABLES + POOLED + UNKNOWN, 60)
        for tenant in TABLES:
            server.tenant(str(tenant), "tables")
        for tenant in POOLED:
            server.tenant(str(tenant), "pooled")
        yield server


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Iterator[Cli]:
    """A checkout of what is deployed; afterwards everything is as the files say again."""
    cli = for_server(server, tmp_path / "checkout")
    cli.write(FILES)
    before = server.admin_json("GET", "/v0/workspace")
    yield cli
    if server.admin_json("GET", "/v0/workspace") == before:
        return
    for file in cli.directory.rglob("*.yaml"):
        file.unlink()
    cli.write(FILES)
    names = [*(Path(f).stem for f in FILES), "extra", "unseen", "fine"]
    cli("push", "--prune", *(a for name in names for a in ("--allow-destructive", name)))


def edit(cli: Cli, file: str, old: str, new: str) -> None:
    path = cli.directory / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_second_push_and_a_plan_find_nothing_to_do(cli: Cli, server: Server) -> None:
    before = server.admin_json("GET", "/v0/workspace")
    result = cli("push", "--json").json
    assert (result["changes"], result["steps"]) == ([], [])
    assert "nothing to do" in cli("plan").err
    assert server.admin_json("GET", "/v0/workspace") == before
    edit(cli, "endpoints/usage.yaml", "ORDER BY event", "ORDER BY event DESC")
    assert "~ pipe usage" in cli("plan", code=3).out
    cli("plan", code=3)
    cli("push", "usage")
    cli("plan")


def test_undeclared_resources_are_reported_and_kept(cli: Cli, server: Server) -> None:
    cli.write({"datasources/unseen.yaml": KINDS})
    assert "not in any file" not in cli("push").err
    (cli.directory / "datasources/unseen.yaml").unlink()
    for command in ("plan", "push"):
        warnings = cli(command).err
        assert "not in any file: unseen;" in warnings and "--prune" in warnings
    assert cli("push", "--json").json["undeclared"] == ["unseen"]
    assert "unseen" in {d["name"] for d in server.admin_json("GET", "/v0/datasources")["datasources"]}


def test_a_dry_run_changes_nothing(cli: Cli, server: Server) -> None:
    before = server.admin_json("GET", "/v0/workspace"), server.admin_json("GET", "/v0/datasources")
    cli.write({"datasources/unseen.yaml": KINDS})
    cli.write(CHANGES["a changed type"])
    shown = cli("push", "--dry-run", "--json").json
    assert ("unseen", "datasource", "created") in [(c["name"], c["kind"], c["what"]) for c in shown["changes"]]
    assert any(s["destructive"] for s in shown["steps"])
    assert not shown["applied"]
    assert (server.admin_json("GET", "/v0/workspace"), server.admin_json("GET", "/v0/datasources")) == before


def test_a_push_of_some_files_merges_and_drops_nothing(cli: Cli, server: Server, tmp_path: Path) -> None:
    other = cli.at(tmp_path / "other")
    write(other.directory, {"endpoints/second.yaml": "sql: SELECT count() AS n FROM events\n"})
    other("push", "endpoints/second.yaml")
    other("push")
    names = {p["name"] for p in server.admin_json("GET", "/v0/pipes")["pipes"]}
    assert {"second", "usage", "usage_pipe", "kinds_pipe"} <= names
    assert_exact(server, TABLES, POOLED)

    shown = cli("plan", "--prune", code=3).out
    assert "- pipe second" in shown
    assert "usage" not in shown
    assert "nothing to do" in cli("plan").err
    cli("push", "--prune", "--dry-run")
    assert "second" in {p["name"] for p in server.admin_json("GET", "/v0/pipes")["pipes"]}
    cli("push", "--prune")
    assert "second" not in {p["name"] for p in server.admin_json("GET", "/v0/pipes")["pipes"]}


def test_pruning_a_datasource_needs_its_name(cli: Cli, server: Server) -> None:
    cli.write({"datasources/extra.yaml": "columns:\n  - {name: a, type: String}\nengine: {sorting_key: a}\n"})
    cli("push", "extra")
    server.events("extra", [{"a": "one"}])
    (cli.directory / "datasources/extra.yaml").unlink()
    refusal = cli("push", "--prune", code=4).err
    assert "RK3001" in refusal
    assert "loses its 1 row" in refusal
    assert "--allow-destructive extra" in refusal
    assert server.sql("SELECT * FROM extra") == [{"a": "one"}]
    cli("push", "--prune", "--allow-destructive", "extra")
    assert "extra" not in {d["name"] for d in server.admin_json("GET", "/v0/datasources")["datasources"]}


def test_two_pushes_at_once_converge(cli: Cli, server: Server) -> None:
    cli.write({f"endpoints/e{n}.yaml": f"sql: SELECT {n} AS n, count() AS c FROM events\n" for n in range(4)})
    with writing(server, [1, 3, 5]), ThreadPoolExecutor(4) as hands:
        list(hands.map(lambda n: cli("push", f"endpoints/e{n % 2}.yaml", f"endpoints/e{n}.yaml"), range(4)))
    cli("plan")
    cli("push", "--prune")
    for n in range(4):
        (cli.directory / f"endpoints/e{n}.yaml").unlink()
    cli("push", "--prune")
    assert_exact(server, TABLES, POOLED)


CHANGES = {
    "a changed view": {
        "pipes/usage_pipe.yaml": USAGE_PIPE.replace("FROM events GROUP", "FROM events WHERE event != 'c' GROUP")
    },
    "a changed sorting key": {
        "datasources/usage_daily.yaml": USAGE.replace("[tenant_id, event]", "[tenant_id, units, event]")
        .replace("SummingMergeTree", "MergeTree")
        .replace(", columns: [events, units]", "")
    },
    "a changed type": {
        "datasources/usage_daily.yaml": USAGE.replace("{name: events, type: UInt64}", "{name: events, type: Int64}")
    },
    "a dropped column": {
        "datasources/usage_daily.yaml": USAGE.replace("  - {name: extra, type: UInt64}\n", ""),
        "pipes/usage_pipe.yaml": USAGE_PIPE,
    },
}
WIDER = {
    "datasources/usage_daily.yaml": USAGE.replace("engine:", "  - {name: extra, type: UInt64}\nengine:"),
    "pipes/usage_pipe.yaml": USAGE_PIPE.replace("AS units", "AS units, count() AS extra"),
}


# A target of the workspace is rebuilt for a changed type below.
@pytest.mark.parametrize(
    "change",
    [pytest.param(c, marks=[pytest.mark.soak_only] if c == "a changed type" else []) for c in CHANGES],
)
def test_destructive_changes_need_permission_by_name_and_are_rebuilt_exactly(
    cli: Cli, server: Server, change: str
) -> None:
    also = " AND event != 'c'" if change == "a changed view" else ""
    if change == "a dropped column":
        cli.write(WIDER)
        cli("push", "--allow-destructive", "usage_pipe", "--allow-destructive", "usage_daily")
    cli.write(CHANGES[change])
    refusal = cli("push", code=4).err
    assert "RK3001" in refusal
    assert "recomput" in refusal
    names = [w for w in ("usage_daily", "usage_pipe") if f"--allow-destructive {w}" in refusal]
    assert names
    assert_exact(server, TABLES, POOLED)
    with writing(server, TABLES + POOLED + UNKNOWN, threads=2) as written:
        written.wait(2)
        cli("push", *(a for n in names for a in ("--allow-destructive", n)))
        written.wait(2)
    assert_exact(server, TABLES, POOLED, also)
    assert_kinds_exact(server)
    cli("plan")


def test_a_rebuilt_workspace_target_is_exact(cli: Cli, server: Server) -> None:
    edit(cli, "datasources/kinds.yaml", "{name: units, type: UInt64}", "{name: units, type: Int64}")
    refusal = cli("push", code=4).err
    assert "--allow-destructive kinds" in refusal
    with writing(server, TABLES + UNKNOWN) as written:
        cli("push", "--allow-destructive", "kinds")
        written.wait(2)
    assert_kinds_exact(server)
    assert_exact(server, TABLES, POOLED)


def test_a_pipe_removed_and_pushed_again_counts_rows_once(cli: Cli, server: Server) -> None:
    for pipe in ("kinds_pipe", "usage_pipe"):
        cli("pipe", "rm", pipe, "--force")
        server.events("events", [{"tenant_id": t, "event": "meanwhile"} for t in TABLES + POOLED])
        shown = cli("plan", code=3).out
        assert "which fed it, is gone" in shown
        cli("push")
        cli("plan")
    assert_kinds_exact(server)
    assert_exact(server, TABLES, POOLED)


def test_a_permission_for_another_name_is_not_enough(cli: Cli, server: Server) -> None:
    cli.write(CHANGES["a changed view"])
    assert "usage_pipe" in cli("push", "--allow-destructive", "kinds", code=4).err
    assert_exact(server, TABLES, POOLED)


def test_added_columns_need_no_permission_and_are_in_every_nest(cli: Cli, server: Server) -> None:
    edit(cli, "datasources/events.yaml", "engine:", "  - {name: region, type: String, default: \"'eu'\"}\nengine:")
    with writing(server, TABLES + POOLED) as written:
        written.wait(2)
        result = cli("push", "--json").json
        written.wait(2)
    assert not any(s["destructive"] for s in result["steps"])
    rows = [{"tenant_id": t, "event": "a", "region": "us"} for t in TABLES + POOLED]
    server.events("events", rows)
    for tenant in TABLES + POOLED:
        regions = rows_as_tenant(server, tenant, "SELECT DISTINCT region FROM events ORDER BY region")
        assert regions == [{"region": "eu"}, {"region": "us"}]
    assert_exact(server, TABLES, POOLED)
    (cli.directory / "datasources/events.yaml").write_text(FILES["datasources/events.yaml"])
    refusal = cli("push", code=4).err
    assert "values in" in refusal
    assert "loses" in refusal


def test_a_changed_endpoint_changes_nothing_else(cli: Cli, server: Server) -> None:
    token = server.mint("PIPES:READ:usage", tenant="1")
    edit(cli, "endpoints/usage.yaml", "sum(units) AS units", "sum(units) * 0 AS units")
    result = cli("push", "--json").json
    assert result["steps"] == []
    assert {r["units"] for r in server.get("/v0/pipes/usage.json", token).json()["data"]} == {0}


def test_an_invalid_file_changes_nothing(cli: Cli, server: Server) -> None:
    before = server.admin_json("GET", "/v0/workspace")
    cli.write({"datasources/fine.yaml": KINDS, "endpoints/wrong.yaml": "sql: SELECT nothing FROM events\n"})
    assert "RK2007" in cli("push", code=1).err
    assert server.admin_json("GET", "/v0/workspace") == before


def test_an_unused_allow_name_is_a_warning(cli: Cli, server: Server) -> None:
    outcome = cli("push", "--dry-run", "--allow-destructive", "usge", "--allow-destructive", "usage")
    assert "RK3007" in outcome.err and "`usge`" in outcome.err
    assert "did you mean `usage`?" in outcome.err
    assert "named `usage`" not in outcome.err


def test_a_plan_shows_a_change_of_the_fanout_mode(cli: Cli, server: Server) -> None:
    events = cli.directory / "datasources/events.yaml"
    text = events.read_text()
    assert "tenant: tenant_id" in text
    events.write_text(text.replace("tenant: tenant_id", "tenant: {column: tenant_id, fanout: routed}"))
    assert "fan-out of events: direct → routed" in cli("plan", code=3).out
    output = cli("push", "--dry-run", "--json").json["fanout"]
    assert output == [{"datasource": "events", "from": "direct", "to": "routed"}]
