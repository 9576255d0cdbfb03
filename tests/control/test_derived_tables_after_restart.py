"""After a start the tables of nests are not loaded; the doctor compares and repairs them too."""

from __future__ import annotations

from pathlib import Path

from engine.control.doctor import examine, repair
from engine.control.recovery import finish
from tests.support.in_process import Rookery, open_rookery

EVENTS = """
tenant: {column: tenant_id, fanout: direct}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt64}
engine: {type: MergeTree, sorting_key: [tenant_id, id]}
"""
SUMS = """
sql: SELECT tenant_id, id % 3 AS bucket, count() AS events FROM events GROUP BY tenant_id, bucket
materialize: {target: sums, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id, bucket]}}
"""
TOTALS = """
sql: SELECT tenant_id, sum(events) AS events FROM sums GROUP BY tenant_id
materialize: {target: totals, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""
FILES = {"datasources/events.yaml": EVENTS, "pipes/to_sums.yaml": SUMS, "pipes/to_totals.yaml": TOTALS}


def test_unloaded_tables_are_compared_and_repaired(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        rookery.push(FILES)
        rookery.add("1")
        for first in (1, 11, 21):
            rookery.append({"tenant_id": 1, "id": n} for n in range(first, first + 10))
        whole = _tables(rookery)
    with open_rookery(tmp_path) as rookery:
        finish(rookery.workspace)
        assert [(f.check, f.object, f.message) for f in examine(rookery.workspace, deep=True).findings] == []
        for name in ("events", "sums", "totals"):
            rookery.run(f"TRUNCATE TABLE {rookery.nest('1')}.{name}")
            assert {f.object for f in examine(rookery.workspace, deep=True).findings} >= {f"main_nest_1.{name}"}
            repair(rookery.workspace)
            assert _tables(rookery) == whole
        rookery.append([{"tenant_id": 1, "id": 31}])
        assert sum(n for _, n in _tables(rookery)["sums"]) == _tables(rookery)["totals"][0][1] == 31
        assert examine(rookery.workspace, deep=True).findings == ()


def _tables(rookery: Rookery) -> dict[str, list[tuple[int, int]]]:
    nest = rookery.nest("1")
    return {
        "events": rookery.rows(f"SELECT id, count() FROM {nest}.events GROUP BY id ORDER BY id"),
        "sums": rookery.rows(f"SELECT bucket, sum(events) FROM {nest}.sums GROUP BY bucket ORDER BY bucket"),
        "totals": rookery.rows(f"SELECT tenant_id, sum(events) FROM {nest}.totals GROUP BY tenant_id"),
    }
