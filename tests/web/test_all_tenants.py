"""Without a tenant, an admin reads per-tenant targets in all placements: all tenants' rows, or an error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import for_server
from tests.support.server import Server, running
from tests.support.soak import soak_rounds
from tests.web.project import TOTALS

EVENTS = """
tenant: {column: tenant_id%s}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt32}
  - {name: kind, type: LowCardinality(String)}
  - {name: units, type: UInt64}
engine: {sorting_key: [tenant_id, id]}
"""
ROWS = """
tenant: {column: tenant_id, landing: false}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt32}
  - {name: kind, type: LowCardinality(String)}
  - {name: units, type: UInt64}
engine: {type: %s, sorting_key: [tenant_id, id]%s}
"""
FILL = "sql: SELECT tenant_id, id, kind, units FROM %s\nmaterialize: {target: %s, per_tenant: true%s}\n"
FILES = {
    "datasources/events.yaml": EVENTS % "",
    "datasources/logs.yaml": EVENTS % ", nest_copy: false",
    "datasources/rows.yaml": ROWS % ("MergeTree", ""),
    "datasources/latest.yaml": ROWS % ("ReplacingMergeTree", ""),
    "datasources/bare.yaml": ROWS % ("MergeTree", ""),
    "datasources/sampled.yaml": ROWS % ("MergeTree", ", sampling_key: id"),
    "datasources/of_logs.yaml": ROWS % ("MergeTree", ""),
    "datasources/again.yaml": ROWS % ("MergeTree", ""),
    "pipes/fill_rows.yaml": FILL % ("events", "rows", ""),
    "pipes/fill_latest.yaml": FILL % ("events", "latest", ""),
    "pipes/fill_bare.yaml": FILL % ("events", "bare", ", drop_tenant_column: true"),
    "pipes/fill_sampled.yaml": FILL % ("events", "sampled", ""),
    "pipes/fill_of_logs.yaml": FILL % ("logs", "of_logs", ""),
    "pipes/fill_again.yaml": FILL % ("rows", "again", ""),
    "pipes/usage.yaml": "sql: SELECT kind, sum(units) AS units FROM rows GROUP BY kind ORDER BY kind\n",
    "pipes/over.yaml": "sql: SELECT sum(units) AS units, uniqExact(kind) AS kinds FROM usage\n",
}
PLACED = {"1": "tables", "2": "pooled", "3": "tables", "4": "pooled"}
SENT = [
    {"tenant_id": int(t), "id": n * 1000, "kind": f"{t}-{n % 2}", "units": 10 ** int(t)}
    for t in PLACED
    for n in range(4)
]
UNITS = sum(r["units"] for r in SENT)


def _fill(server: Server) -> None:
    server.push(FILES)
    for tenant, placement in PLACED.items():
        server.tenant(tenant, placement)
    for datasource in ("events", "logs"):
        server.events(datasource, SENT)


@pytest.fixture(scope="module")
def all_of_them(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that was restarted after it was filled, so that the tables of nests sleep until they are read."""
    directory = tmp_path_factory.mktemp("together")
    with running(directory) as server:
        _fill(server)
    with running(directory, ROOKERY_MAX_NESTS=4) as server:
        yield server


def test_an_endpoint_returns_rows_of_all_placements_to_an_admin(server: Server) -> None:
    body = {r["kind"]: r["units"] for r in server.admin_json("GET", "/v0/pipes/by_kind.json")["data"]}
    assert body == {"view": 503, "sale": 40, "rent": 6000}
    for tenant, totals in TOTALS.items():
        headers = {"X-Rookery-Tenant": tenant}
        rows = server.admin_json("GET", "/v0/pipes/by_kind.json", headers=headers)["data"]
        assert {r["kind"]: r["units"] for r in rows} == totals


def test_sql_reads_every_row_once(all_of_them: Server) -> None:
    """Every kind of target, however it is read, and landing datasources, which have all rows in one table."""
    tables = ["rows", "latest", "latest FINAL", "bare", "sampled", "sampled SAMPLE 1", "of_logs", "again", "events"]
    for table in (*tables, "logs", "usage"):
        assert all_of_them.sql(f"SELECT sum(units) AS units FROM {table}") == [{"units": UNITS}], table
    for table in tables:
        rows = all_of_them.sql(f"SELECT * FROM {table} ORDER BY units, id")
        assert len(rows) == len(SENT) and len(rows[0]) == (3 if table == "bare" else 4), table


