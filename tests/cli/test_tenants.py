"""Tenants by command: provisioning in both placements, history, rows that wait, removal, and the shapes of pipes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.billing import EVENTS, FACTS, FILES, TRUTH, USAGE, USAGE_PIPE, assert_exact, rows_as_tenant
from tests.cli.commands import Cli, for_server
from tests.cli.writers import history, writing
from tests.support.server import Server, running

SECOND_LEVEL = {
    "datasources/totals.yaml": """
tenant: {column: tenant_id, landing: false}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: units, type: UInt64}
engine: {type: SummingMergeTree, sorting_key: [tenant_id], columns: [units]}
""",
    "pipes/totals_pipe.yaml": """
nodes:
  - name: totals_sums
    sql: SELECT tenant_id, sum(units) AS units FROM usage_daily GROUP BY tenant_id
materialize: {target: totals, per_tenant: true, drop_tenant_column: true}
""",
}
TWO_LANDINGS = {
    "datasources/web.yaml": EVENTS,
    "datasources/app.yaml": EVENTS,
    "datasources/feeds.yaml": USAGE,
    "datasources/united.yaml": USAGE.replace("usage_daily", "united"),
    "pipes/web_pipe.yaml": USAGE_PIPE.replace("usage_sums", "web_sums")
    .replace("FROM events", "FROM web")
    .replace("usage_daily", "feeds"),
    "pipes/app_pipe.yaml": USAGE_PIPE.replace("usage_sums", "app_sums")
    .replace("FROM events", "FROM app")
    .replace("usage_daily", "feeds"),
    "pipes/united_pipe.yaml": """
nodes:
  - name: united_sums
    sql: |
      SELECT tenant_id, event, count() AS events, sum(units) AS units FROM web GROUP BY tenant_id, event
      UNION ALL
      SELECT tenant_id, event, count() AS events, sum(units) AS units FROM app GROUP BY tenant_id, event
