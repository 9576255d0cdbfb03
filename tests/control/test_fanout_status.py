"""`fanout status` shows exactly which tenants lag, by how much and why; suspended views are restored."""

from __future__ import annotations

import time
from typing import Any

import pytest

from engine.control import fanout_status, scrape, tenants
from engine.control.push import push
from engine.fanout.router import router_of
from engine.observe import metrics
from engine.warehouse.port import Usage
from tests.control.conftest import OWN, Billing, rows


def datasource_status(billing: Billing, name: str) -> dict[str, Any]:
    status: dict[str, Any] = next(
        d for d in fanout_status.status(billing.workspace)["datasources"] if d["datasource"] == name
    )
    return status


def listed(billing: Billing) -> dict[str, dict[str, Any]]:
    return {t["id"]: t for t in tenants.listing(billing.workspace)}


def gauges(billing: Billing) -> dict[str, float]:
    """Samples of the exposition by name and labels."""
    text = scrape.exposition(billing.workspace, scrape.Load(Usage(8, 0, 0))).decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_a_healthy_fanout_has_no_lag(billing: Billing) -> None:
    status = fanout_status.status(billing.workspace)
    assert [(d["datasource"], d["mode"], d["in_step"]) for d in status["datasources"]] == [
        ("clicks", "routed", 3),
        ("events", "direct", 3),
    ]
    assert all(d["rows"] == 0 and d["seconds"] == 0 and d["strays"] == [] for d in status["datasources"])
    assert status["suspended"] == []
    assert {(t["lag_rows"], t["lag_seconds"], t["error"]) for t in listed(billing).values()} == {(0, 0.0, None)}
    assert fanout_status.retry(billing.workspace) == {"retried": {}}


def test_a_failing_nest_is_reported_with_its_error_and_its_lag(billing: Billing) -> None:
    target = billing.nest("2", "clicked").sql()
    billing.execute(f"RENAME TABLE {target} TO {target[:-1]}_away`")
    try:
        first, second = billing.send("clicks", rows(5)), billing.send("clicks", rows(6))
        assert first.visible is not None
        assert second.visible is not None
        assert (first.visible.result(30), second.visible.result(30)) == (False, False)
        status = datasource_status(billing, "clicks")
        assert (status["in_step"], status["rows"]) == (2, 0)
        (stray,) = status["strays"]
        assert (stray["tenant"], stray["rows"]) == ("2", 2)
        assert stray["tries"] >= 1
        assert "clicked" in stray["error"]
        assert stray["piece"] == {"batches": [first.batch]}
        assert stray["since"] <= time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "+00:00"
        mine = listed(billing)["2"]
        assert mine["lag_rows"] == 2
        assert mine["error"] == stray["error"]
        assert tenants.show(billing.workspace, "2")["error"] == stray["error"]
        assert listed(billing)["1"]["error"] is None
        assert gauges(billing)['rookery_fanout_strays{datasource="clicks"}'] == 1
        billing.assert_exact("clicks", "clicked", without=["2"])
    finally:
        billing.execute(f"RENAME TABLE {target[:-1]}_away` TO {target}")
    lane = router_of(billing.workspace).worker("clicks")
    assert lane is not None
    with lane.delivery_lock:
        for group in lane.lagging:
            group.due = time.monotonic() + 1000
    assert fanout_status.retry(billing.workspace) == {"retried": {"clicks": 1}}
    deadline = time.monotonic() + 10
    while datasource_status(billing, "clicks")["strays"]:
        assert time.monotonic() < deadline, "it still waits for its next try"
        time.sleep(0.02)
    billing.assert_exact("clicks", "clicked")
    assert gauges(billing)['rookery_fanout_strays{datasource="clicks"}'] == 0


