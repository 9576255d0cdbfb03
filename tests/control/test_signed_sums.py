"""Sums of signed numbers: missing rows are an error and are repaired, even if no other column shows them."""

from __future__ import annotations

from pathlib import Path

from engine.control.doctor import examine, repair
from engine.control.doctor.findings import ERROR
from tests.support.in_process import House, house

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


def _wrong(home: House) -> set[tuple[str, str, str | None]]:
    return {(f.level, f.object, f.hint) for f in examine(home.workspace, deep=True).findings}


def test_a_rollup_of_signed_numbers_and_a_rollup_over_it(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.push({"datasources/events.yaml": EVENTS, "pipes/to_days.yaml": DAYS, "pipes/to_totals.yaml": TOTALS})
        home.add("8", placement="pooled")
        for table in ("days", "totals"):
            home.run(f"SYSTEM STOP MERGES main.{table}")
        for n in (5, -2, 7):
            assert home.visible([{"tenant_id": 8, "day": "2026-01-05", "n": n}])
        assert _wrong(home) == set()
        for table in ("days", "totals"):
            ((part,),) = home.rows(f"SELECT _part FROM main.{table} WHERE total = 7")
            home.run(f"ALTER TABLE main.{table} DROP PART '{part}'")
            assert _wrong(home) == {(ERROR, f"main.{table}", "rookery doctor --repair")}
            repair(home.workspace)
            assert home.rows(f"SELECT sum(total) FROM main.{table}") == [(10,)]
            assert _wrong(home) == set()
