"""The published article's flow, as the script in `examples/tenant_tables` and as single commands."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.commands import ROOT, for_server
from tests.cli.writers import history, writing
from tests.support.server import Server, running

PROJECT = ROOT / "examples" / "tenant_tables"
OLD = 40
"""Rows of each tenant that are in landing before its view."""
FACTS = "count() AS rows, sum(units) AS total, groupBitXor(units) AS all_of_them"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the article's landing datasource and rows of tenants that are not provisioned."""
    with running(tmp_path_factory.mktemp("article")) as server:
        for_server(server, PROJECT)("push", "events")
        history(server, range(1, 100), OLD)
        yield server


def checkout(directory: Path) -> Path:
    """A throw-away checkout."""
    shutil.copytree(PROJECT, directory, ignore=shutil.ignore_patterns(".rookery"))
    return directory


def provision(server: Server, directory: Path, tenant: int, forked: Path) -> str:
    """Run the script; its output, which is the tenant's token."""
    cli = for_server(server, directory)
    environment = cli.seen(PATH=f"{forked}:{cli.seen()['PATH']}")
    completed = subprocess.run(
        [directory / "provision.sh", str(tenant)],
        env=environment,
        cwd=directory.parent,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.strip()


def assert_exact(server: Server, *tenants: int) -> None:
    """Each tenant's datasource holds its rows of landing, each exactly once, and nothing else."""
    for tenant in tenants:
        mine = server.sql(f"SELECT {FACTS} FROM tenant_{tenant}_ds")
        assert mine == server.sql(f"SELECT {FACTS} FROM events WHERE tenant_id = {tenant}"), f"tenant {tenant}"
        assert mine[0]["rows"] >= OLD


def refused(server: Server, token: str, path: str, **kwargs: object) -> int:
    answer = server.get(path, token, **kwargs)
    assert answer.status_code >= 400, f"{path} answered {answer.text}"
    assert "error" in answer.json()
    return answer.status_code


@pytest.mark.proves("B1", "B4", "B5", "B6", "B7", "B10", "B11", "B16")
def test_the_script_provisions_a_tenant_and_does_nothing_when_run_again(
    server: Server, tmp_path: Path, forked: Path
) -> None:
    with writing(server, range(1, 10)) as written:
        token = provision(server, checkout(tmp_path / "first"), 1, forked)
        written.wait(3)
    assert_exact(server, 1)
    usage = server.get("/v0/pipes/tenant_1_usage_current_month.json", token).json()
    assert {"meta", "data", "rows", "statistics"} <= usage.keys()
    assert sum(r["events"] for r in usage["data"]) == server.sql(f"SELECT {FACTS} FROM tenant_1_ds")[0]["rows"]

    before = server.admin_json("GET", "/v0/workspace")
    assert provision(server, tmp_path / "first", 1, forked) == token
    assert server.admin_json("GET", "/v0/workspace") == before, "a second run of the same checkout changed something"
    assert provision(server, checkout(tmp_path / "second"), 1, forked) == token
    assert_exact(server, 1)
    for directory in ("first", "second"):
        for_server(server, tmp_path / directory)("plan")


def test_appended_files_reach_their_tenants(server: Server, tmp_path: Path) -> None:
    directory = checkout(tmp_path / "files")
    cli = for_server(server, directory)
    written = cli("pipe", "generate", "tenant_20_pipe", "SELECT units FROM events WHERE tenant_id = 20").out.strip()
    assert written == "pipes/tenant_20_pipe.yaml"
    assert "WHERE tenant_id = 20" in (directory / written).read_text()
    cli("check")
    cli("pipe", "generate", "tenant_20_pipe", "SELECT units FROM events WHERE tenant_id = 20")
    assert "--force" in cli("pipe", "generate", "tenant_20_pipe", "SELECT 1", code=4).err
    assert "WHERE tenant_id = 20" in (directory / written).read_text()


@dataclass(frozen=True)
class Provisioned:
    """A checkout with which tenants 10 and 11 were provisioned, and their tokens."""

    directory: Path
    tokens: tuple[str, ...]


@pytest.fixture(scope="module")
def provisioned(server: Server, tmp_path_factory: pytest.TempPathFactory, forked: Path) -> Provisioned:
    directory = checkout(tmp_path_factory.mktemp("two") / "checkout")
    return Provisioned(directory, tuple(provision(server, directory, tenant, forked) for tenant in (10, 11)))


@pytest.mark.proves("B3", "B12", "B13")
def test_a_tenants_token_reads_its_two_resources_and_nothing_else(server: Server, provisioned: Provisioned) -> None:
    one, two = provisioned.tokens
    for tenant, token in ((10, one), (11, two)):
        assert server.get(f"/v0/pipes/tenant_{tenant}_usage_current_month.json", token).status_code == 200
        rows = server.sql(f"SELECT {FACTS} FROM tenant_{tenant}_ds", token)
        assert rows == server.sql(f"SELECT {FACTS} FROM events WHERE tenant_id = {tenant}")
        assert server.sql(f"SELECT sum(events) AS n FROM tenant_{tenant}_usage_current_month", token)
    for path in ("tenant_11_usage_current_month.json", "tenant_11_pipe.json", "tenant_11_ds.json", "events.json"):
        assert refused(server, one, f"/v0/pipes/{path}") == 403
    for table in (
        "tenant_11_ds",
        "tenant_11_pipe",
        "tenant_11_usage_current_month",
        "tenant_10_pipe",
        "events",
        "main.events",
        "main.tenant_11_ds",
        "main._rk_tenant_11_pipe",
        "system.tables",
    ):
        status = refused(server, one, "/v0/sql", params={"q": f"SELECT * FROM {table}"})
        assert status == (400 if "_rk_" in table else 403), table
    both = "SELECT * FROM tenant_10_ds UNION ALL SELECT * FROM tenant_11_ds"
    assert refused(server, one, "/v0/sql", params={"q": both}) == 403
    for path in ("/v0/datasources", "/v0/pipes", "/v0/tokens", "/v0/tenants", "/v0/datasources/tenant_10_ds"):
        assert refused(server, one, path) == 403


@pytest.mark.proves("B7", "B16")
@pytest.mark.parametrize("number", [4, pytest.param(50, marks=pytest.mark.soak_only)])
def test_scripts_at_the_same_time_do_not_conflict(server: Server, tmp_path: Path, forked: Path, number: int) -> None:
    """All are the script itself, each in a checkout of its own. Its `rookery` is forked from a process that has
    imported the command line already: 350 starts of half a second each would only measure this machine."""
    first = 90 - number
    tenants = range(first, first + number)
    # All scripts are written before the first one starts: a fork would hold a script open, which then cannot run.
    checkouts = {tenant: checkout(tmp_path / f"checkout{tenant}") for tenant in tenants}

    def one(tenant: int) -> str:
        return provision(server, checkouts[tenant], tenant, forked)

    with writing(server, range(1, 100), pause=0.5) as written, ThreadPoolExecutor(8) as hands:
        tokens = list(hands.map(one, tenants))
        written.wait(3)
    assert len(set(tokens)) == number
    assert_exact(server, *tenants)
    for tenant, token in zip(tenants, tokens, strict=True):
        assert server.get(f"/v0/pipes/tenant_{tenant}_usage_current_month.json", token).status_code == 200
    for tenant in (tenants[0], tenants[-1]):
        for_server(server, tmp_path / f"checkout{tenant}")("plan")


@pytest.mark.proves("B15")
def test_removing_a_tenants_datasource_never_disturbs_inserts(server: Server, tmp_path: Path, forked: Path) -> None:
    cli = for_server(server, checkout(tmp_path / "removal"))
    token = provision(server, cli.directory, 7, forked)
    with writing(server, range(1, 100)) as written:
        written.wait(2)
        refusal = cli("datasource", "rm", "tenant_7_ds", code=4).err
        assert "RK3003" in refusal
        assert "tenant_7_pipe" in refusal
        shown = cli("datasource", "rm", "tenant_7_ds", "--force", "--dry-run", "--json").json
        assert set(shown["removed"]) == {"tenant_7_ds", "tenant_7_pipe", "tenant_7_usage_current_month"}
        assert server.sql("SELECT count() AS n FROM tenant_7_ds")
        cli("datasource", "rm", "tenant_7_ds", "--force")
        written.wait(3)
    assert refused(server, token, "/v0/pipes/tenant_7_usage_current_month.json") == 403
    assert refused(server, token, "/v0/sql", params={"q": "SELECT * FROM tenant_7_ds"}) == 403
    assert not [t for t in server.admin_json("GET", "/v0/tokens")["tokens"] if t["name"] == "tenant_7_token"]
    cli("datasource", "rm", "tenant_7_ds", "--force", code=7)
    # The files are still in the checkout: the tenant comes back with all its rows, those of the meantime too.
    assert provision(server, cli.directory, 7, forked) != token
    assert_exact(server, 7)


@pytest.mark.proves("B14")
def test_a_change_of_one_tenants_tables_leaves_the_other_tenants_alone(
    server: Server, provisioned: Provisioned
) -> None:
    cli = for_server(server, provisioned.directory)

    def eleven() -> object:
        shown = [
            server.admin_json("GET", "/v0/datasources/tenant_11_ds"),
            server.admin_json("GET", "/v0/pipes/tenant_11_pipe"),
        ]
        return shown, server.sql("SELECT * FROM tenant_11_ds ORDER BY ALL"), _modified(server, 11)

    before = eleven()
    target = cli.directory / "datasources/tenants/tenant_10_ds.yaml"
    pipe = cli.directory / "pipes/tenants/tenant_10_pipe.yaml"
    target.write_text(
        target.read_text().replace("  - {name: units", "  - {name: doubled, type: UInt64}\n  - {name: units")
    )
    pipe.write_text(pipe.read_text().replace("event, units", "event, units * 2 AS doubled, units"))
    refusal = cli("push", "tenant_10_ds", "tenant_10_pipe", code=4).err
    assert "--allow-destructive tenant_10_pipe" in refusal
    assert "drops and recomputes" in refusal
    result = cli("push", "tenant_10_ds", "tenant_10_pipe", "--allow-destructive", "tenant_10_pipe", "--json").json
    assert {s["resource"] for s in result["steps"]} == {"tenant_10_ds", "tenant_10_pipe"}
    assert eleven() == before
    assert_exact(server, 10, 11)
    assert server.sql("SELECT countIf(doubled != units * 2) AS wrong FROM tenant_10_ds") == [{"wrong": 0}]


def _modified(server: Server, tenant: int) -> object:
    return server.admin_json("GET", f"/v0/pipes/tenant_{tenant}_usage_current_month")


@pytest.mark.proves("B8")
def test_a_column_added_to_landing_reaches_only_views_that_name_it_and_breaks_none(tmp_path: Path) -> None:
    with running(tmp_path / "server") as server:
        cli = for_server(server, checkout(tmp_path / "star"))
        landing = cli.directory / "datasources/events.yaml"
        landing.write_text(landing.read_text().replace(", nest_copy: false", ""))
        cli("push")
        history(server, range(1, 4), OLD)
        cli("pipe", "generate", "tenant_1_pipe", "SELECT * FROM events WHERE tenant_id = 1")
        cli("materialize", "tenant_1_pipe", "tenant_1_ds")
        cli("tenant", "add", "2", "--placement", "tables")
        columns = [c["name"] for c in server.admin_json("GET", "/v0/datasources/tenant_1_ds")["columns"]]
        assert columns == ["tenant_id", "timestamp", "event", "units"]
        landing.write_text(
            landing.read_text().replace(
                "engine:\n", "  - {name: region, type: String, default: \"'eu'\"}\n\nengine:\n"
            )
        )
        with writing(server, [1, 2, 3]) as written:
            written.wait(2)
            result = cli("push", "events", "--json").json
            written.wait(2)
        assert not any(s["destructive"] for s in result["steps"])
        assert [w["code"] for w in result["warnings"]] == ["RK2011"]
        assert "`region` by `*`" in result["warnings"][0]["error"]
        server.events("events", [{"tenant_id": t, "event": "a", "units": 5, "region": "us"} for t in (1, 2)])
        assert_exact(server, 1)
        assert [c["name"] for c in server.admin_json("GET", "/v0/datasources/tenant_1_ds")["columns"]] == columns
        copied = server.admin_json(
            "POST",
            "/v0/sql",
            content="SELECT region, count() AS n FROM events GROUP BY region ORDER BY region FORMAT JSON",
            headers={"x-rookery-tenant": "2"},
        )["data"]
        assert [r["region"] for r in copied] == ["eu", "us"]
        cli("plan")
