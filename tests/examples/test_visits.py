"""A web analytics project: six datasources and 22 pipes, with chains of templates and two tenants in two placements.

It is loaded through the HTTP API and asked as its tenants; what is expected is computed from the events alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.examples.visit_events import DAYS, START, Shop, Visit, visits
from tests.support.server import Server, running
from tests.support.soak import sampled

PROJECT = Path(__file__).parent / "visits"
TENANTS = {"north": "tables", "south": "pooled"}
TABLES_FIRST, POOLED_FIRST = sampled(TENANTS, 2), sampled(reversed(TENANTS), 2)
"""One tenant of a placement; the other one in `make soak`."""
MARCH = {"date_from": "2024-03-02", "date_to": "2024-03-07"}
Found = tuple[Server, list[Visit]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    with running(tmp_path_factory.mktemp("visits")) as server:
        pushed = server.push(PROJECT)
        # One parameter is a Date in one place and text in another.
        assert [w["code"] for w in pushed["warnings"]] == ["RK2006"]
        assert len(pushed["endpoints"]) == 16
        for tenant, placement in TENANTS.items():
            server.tenant(tenant, placement)
        minutes = timedelta(minutes=10)
        sessions = visits(Random(11), 220)
        sessions += visits(Random(12), 30, datetime.now(UTC).replace(microsecond=0) - 2 * minutes, 10 / 1440)
        tracker = server.static("tracker", "DATASOURCES:APPEND:visit_events")
        body = "\n".join(json.dumps(v.event()) for v in sessions)
        response = server.post("/v0/events?name=visit_events&wait=true", tracker, content=body)
        assert response.json()["successful_rows"] == len(sessions), response.text
        yield server, sessions


def _ask(server: Server, tenant: str, pipe: str, **asked: Any) -> list[dict[str, Any]]:
    token = server.mint(f"PIPES:READ:{pipe}", tenant=tenant)
    response = server.get(f"/v0/pipes/{pipe}.json", token, params=asked)
    assert response.status_code == 200, response.text
    rows: list[dict[str, Any]] = response.json()["data"]
    return rows


def _close(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for row, expected_row in zip(found, expected, strict=True):
        assert row == {k: pytest.approx(v) if isinstance(v, float) else v for k, v in expected_row.items()}


@pytest.mark.parametrize("tenant", TENANTS)
def test_kpis(project: Found, tenant: str) -> None:
    server, sessions = project
    shop = Shop(sessions, tenant)
    for first, last in (("2024-03-02", "2024-03-07"), ("2024-03-04", "2024-03-04")):
        for domain in (None, "both.example", "nowhere.example"):
            parameters = {"date_from": first, "date_to": last, **({"domain": domain} if domain else {})}
            _close(_ask(server, tenant, "kpis", **parameters), shop.kpis(first, last, domain))
    week = _ask(server, tenant, "kpis")
    assert len(week) == 8
    grown = _ask(server, tenant, "kpis", date_from="2024-03-05", date_to="2024-03-07", include_previous_period="true")
    before = shop.kpis("2024-03-02", "2024-03-04")
    assert [(r["previous_visits"], r["previous_pageviews"]) for r in grown] == [
        (r["visits"], r["pageviews"]) for r in before
    ]
    assert grown[0]["visits_growth"] == pytest.approx(
        round((grown[0]["visits"] - before[0]["visits"]) * 100 / before[0]["visits"], 2)
    )


@pytest.mark.parametrize("tenant", POOLED_FIRST)
def test_top_lists(project: Found, tenant: str) -> None:
    server, sessions = project
    shop = Shop(sessions, tenant)
    chosen = shop.within(*MARCH.values())
    tops = {"browsers": "browser", "devices": "device", "locations": "location", "pages": "pathname"}
    for name, column in {**tops, "sources": "referrer"}.items():
        assert _ask(server, tenant, f"top_{name}", **MARCH) == shop.top(column, chosen), name
        of_one = [h for h in chosen if h.host == "both.example"]
        assert _ask(server, tenant, f"top_{name}", **MARCH, domain="both.example") == shop.top(column, of_one)
        assert _ask(server, tenant, f"top_{name}", **MARCH, skip=1, limit=1) == shop.top(column, chosen)[1:2]
    mobile = [h for h in shop.hits if h.device in ("ios", "android")]
    assert _ask(server, tenant, "top_pages", devices="ios,android") == shop.top("pathname", mobile)
    by_hits = sorted(shop.top("pathname", chosen), key=lambda r: (-r["hits"], r["pathname"]))
    assert _ask(server, tenant, "top_pages", **MARCH, sort="hits") == by_hits


@pytest.mark.parametrize("tenant", TABLES_FIRST)
def test_hits_actions_and_domains(project: Found, tenant: str) -> None:
    server, sessions = project
    shop = Shop(sessions, tenant)
    ordered = sorted(shop.within("2024-03-03", "2024-03-03"), key=lambda h: (h.at, h.session, h.pathname))
    rows = _ask(server, tenant, "analytics_hits", from_date="2024-03-03", to_date="2024-03-04", limit=3, page=1)
    assert [(r["session_id"], r["pathname"], r["browser"], r["referrer"]) for r in rows] == [
        (h.session, h.pathname, h.browser, h.referrer) for h in ordered[3:6]
    ]
    liked = _ask(server, tenant, "analytics_hits", like_filter="%/p3?utm_%", to_date="2026-04-01")
    assert len(liked) == len([h for h in shop.hits if h.pathname == "/p3" and h.at < START + timedelta(days=31)])
    everything = [*shop.hits, *shop.vitals]
    counts = shop.counted(lambda v: (v.domain, "web_vital" if v.metric else "page_hit"), everything)
    actions = _ask(server, tenant, "actions")
    assert {(r["domain"], r["action"]): r["total"] for r in actions} == counts
    assert all(r["last_payload"] in {v.payload() for v in everything} for r in actions)
    assert {r["action"] for r in _ask(server, tenant, "actions", action_filter="%vital%")} == {"web_vital"}
    domains = {r["domain"]: (r["hits"], r["first_seen"]) for r in _ask(server, tenant, "domains")}
    assert domains == {
        d: (n, f"{min(h.at for h in shop.hits if h.host == d):%Y-%m-%d %H:%M:%S}")
        for (d,), n in shop.counted(lambda h: (h.host,), shop.hits).items()
    }
    assert _ask(server, tenant, "domain") == [{"domain": f"{tenant}.example"}]


@pytest.mark.parametrize("tenant", POOLED_FIRST)
def test_current_visitors(project: Found, tenant: str) -> None:
    server, sessions = project
    recent = {h.session for h in Shop(sessions, tenant).hits if h.at > START + timedelta(days=DAYS + 1)}
    assert recent
    assert _ask(server, tenant, "current_visitors", minutes=600) == [{"visits": len(recent)}]
    assert len(_ask(server, tenant, "trend")) == 30


@pytest.mark.parametrize("tenant", TABLES_FIRST)
def test_measurements(project: Found, tenant: str) -> None:
    server, sessions = project
    shop = Shop(sessions, tenant)
    first, last = MARCH.values()
    chosen = [v for v in shop.vitals if first <= str(v.at.date()) <= last]
    counts = shop.counted(lambda v: (v.metric, v.category), chosen)
    totals = shop.counted(lambda v: (v.metric,), chosen)
    shares = [
        {"metric": m, "category": c, "n": n, "share": round(n * 100 / totals[m,], 2)} for (m, c), n in counts.items()
    ]
    _close(_ask(server, tenant, "vitals_distribution", **MARCH), shares)
    for parameters, form in (
        (MARCH, "%Y-%m-%d 00:00:00"),
        ({"date_from": first, "date_to": "2024-03-03"}, "%Y-%m-%d %H:00:00"),
    ):
        within = [v for v in shop.vitals if parameters["date_from"] <= str(v.at.date()) <= parameters["date_to"]]
        points = shop.counted(lambda v, form=form: (v.at.strftime(form), v.metric), within)  # type: ignore[misc]
        rows = _ask(server, tenant, "vitals_timeseries", **parameters)
        assert {(r["t"], r["metric"]): r["n"] for r in rows} == points
    years = _ask(server, tenant, "vitals_current", days=10_000, at_least=1)
    assert {r["metric"]: r["measurements"] for r in years} == {
        m: n for (m,), n in shop.counted(lambda v: (v.metric,), shop.vitals).items()
    }
    assert len(_ask(server, tenant, "vitals_events", metric_name="LCP")) == totals_of(shop, "LCP")


def totals_of(shop: Shop, metric: str) -> int:
    return len([v for v in shop.vitals if v.metric == metric])
