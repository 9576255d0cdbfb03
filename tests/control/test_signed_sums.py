"""Sums of signed numbers: missing rows are an error and are repaired, even if no other column shows them."""

from __future__ import annotations

from pathlib import Path

from engine.control.doctor import examine, repair
from engine.control.doctor.findings import ERROR
from tests.support.in_process import Rookery, open_rookery

EVENTS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: day, type: Date}
  - {name: n, type: Int64}
engine: {sorting_key: [tenant_id, day]}
"""
DAYS = """
sql: SELECT tenant_id, day, sum(n) AS total FROM events GROUP BY tenant_id, day
materialize: {target: days, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id, day]}}
"""
TOTALS = """
sql: SELECT tenant_id, sum(total) AS total FROM days GROUP BY tenant_id
materialize: {target: totals, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""


def _wrong(rookery: Rookery) -> set[tuple[str, str, str | None]]:
    return {(f.level, f.object, f.hint) for f in examine(rookery.workspace, deep=True).findings}


def test_a_rollup_of_signed_numbers_and_a_rollup_over_it(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        rookery.push({"datasources/events.yaml": EVENTS, "pipes/to_days.yaml": DAYS, "pipes/to_totals.yaml": TOTALS})
        rookery.add("8", placement="pooled")
        for table in ("days", "totals"):
            rookery.run(f"SYSTEM STOP MERGES main.{table}")
        for n in (5, -2, 7):
            assert rookery.deliver([{"tenant_id": 8, "day": "2026-01-05", "n": n}])
        assert _wrong(rookery) == set()
        for table in ("days", "totals"):
            ((part,),) = rookery.rows(f"SELECT _part FROM main.{table} WHERE total = 7")
            rookery.run(f"ALTER TABLE main.{table} DROP PART '{part}'")
            assert _wrong(rookery) == {(ERROR, f"main.{table}", "rookery doctor --repair")}
            repair(rookery.workspace)
            assert rookery.rows(f"SELECT sum(total) FROM main.{table}") == [(10,)]
        assert _wrong(rookery) == set()