materialize: {target: united, per_tenant: true}
""",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("tenants")) as server:
        server.push({**FILES, **SECOND_LEVEL, **TWO_LANDINGS})
        history(server, range(1, 60), 20)
        for landing in ("web", "app"):
            history(server, range(1, 60), 10, landing)
        yield server


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    return for_server(server, tmp_path)


def listed(cli: Cli) -> dict[str, dict[str, object]]:
    return {t["id"]: t for t in cli("tenant", "ls", "--json").json}


def test_add_ls_show_rm_in_both_placements(cli: Cli, server: Server) -> None:
    for tenant, placement in (("1", "tables"), ("2", "pooled")):
        assert "added" in cli("tenant", "add", tenant, "--placement", placement).err
        before = server.admin_json("GET", "/v0/workspace")
        assert "exists already" in cli("tenant", "add", tenant, "--placement", placement).err
        assert "exists already" in cli("tenant", "add", tenant).err
        assert server.admin_json("GET", "/v0/workspace")["tenants"] == before["tenants"]
    assert_exact(server, [1], [2])
    listing = listed(cli)
    assert (listing["1"]["placement"], listing["1"]["state"], listing["1"]["rows"]) == ("tables", "ready", 20 + 20)
    assert (listing["2"]["placement"], listing["2"]["state"]) == ("pooled", "ready")
    shown = cli("tenant", "show", "1", "--json").json
    assert {t["name"] for t in shown["tables"]} >= {"events", "usage_daily", "totals", "feeds"}
    assert cli("tenant", "show", "2", "--json").json["tables"] == []
    assert "main_nest_1" in cli("tenant", "show", "1").out

    other = cli("tenant", "add", "1", "--placement", "pooled", code=4).err
    assert "RK3006" in other
    for tenant in ("1", "2"):
        cli("tenant", "rm", tenant)
        assert "RK3004" in cli("tenant", "rm", tenant, code=7).err
        assert "RK3004" in cli("tenant", "show", tenant, code=7).err
    assert listed(cli)["1"]["state"] == "unknown"
    assert_exact(server, [], [])


def test_ids_that_are_empty_or_not_canonical_are_refused(cli: Cli) -> None:
    before = listed(cli)
    for tenant in ("01", "1.0", "true", "-1", "4294967296", "x", " 1", "1 ", "+1", "1e3", "Null"):
        assert "RK3005" in cli("tenant", "add", "--", tenant, code=1).err
    assert "RK7002" in cli("tenant", "add", "--", "", code=2).err
    assert listed(cli) == before


def test_ids_from_standard_input_are_added_all_or_none(cli: Cli) -> None:
    assert "RK3005" in cli("tenant", "add", "-", code=1, input="50\n051\n").err
    assert listed(cli)["50"]["state"] == "unknown"
    cli("tenant", "add", "-", input="50\n51\n\n50\n")
    assert {listed(cli)[t]["state"] for t in ("50", "51")} == {"ready"}
    for tenant in ("50", "51"):
        cli("tenant", "rm", tenant)
    assert cli("tenant", "add", "52", "--placement", "elsewhere", code=1).err


def test_rows_of_an_unknown_tenant_are_kept_and_counted(cli: Cli, server: Server) -> None:
    server.events("events", [{"tenant_id": 900, "event": "a", "units": n} for n in range(7)])
    assert listed(cli)["900"] == {
        "id": "900",
        "placement": None,
        "state": "unknown",
        "created_at": "",
        "rows": 7,
        "lag_rows": 0,
        "lag_seconds": 0.0,
        "error": None,
    }
    assert "900" in cli("tenant", "ls").out
    assert_exact(server, [], [])
    cli("tenant", "add", "900", "--placement", "tables")
    assert rows_as_tenant(server, 900, "SELECT count() AS n FROM events") == [{"n": 7}]
    cli("tenant", "rm", "900")
    cli("tenant", "add", "900", "--placement", "pooled")
    assert_exact(server, [], [900])
    cli("tenant", "rm", "900")


@pytest.mark.proves("B6", "B7", "D4")
@pytest.mark.parametrize(("first", "number"), [(10, 4), pytest.param(16, 10, marks=pytest.mark.soak_only)])
def test_tenants_added_while_four_writers_insert(cli: Cli, server: Server, first: int, number: int) -> None:
    tables, pooled = (list(range(start, first + number, 2)) for start in (first, first + 1))
    written_to = range(first, first + number + 10)
    before = server.sql("SELECT count() AS n FROM events")[0]["n"]
    with writing(server, written_to, threads=4) as written:
        written.wait(4)
        with ThreadPoolExecutor(4) as hands:
            adding = [hands.submit(cli, "tenant", "add", t, "--placement", "tables") for t in tables[:-1]]
            adding += [hands.submit(cli, "tenant", "add", t, "--placement", "pooled") for t in pooled[:-1]]
            for added in adding:
                added.result()
        cli("tenant", "add", *tables, "--placement", "tables")
        cli("tenant", "add", *pooled, "--placement", "pooled")
        written.wait(8)
    assert server.sql("SELECT count() AS n FROM events")[0]["n"] == before + written.rows
    assert_exact(server, tables, pooled)

    # Removed and added again, the other way round: delivered again, exactly once.
    with writing(server, written_to, threads=2) as written:
        for tenant, placement in ((tables[0], "pooled"), (pooled[0], "tables")):
            cli("tenant", "rm", tenant)
            written.wait(2)
            cli("tenant", "add", tenant, "--placement", placement)
            written.wait(2)
    assert_exact(server, [pooled[0], *tables[1:]], [tables[0], *pooled[1:]])
    cli("tenant", "rm", tables[1])
    cli("tenant", "rm", pooled[1])
    cli("tenant", "add", tables[1], "--placement", "tables")
    cli("tenant", "add", pooled[1])
    assert_exact(server, [pooled[0], *tables[1:]], [tables[0], *pooled[1:]])


@pytest.mark.proves("B15")
def test_removal_drops_the_tenants_tokens_and_never_disturbs_inserts(cli: Cli, server: Server) -> None:
    for tenant, placement in (("30", "tables"), ("31", "pooled")):
        cli("tenant", "add", tenant, "--placement", placement)
        static = cli("token", "create", f"of {tenant}", "--scope", "PIPES:READ:usage", "--tenant", tenant).out.strip()
        jwt = cli("token", "mint", "m", "--scope", "PIPES:READ:usage", "--tenant", tenant).out.strip()
        assert server.get("/v0/pipes/usage.json", static).json()["data"]
        with writing(server, [30, 31]) as written:
            written.wait(2)
            cli("tenant", "rm", tenant)
            written.wait(2)
        assert f"of {tenant}" not in cli("token", "ls").out
        for token in (static, jwt):
            assert server.get("/v0/pipes/usage.json", token).status_code == 403
        cli("tenant", "add", tenant, "--placement", placement)
        assert server.get("/v0/pipes/usage.json", static).status_code == 403
        assert server.get("/v0/pipes/usage.json", jwt).status_code == 200
        cli("tenant", "rm", tenant)


def test_purge_erases_rows_in_landing(cli: Cli, server: Server) -> None:
    cli("tenant", "add", "33", "--placement", "tables")
    cli("tenant", "rm", "33", "--purge")
    assert "33" not in listed(cli)
    assert server.sql("SELECT count() AS n FROM events WHERE tenant_id = 33") == [{"n": 0}]


def test_rows_of_an_unknown_tenant_can_be_erased(cli: Cli, server: Server) -> None:
    server.events("events", [{"tenant_id": 77, "event": "a", "units": 1}])
    assert "RK3004" in cli("tenant", "rm", "77", code=7).err
    cli("tenant", "rm", "77", "--purge")
    assert server.sql("SELECT count() AS n FROM events WHERE tenant_id = 77") == [{"n": 0}]


@pytest.mark.proves("B9")
def test_a_pipe_over_a_per_tenant_target_and_a_hidden_tenant_column(cli: Cli, server: Server) -> None:
    cli("tenant", "add", "40", "--placement", "tables")
    cli("tenant", "add", "41", "--placement", "pooled")
    server.events("events", [{"tenant_id": t, "event": "z", "units": 1} for t in (40, 41, 42)])
    for tenant in (40, 41):
        truth = server.sql(f"SELECT sum(units) AS u FROM events WHERE tenant_id = {tenant}")
        assert rows_as_tenant(server, tenant, "SELECT sum(units) AS u FROM totals") == truth
        rows = rows_as_tenant(server, tenant, "SELECT * FROM totals")
        assert {tuple(r) for r in rows} == {("units",)}, "the tenant column shows"
        refused = server.admin(
            "POST", "/v0/sql", content="SELECT tenant_id FROM totals", headers={"x-rookery-tenant": str(tenant)}
        )
        assert refused.status_code == 400
    server.push({"endpoints/total.yaml": "sql: SELECT * FROM totals FINAL\n"})
    response = [
        server.get("/v0/pipes/total.json", server.mint("PIPES:READ:total", tenant=t)).json() for t in ("40", "41")
    ]
    assert response[0]["meta"] == response[1]["meta"]
    for tenant in ("40", "41"):
        cli("tenant", "rm", tenant)


@pytest.mark.proves("B1")
def test_several_landing_datasources_feed_one_per_tenant_target(cli: Cli, server: Server) -> None:
    cli("tenant", "add", "45", "--placement", "tables")
    with writing(server, [45, 46], datasource="web"), writing(server, [45, 46], datasource="app") as written:
        written.wait(2)
        cli("tenant", "add", "46", "--placement", "pooled")
        written.wait(3)
    for tenant in (45, 46):
        mine = f"WHERE tenant_id = {tenant}"
        both = f"(SELECT * FROM web {mine} UNION ALL SELECT * FROM app {mine})"
        truth = server.sql(TRUTH.format(where="").replace("FROM events", f"FROM {both}"))
        for target in ("feeds", "united"):
            sums = f"SELECT event, sum(events) AS e, sum(units) AS u FROM {target} GROUP BY event ORDER BY event"
            assert rows_as_tenant(server, tenant, sums) == truth, (tenant, target)
    for tenant in ("45", "46"):
        cli("tenant", "rm", tenant)


def test_a_landing_without_copies_in_nests(tmp_path: Path) -> None:
    with running(tmp_path / "home") as server:
        cli = for_server(server, tmp_path / "checkout")
        cli.write(FILES)
        events = cli.directory / "datasources/events.yaml"
        events.write_text(EVENTS.replace("tenant: tenant_id", "tenant: {column: tenant_id, nest_copy: false}"))
        cli("push")
        history(server, [1, 2], 20)
        with writing(server, [1, 2]) as written:
            cli("tenant", "add", "1", "--placement", "tables")
            cli("tenant", "add", "2")
            written.wait(2)
        assert_exact(server, [1], [2])
        tables = {t["name"] for t in cli("tenant", "show", "1", "--json").json["tables"]}
        assert tables == {"usage_daily"}
        assert rows_as_tenant(server, 1, f"SELECT {FACTS} FROM events")
