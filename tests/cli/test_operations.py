"""Operating a workspace by command: failing fan-out is reported and repaired, and the doctor names its findings."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.cli.billing import FILES, assert_exact
from tests.cli.commands import for_server
from tests.cli.test_foreign_objects import on_the_engine
from tests.support.server import Server, running

TARGET, AWAY = "main_nest_2.usage_daily", "main_nest_2.usage_away"
TENANTS = (1, 2, 3)


def send(server: Server, units: int) -> None:
    """A row for every tenant."""
    server.events("events", [{"tenant_id": t, "event": "a", "units": units} for t in TENANTS])


@pytest.mark.proves("D4")
def test_a_failing_view_is_reported_and_repaired(tmp_path: Path) -> None:
    home, checkout = tmp_path / "home", tmp_path / "checkout"
    with running(home) as server:
        cli = for_server(server, checkout)
        server.push(FILES)
        cli("tenant", "add", *TENANTS, "--placement", "tables")
        send(server, 1)
        assert "in_sync" in cli("fanout", "status").out
        assert "nothing to repair" in cli("fanout", "repair").err
        assert "nothing to retry" in cli("fanout", "retry").err
        assert "healthy" in cli("doctor").err
        assert cli("doctor", "--deep", "--json").json["healthy"] is True
    on_the_engine(home, f"RENAME TABLE {TARGET} TO {AWAY}")
    with running(home) as server:
        cli = for_server(server, checkout)
        send(server, 2)
        status = cli("fanout", "status", "--json").json
        (down,) = status["suspended"]
        assert down["view"] == "main_nest_2._rk_usage_pipe"
        (events,) = status["datasources"]
        assert (events["datasource"], events["mode"], events["in_step"]) == ("events", "direct", 2)
        shown = cli("fanout", "status").text
        assert "_rk_usage_pipe" in shown
        assert "rookery fanout repair" in shown
        listed = {t["id"]: t for t in cli("tenant", "ls", "--json").json}
        assert "usage_daily" in listed["2"]["error"]
        assert listed["1"]["error"] is None
        assert "_rk_usage_pipe" in cli("tenant", "show", "2").out
        sick = cli("doctor", code=8)
        assert "suspended-view" in sick.out
        assert "hint:" in sick.out
        output = cli("doctor", "--json", code=8).json
        assert output["healthy"] is False
        assert "suspended-view" in {f["check"] for f in output["findings"]}
    on_the_engine(home, f"RENAME TABLE {AWAY} TO {TARGET}")
    with running(home) as server:
        cli = for_server(server, checkout)
        assert "repaired" in cli("fanout", "repair").err
        assert cli("fanout", "status", "--json").json["suspended"] == []
        send(server, 3)
        assert_exact(server, TENANTS, [])
        assert cli("doctor", "--deep", "--json").json["findings"] == []


def test_warnings_do_not_make_a_workspace_unhealthy(shared_server: Server, tmp_path: Path) -> None:
    cli = for_server(shared_server, tmp_path)
    shared_server.push(FILES)
    shared_server.events("events", [{"tenant_id": 1, "units": "many"}])
    outcome = cli("doctor")
    assert outcome.out.startswith("warning quarantine: main.events_quarantine: 1 row ")
    assert cli("doctor", "--json").json["healthy"] is True


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v0/fanout"), ("POST", "/v0/fanout/retry"), ("GET", "/v0/doctor"), ("GET", "/metrics")],
)
def test_only_an_admin_sees_status_and_metrics(shared_server: Server, method: str, path: str) -> None:
    shared_server.push(FILES)
    reading = shared_server.static("reads events", "DATASOURCES:READ:events")
    for token in (None, reading, "garbage"):
        assert shared_server.request(method, path, token).status_code == 403
    assert shared_server.admin(method, path).status_code == 200


def test_prometheus_reads_with_the_token_in_the_query(shared_server: Server) -> None:
    shared_server.push(FILES)
    shared_server.events("events", [{"tenant_id": 1}])
    answer = httpx.get(
        f"{shared_server.url}/metrics", params={"token": shared_server.admin_token}, trust_env=False, verify=False
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'rookery_ingested_rows_total{datasource="events"}' in answer.text
    assert 'rookery_fanout_lag_rows{datasource="events"} 0.0' in answer.text


SHARES = """
nodes:
  - {name: it, sql: "SELECT tenant_id, sum(intDiv(100, units)) AS share FROM events GROUP BY tenant_id"}
materialize: {target: shares, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""


@pytest.mark.proves("D4")
def test_a_tenant_excluded_from_a_shared_view_is_reported(shared_server: Server, tmp_path: Path) -> None:
    """The last test: the view stays suspended for the tenant."""
    server = shared_server
    cli = for_server(server, tmp_path / "checkout")
    server.push({**FILES, "pipes/shares_pipe.yaml": SHARES})
    cli("tenant", "add", *TENANTS)
    server.events("events", [{"tenant_id": t, "event": "a", "units": t - 2} for t in TENANTS])
    (suspended,) = cli("fanout", "status", "--json").json["suspended"]
    assert (suspended["view"], suspended["without"]) == ("main._rk_shares_pipe", ["2"])
    assert "exclude some tenants" in cli("fanout", "status").out
    listed = {t["id"]: t["error"] for t in cli("tenant", "ls", "--json").json}
    assert [t for t, error in listed.items() if error] == ["2"]
    assert "excluded tenant 2" in cli("doctor", code=8).out
    before = server.sql("SELECT sum(share) AS s FROM shares")
    assert "RK3012" in cli("fanout", "repair", code=1).err
    assert [w["code"] for w in cli("fanout", "repair", "--json", code=1).json["warnings"]] == ["RK3012"]
    assert "RK3007" in cli("fanout", "repair", "--allow-destructive", "nothing", code=1).err
    cli.write({**FILES, "pipes/shares_pipe.yaml": SHARES})
    output = cli("push").text
    assert "RK3012" in output and "nothing else to do" in output and "matches the files" not in output
    assert server.sql("SELECT sum(share) AS s FROM shares") == before
