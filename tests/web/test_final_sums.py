"""Rows of a SummingMergeTree with `final: true` are returned whichever of its columns a query reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.server import running

LANDING = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: k, type: String}
  - {name: a, type: Int64}
  - {name: b, type: "Decimal(18, 2)"}
engine: {sorting_key: [tenant_id]}
"""
SUMS = """
tenant: {column: tenant_id, landing: false}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: k, type: String}
  - {name: n, type: UInt64}
  - {name: a, type: Int64}
  - {name: b, type: "Decimal(38, 2)"}
engine: {type: SummingMergeTree, sorting_key: [tenant_id, k]ADDED}
final: true
"""
FILL = """
sql: SELECT tenant_id, k, count() AS n, sum(a) AS a, sum(b) AS b FROM events GROUP BY tenant_id, k
materialize: {target: TARGET, per_tenant: true}
"""
GIVEN = {"x": [(0, "0.00"), (0, "0.00")], "y": [(5, "0.00"), (-5, "1.50")], "z": [(2, "-0.10"), (0, "0.10")]}
QUERIES = {
    "SELECT k FROM {t} WHERE a > -100 ORDER BY k": [["x"], ["y"], ["z"]],
    "SELECT k, a FROM {t} ORDER BY k": [["x", 0], ["y", 0], ["z", 2]],
    "SELECT k, toString(b) AS b FROM {t} ORDER BY k": [["x", "0"], ["y", "1.5"], ["z", "0"]],
    "SELECT count(), avg(a), toString(min(b)) AS m FROM {t} WHERE b < 9": [[3, 2 / 3, "0"]],
    "SELECT sum(n) FROM {t}": [[6]],
}


@pytest.mark.proves("D4")
def test_a_row_is_returned_when_the_selected_sums_are_zero(tmp_path: Path) -> None:
    files = {
        "datasources/events.yaml": LANDING,
        "datasources/named.yaml": SUMS.replace("ADDED", ", columns: [n, a, b]"),
        "datasources/all_of_them.yaml": SUMS.replace("ADDED", ""),
        "pipes/fill_named.yaml": FILL.replace("TARGET", "named"),
        "pipes/fill_all.yaml": FILL.replace("TARGET", "all_of_them"),
    }
    with running(tmp_path) as server:
        server.push(files)
        server.tenant("1", "tables")
        server.tenant("2", "pooled")
        for turn in range(2):
            rows = [{"k": k, "a": returned[turn][0], "b": returned[turn][1]} for k, returned in GIVEN.items()]
            server.events("events", [{"tenant_id": t, **row} for t in (1, 2) for row in rows])
        for tenant in ("1", "2", None):
            for table in ("named", "all_of_them"):
                token = server.mint(f"DATASOURCES:READ:{table}", tenant=tenant) if tenant else server.admin_token
                for sql, expected in QUERIES.items():
                    if tenant is None and "ORDER" in sql:
                        continue
                    times = 1 if tenant else 2
                    returned = [list(row.values()) for row in server.sql(sql.format(t=table), token)]
                    counted = [[row[0] * times, *row[1:]] for row in expected] if times == 2 else expected
                    assert returned == counted, (tenant, table, sql)
