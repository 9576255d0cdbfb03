"""Values of derived tables that may be NULL, or are rounded: only those are reported that lost rows would explain."""

from __future__ import annotations

from math import inf
from pathlib import Path

from engine.control.doctor import examine, repair
from engine.control.doctor.findings import ERROR
from tests.support.in_process import Rookery, open_rookery

EVENTS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: n, type: Nullable(Int64)}
  - {name: x, type: Nullable(Float64)}
  - {name: y, type: Float32}
engine: {sorting_key: [tenant_id]}
"""
SUMS = """
sql: SELECT tenant_id, sum(n) AS total, sum(x) AS size, toFloat32(sum(y)) AS rounded FROM events GROUP BY tenant_id
materialize: {target: sums, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""
STATES = """
sql: SELECT tenant_id, maxState(n) AS top, avgState(x) AS mean FROM events GROUP BY tenant_id
materialize: {target: states, per_tenant: true, engine: {type: AggregatingMergeTree, sorting_key: [tenant_id]}}
"""
RATIOS = """
sql: SELECT tenant_id, sum(1 / y) AS ratio FROM events GROUP BY tenant_id
materialize: {target: ratios, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""
# For each table, the part with the only value of a column.
LOST = {"sums": "total = 5", "states": "finalizeAggregation(top) = 5", "ratios": "isInfinite(ratio)"}


def _errors(rookery: Rookery) -> set[tuple[str, str | None]]:
    return {(f.object, f.hint) for f in examine(rookery.workspace, deep=True).findings if f.level == ERROR}


def test_rounding_is_no_error_and_a_lost_value_is_one(tmp_path: Path) -> None:
    pipes = {"sums": SUMS, "states": STATES, "ratios": RATIOS}
    with open_rookery(tmp_path) as rookery:
        rookery.push({"datasources/events.yaml": EVENTS, **{f"pipes/to_{n}.yaml": sql for n, sql in pipes.items()}})
        rookery.add("8", placement="pooled")
        for table in pipes:
            rookery.run(f"SYSTEM STOP MERGES main.{table}")
        assert rookery.deliver([{"tenant_id": 8, "n": 5, "x": None, "y": 0}])
        for i in range(1, 8):
            assert rookery.deliver([{"tenant_id": 8, "n": None, "x": 1 / i, "y": 0.1 * i}] * i)
        assert _errors(rookery) == set()
        for table, condition in LOST.items():
            ((part,),) = rookery.rows(f"SELECT _part FROM main.{table} WHERE {condition}")
            rookery.run(f"ALTER TABLE main.{table} DROP PART '{part}'")
        assert _errors(rookery) == {(f"main.{table}", "rookery doctor --repair") for table in pipes}
        repair(rookery.workspace)
        assert _errors(rookery) == set()
        values = rookery.rows(
            "SELECT (SELECT sum(total) FROM main.sums), (SELECT maxMerge(top) FROM main.states), "
            "(SELECT sum(ratio) FROM main.ratios)"
        )
        assert values == [(5, 5, inf)]