def test_tables_read_twice_and_pipes_over_pipes(all_of_them: Server) -> None:
    joined = "SELECT sum(r.units) AS units FROM rows AS r JOIN bare AS b ON r.id = b.id AND r.kind = b.kind"
    assert all_of_them.sql(joined) == [{"units": UNITS}]
    assert all_of_them.admin_json("GET", "/v0/pipes/over.json")["data"] == [{"units": UNITS, "kinds": 8}]


def test_sampling_covers_every_tenant(all_of_them: Server) -> None:
    sampled = all_of_them.sql("SELECT tenant_id, count() AS n FROM sampled SAMPLE 1/2 GROUP BY tenant_id")
    assert {r["tenant_id"] for r in sampled} == {1, 2, 3, 4}


def test_the_command_line_shows_all_tenants(all_of_them: Server, tmp_path: Path) -> None:
    cli = for_server(all_of_them, tmp_path)
    for command in (["get", "usage", "--format", "csv"], ["sql", "--format", "csv", "SELECT kind FROM usage"]):
        assert len(cli(*command).out.splitlines()) == 9


def test_listings_count_rows_in_all_placements(all_of_them: Server) -> None:
    listed = all_of_them.admin_json("GET", "/v0/datasources")["datasources"]
    counted = {d["name"]: d["statistics"]["row_count"] for d in listed if d["kind"] in ("target", "landing")}
    assert counted == dict.fromkeys(counted, len(SENT)) and len(counted) == 8


def test_too_many_nests_are_an_error(all_of_them: Server) -> None:
    for tenant in ("11", "12", "13"):
        all_of_them.tenant(tenant, "tables")
    try:
        for path in ("/v0/pipes/usage.json", "/v0/pipes/over.json", "/v0/sql?q=SELECT count() FROM bare"):
            refused = all_of_them.admin("GET", path)
            assert refused.status_code == 409 and refused.json()["code"] == "RK3013"
            assert "ROOKERY_MAX_NESTS" in refused.json()["hint"]
        shown = all_of_them.admin_json("GET", "/v0/datasources/rows")
        assert shown["statistics"] == {"row_count": None, "bytes": None}
        assert all_of_them.sql("SELECT sum(units) AS units FROM events") == [{"units": UNITS}]
        own = all_of_them.admin_json("GET", "/v0/pipes/usage.json", headers={"X-Rookery-Tenant": "1"})
        assert sum(r["units"] for r in own["data"]) == 40
    finally:
        for tenant in ("11", "12", "13"):
            all_of_them.admin_json("DELETE", f"/v0/tenants/{tenant}")
    assert all_of_them.sql("SELECT sum(units) AS units FROM rows") == [{"units": UNITS}]


def test_a_tenant_added_or_removed_during_a_query_is_read_completely_or_not_at_all(all_of_them: Server) -> None:
    """Queries run while tenants are added and removed; each shows every tenant with all of its rows, or fails."""
    whole = {r["tenant_id"]: 0 for r in SENT} | {t: 40 * t for t in (21, 22)}
    rows = [{"tenant_id": t, "id": n, "kind": "x", "units": t} for t in (21, 22) for n in range(40)]
    all_of_them.events("events", rows)
    for row in SENT:
        whole[row["tenant_id"]] += row["units"]
    stopped, wrong, answers = threading.Event(), [], [0]

    def ask() -> None:
        while not stopped.is_set():
            query = "SELECT tenant_id, sum(units) AS units FROM rows GROUP BY tenant_id"
            answer = all_of_them.admin("GET", "/v0/sql", params={"q": query})
            if answer.status_code == 200:
                answers[0] += 1
                units_by_tenant = {r["tenant_id"]: r["units"] for r in answer.json()["data"]}
                if (
                    any(units != whole[t] for t, units in units_by_tenant.items())
                    or not {1, 2, 3, 4} <= units_by_tenant.keys()
                ):
                    wrong.append(units_by_tenant)
            elif answer.json().get("code") != "RK3013":
                wrong.append(answer.text)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(soak_rounds(1)):
            for tenant, placement in (("21", "tables"), ("22", "pooled")):
                all_of_them.tenant(tenant, placement)
            for tenant in ("21", "22"):
                all_of_them.admin_json("DELETE", f"/v0/tenants/{tenant}")
    finally:
        stopped.set()
        asking.join()
    assert wrong == [] and answers[0]


def test_a_row_filter_of_an_admin_token_applies_in_every_nest(all_of_them: Server) -> None:
    scope: dict[str, Any] = {"type": "DATASOURCES:READ", "resource": "rows", "filter": "id = 1000"}
    token = all_of_them.static("an_admin_of_some_rows", "ADMIN", scope)
    rows = all_of_them.sql("SELECT sum(units) AS units, count() AS n FROM rows", token)
    assert rows == [{"units": UNITS // 4, "n": 4}]