@pytest.mark.proves("D4")
def test_a_view_that_fails_in_direct_mode_is_suspended_reported_and_repaired(billing: Billing) -> None:
    target, away = billing.nest("2", "usage_daily"), billing.nest("2", "usage_away")
    billing.execute(f"RENAME TABLE {target.sql()} TO {away.sql()}")
    try:
        assert billing.send("events", rows(10)).rows == 5
        assert billing.send("events", rows(11)).rows == 5
        status = fanout_status.status(billing.workspace)
        (down,) = status["suspended"]
        assert down["view"] == str(billing.nest("2", "_rk_usage_pipe"))
        assert "usage_daily" in down["error"]
        assert datasource_status(billing, "events")["in_step"] == 2
        assert str(down["view"]) in str(listed(billing)["2"]["error"])
        assert gauges(billing)["rookery_suspended_views"] == 1
        billing.assert_exact("events", "usage_daily", without=["2"])
    finally:
        billing.execute(f"RENAME TABLE {away.sql()} TO {target.sql()}")
    push(billing.workspace, {})
    assert fanout_status.status(billing.workspace)["suspended"] == []
    assert listed(billing)["2"]["error"] is None
    billing.assert_exact("events", "usage_daily")
    billing.send("events", rows(12))
    billing.assert_exact("events", "usage_daily")


def test_a_suspended_shared_view_is_reported_for_pooled_tenants(billing: Billing) -> None:
    billing.execute("RENAME TABLE main.usage_daily TO main.usage_away")
    try:
        assert billing.send("events", rows(13)).rows == 5
        assert {t: bool(row["error"]) for t, row in listed(billing).items() if row["placement"]} == {
            "1": False,
            "2": False,
            "3": False,
            "8": True,
        }
        assert datasource_status(billing, "events")["in_step"] == 3
    finally:
        billing.execute("RENAME TABLE main.usage_away TO main.usage_daily")
    push(billing.workspace, {})
    assert listed(billing)["8"]["error"] is None
    mine = "WHERE tenant_id = 8"
    assert billing.row(f"SELECT sum(events), sum(units) FROM main.usage_daily {mine}") == billing.row(
        f"SELECT count(), sum(units) FROM main.events {mine}"
    )
    billing.assert_exact("events", "usage_daily")


def test_undelivered_rows_are_a_lag(billing: Billing) -> None:
    lane = router_of(billing.workspace).worker("clicks")
    assert lane is not None
    with lane.delivery_lock:
        outcome = billing.send("clicks", rows(20))
        time.sleep(0.01)  # ages are in milliseconds
        status = datasource_status(billing, "clicks")
        assert status["rows"] == 3, "of tenants in step; others have no table to wait for"
        assert status["seconds"] > 0
        assert [listed(billing)[t]["lag_rows"] for t in (*OWN, "8")] == [1, 1, 1, 0]
        seen = gauges(billing)
        assert seen['rookery_fanout_lag_rows{datasource="clicks"}'] == 3
        assert seen['rookery_fanout_lag_seconds{datasource="clicks"}'] > 0
    assert outcome.visible is not None
    assert outcome.visible.result(30)
    assert datasource_status(billing, "clicks")["rows"] == 0


def test_ingestion_counters(billing: Billing) -> None:
    label = '{datasource="events"}'
    names = ("ingested_rows", "ingested_bytes", "ingest_requests", "ingest_batches", "quarantined_rows")

    def seen() -> list[float]:
        values = gauges(billing)
        return [values.get(f"rookery_{n}_total{label}", 0) for n in (*names, "quarantined_bytes")]

    before = seen()
    billing.send("events", [*rows(1), {"tenant_id": 1, "units": "many"}])
    rises = [b - a for a, b in zip(before, seen(), strict=True)]
    assert (rises[0], rises[2:5]) == (5, [1, 1, 1])
    assert rises[1] > 100
    assert rises[5] > 20
    values = gauges(billing)
    assert values['rookery_fanout_flush_seconds_count{datasource="clicks"}'] > 0
    assert values["rookery_uptime_seconds"] > 0
    assert not [name for name in values if "tenant=" in name], "any number of tenants would be any number of labels"
    known = {m.name.removeprefix("rookery_") for m in metrics.REGISTRY.collect()}
    shown = {n.removeprefix("rookery_").partition("{")[0] for n in values}
    for name in shown:
        plain = name.removesuffix("_total").removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
        assert plain.removesuffix("_created") in known, name
