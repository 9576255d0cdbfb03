"""A project of the kind that publishers run: raw payloads, states, views on views, chains of templates, time zones.

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

from tests.examples.journal_hits import Hit, Site, hits, lines
from tests.support.server import Server, running

PROJECT = Path(__file__).parent / "journal"
ENDPOINTS = (
    "api_kpis", "api_top_pages", "api_top_pages_daily", "api_top_pages_router", "api_top_sources", "api_top_locations",
    "api_top_devices", "api_top_campaigns", "api_post_visitor_counts", "api_active_visitors", "api_raw_payloads",
)  # fmt: skip
TENANTS = {"alpha": "tables", "beta": "pooled"}
Found = tuple[Server, list[Hit]]


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    with running(tmp_path_factory.mktemp("journal")) as server:
        page_hits = hits(Random(7), 250)
        now = datetime.now(UTC).replace(microsecond=0)
        recent = [Hit(now - timedelta(seconds=n), "alpha", f"now{n % 3}", "/now/", "post-9", "free", "desktop", "ES", "", "", n)
                  for n in range(5)]  # fmt: skip
        pushed = server.push(PROJECT)
        assert [w["code"] for w in pushed["warnings"]] == ["RK2020"]
        server.tenant("alpha", TENANTS["alpha"])
        half = len(page_hits) // 2
        for part in (page_hits[:half], page_hits[half:] + recent):
            server.admin_json(
                "POST", "/v0/events", params={"name": "site_events", "wait": "true"}, content=lines(part).encode()
            )
            # One tenant is added when rows are stored already.
            server.tenant("beta", TENANTS["beta"])
        yield server, page_hits + recent


def _ask(server: Server, tenant: str, pipe: str, status: int = 200, **asked: Any) -> Any:
    token = server.mint(*(f"PIPES:READ:{p}" for p in ENDPOINTS), tenant=tenant)
    response = server.get(f"/v0/pipes/{pipe}.json", token, params=asked)
    assert response.status_code == status, response.text
    return response.json()["data"] if status == 200 else response.json()


MARCH = {"date_from": "2024-03-02", "date_to": "2024-03-08"}
DAY = {"date_from": "2024-03-04", "date_to": "2024-03-04"}
ASKED: list[dict[str, Any]] = [
    MARCH,
    DAY,
    {**MARCH, "timezone": "Europe/Madrid"},
    {**DAY, "timezone": "America/Lima"},
    {**MARCH, "pathname": "/page-1/"},
    {**MARCH, "member_status": "paid", "timezone": "Asia/Tokyo"},
    {**MARCH, "member_status": "undefined,free", "source": "search.example"},
    {**DAY, "pathname": "/page-2/", "timezone": "Europe/Madrid"},
    {**MARCH, "location": "PE", "device": "desktop", "utm_campaign": "spring"},
    {"date_from": "2027-01-01", "date_to": "2027-01-02"},
]


@pytest.mark.parametrize("tenant", TENANTS)
def test_kpis_per_day_and_per_hour(journal: Found, tenant: str) -> None:
    server, page_hits = journal
    site = Site(page_hits, tenant)
    for parameters in ASKED[:: 1 if tenant == "alpha" else 3]:
        assert _ask(server, tenant, "api_kpis", **parameters) == site.kpis(parameters), parameters
    assert sum(row["visits"] for row in site.kpis(MARCH)) > 20


@pytest.mark.parametrize("tenant", TENANTS)
def test_top_lists(journal: Found, tenant: str) -> None:
    server, page_hits = journal
    site = Site(page_hits, tenant)
    tops = [("sources", "source"), ("locations", "location"), ("devices", "device"), ("campaigns", "utm_campaign")]
    for parameters in ASKED[:7:2]:
        assert _ask(server, tenant, "api_top_pages", **parameters) == site.pages(parameters), parameters
        for name, column in tops:
            attribute = "campaign" if column == "utm_campaign" else column
            assert _ask(server, tenant, f"api_top_{name}", **parameters) == site.firsts(
                column, attribute, parameters
            ), parameters
    by_name = sorted(site.pages(MARCH), key=lambda row: row["pathname"], reverse=True)
    assert _ask(server, tenant, "api_top_pages", **MARCH, order_by="pathname", limit=2, skip=1) == by_name[1:3]


@pytest.mark.parametrize("tenant", TENANTS)
def test_a_template_chooses_among_pipes(journal: Found, tenant: str) -> None:
    server, page_hits = journal
    site = Site(page_hits, tenant)
    for parameters in (MARCH, {**MARCH, "member_status": "paid"}):
        assert _ask(server, tenant, "api_top_pages_daily", **parameters) == site.daily_pages(parameters)
        assert _ask(server, tenant, "api_top_pages_router", **parameters) == site.daily_pages(parameters)
    filtered = {**MARCH, "source": "news.example"}
    assert _ask(server, tenant, "api_top_pages_router", **filtered) == site.pages(filtered)
    problem = _ask(server, tenant, "api_top_pages_router", 400, date_from="2020-01-01")
    assert problem["code"] == "RK2020" and "api_top_pages_yearly" in problem["error"]


def test_visits_per_post_and_current_visitors(journal: Found) -> None:
    server, page_hits = journal
    for tenant in TENANTS:
        expected = {
            p: len({h.session for h in page_hits if h.site == tenant and h.post == p}) for p in ("post-0", "post-2")
        }
        rows = _ask(server, tenant, "api_post_visitor_counts", post_uuids="post-0,post-2,post-77")
        assert rows == [{"post_uuid": p, "visits": n} for p, n in expected.items()]
    wide = {"minutes": 600}
    assert _ask(server, "alpha", "api_active_visitors", **wide) == [{"active_visitors": 3}]
    assert _ask(server, "alpha", "api_active_visitors", **wide, post_uuid="post-1") == [{"active_visitors": 0}]
    assert _ask(server, "beta", "api_active_visitors", **wide) == [{"active_visitors": 0}]


def test_the_payload_is_returned_as_sent(journal: Found) -> None:
    server, page_hits = journal
    for tenant in TENANTS:
        own = sorted((h for h in page_hits if h.site == tenant), key=lambda h: (h.session, h.at))
        rows = _ask(server, tenant, "api_raw_payloads", limit=60_000)
        assert [r["session_id"] for r in rows] == [h.session for h in own]
        assert [json.loads(r["payload"]) for r in rows] == [h.payload() for h in own]


UNDERSCORED = {
    "datasources/_in.yaml": """
