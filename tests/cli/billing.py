"""A small project with every kind of target, and what its tables must hold: always computed from landing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from tests.support.server import Server

EVENTS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: timestamp, type: DateTime, default: now()}
  - {name: event, type: LowCardinality(String)}
  - {name: units, type: UInt64, default: "1"}
engine: {type: MergeTree, sorting_key: [tenant_id, timestamp]}
"""
USAGE = """
tenant: {column: tenant_id, landing: false}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: event, type: LowCardinality(String)}
  - {name: events, type: UInt64}
  - {name: units, type: UInt64}
engine: {type: SummingMergeTree, sorting_key: [tenant_id, event], columns: [events, units]}
"""
USAGE_PIPE = """
nodes:
  - name: usage_sums
    sql: |
      SELECT tenant_id, event, count() AS events, sum(units) AS units FROM events GROUP BY tenant_id, event
materialize: {target: usage_daily, per_tenant: true}
"""
KINDS = """
shared: true
columns:
  - {name: event, type: LowCardinality(String)}
  - {name: events, type: UInt64}
  - {name: units, type: UInt64}
engine: {type: SummingMergeTree, sorting_key: [event], columns: [events, units]}
"""
KINDS_PIPE = """
nodes:
  - name: kinds_sums
    sql: SELECT event, count() AS events, sum(units) AS units FROM events GROUP BY event
materialize: {target: kinds}
"""
ENDPOINT = """
nodes:
  - name: usage_by_event
    sql: SELECT event, sum(events) AS events, sum(units) AS units FROM usage_daily GROUP BY event ORDER BY event
"""
FILES = {
    "datasources/events.yaml": EVENTS,
    "datasources/usage_daily.yaml": USAGE,
    "datasources/kinds.yaml": KINDS,
    "pipes/usage_pipe.yaml": USAGE_PIPE,
    "pipes/kinds_pipe.yaml": KINDS_PIPE,
    "endpoints/usage.yaml": ENDPOINT,
}
SUMS = "SELECT event, sum(events) AS e, sum(units) AS u FROM usage_daily GROUP BY event ORDER BY event"
TRUTH = "SELECT event, count() AS e, sum(units) AS u FROM events {where} GROUP BY event ORDER BY event"
FACTS = "count() AS rows, sum(units) AS total, groupBitXor(units) AS all_of_them"


def rows_as_tenant(server: Server, tenant: object, sql: str) -> list[dict[str, Any]]:
    """Rows of a query that an admin runs as a tenant."""
    headers = {"x-rookery-tenant": str(tenant)}
    rows: list[dict[str, Any]] = server.admin_json("POST", "/v0/sql", content=sql, headers=headers)["data"]
    return rows


def by_tenant(server: Server, sql: str) -> dict[int, list[dict[str, Any]]]:
    """Rows of a grouped query, which is grouped by tenant as well."""
    rows: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in server.sql(sql.replace("SELECT ", "SELECT tenant_id, ", 1).replace("GROUP BY event", "GROUP BY ALL")):
        rows[int(row.pop("tenant_id"))].append(row)
    return rows


def assert_exact(server: Server, tables: Iterable[int], pooled: Iterable[int], also: str = "") -> None:
    """Copies, nests' targets, the shared target and the workspace's target hold what landing says, row for row.

    `also` is a further condition that the per-tenant pipe has by now.
    """
    tables, pooled = list(tables), list(pooled)
    truth = by_tenant(server, TRUTH.format(where="WHERE 1" + also))
    facts = by_tenant(server, f"SELECT {FACTS} FROM events GROUP BY ALL")
    nothing = server.sql(f"SELECT {FACTS} FROM events WHERE 0")
    for tenant in (*tables, *pooled):
        assert rows_as_tenant(server, tenant, SUMS) == truth[int(tenant)], f"target of tenant {tenant}"
        copy = rows_as_tenant(server, tenant, f"SELECT {FACTS} FROM events")
        assert copy == (facts[int(tenant)] or nothing), f"copy of tenant {tenant}"
    for some, what in ((pooled, "the shared target"), ([*tables, *pooled], "all targets together")):
        them = f"WHERE tenant_id IN ({', '.join(map(str, some)) or 'NULL'})"
        sums = server.sql(SUMS.replace("GROUP BY", f"{them} GROUP BY"))
        assert sums == server.sql(TRUTH.format(where=them + also)), what
    ready = ", ".join(t["id"] for t in server.admin_json("GET", "/v0/tenants")["tenants"] if t["state"] == "ready")
    others = f"SELECT count() AS n FROM usage_daily WHERE tenant_id NOT IN ({ready or 'NULL'})"
    assert server.sql(others) == [{"n": 0}] or not ready, "rows of tenants that are not there"


def assert_kinds_exact(server: Server) -> None:
    """The workspace's own target counts every row of landing, of every tenant."""
    kinds = "SELECT event, sum(events) AS e, sum(units) AS u FROM kinds GROUP BY event ORDER BY event"
    assert server.sql(kinds) == server.sql(TRUTH.format(where=""))