tenant: _site
columns: [{name: _site, type: String}, {name: _n, type: UInt8}]
engine: {sorting_key: [_site]}
tokens: [{name: _writer, scope: APPEND}]
""",
    "datasources/__sum.yaml": """
tenant: {column: _site, landing: false}
columns: [{name: _site, type: String}, {name: _n, type: UInt64}]
engine: {type: SummingMergeTree, sorting_key: [_site], columns: [_n]}
""",
    "datasources/_plain.yaml": "columns: [{name: _n, type: UInt8}]\nengine: {sorting_key: [_n]}\n",
    "pipes/_fill.yaml": """
sql: SELECT _site, sum(_n) AS _n FROM _in GROUP BY _site
materialize: {target: __sum, per_tenant: true}
""",
    "pipes/_total.yaml": """
nodes: [{name: _x, sql: "SELECT sum(_n) AS _s FROM __sum WHERE _n >= {{ UInt8(_least) }}"}]
parameters: [{name: _least, type: UInt8, default: 0}]
tokens: [{name: _reader, scope: READ}]
""",
}


def test_names_that_begin_with_an_underscore_work_everywhere(journal: Found) -> None:
    server, _ = journal
    server.push(UNDERSCORED)
    writer = server.mint("DATASOURCES:APPEND:_in")
    rows = '{"_site": "alpha", "_n": 1}\n{"_site": "beta", "_n": 2}\n{"_site": "beta", "_n": 300}\n'
    stored = server.post("/v0/events?name=_in&wait=true", writer, content=rows).json()
    assert (stored["successful_rows"], stored["quarantined_rows"]) == (2, 1)
    assert server.admin_json("GET", "/v0/datasources/_in/quarantine")["total"] == 1
    for tenant, total in (("alpha", 1), ("beta", 2)):
        token = server.mint("PIPES:READ:_total", tenant=tenant)
        assert server.get("/v0/pipes/_total.json", token).json()["data"] == [{"_s": total}]
        assert server.get("/v0/pipes/_total.json?_least=3", token).json()["data"] == [{"_s": 0}]
    query = {"name": "_plain", "mode": "replace", "format": "ndjson"}
    assert server.admin_json("POST", "/v0/datasources", params=query, content='{"_n": 5}\n')["rows"] == 1
    assert server.sql("SELECT _n FROM _plain", server.mint("DATASOURCES:READ:_plain")) == [{"_n": 5}]
    assert server.push(UNDERSCORED)["steps"] == []
