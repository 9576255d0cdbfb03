"""Detached parts of nests' tables, which the engine does not list while the tables are not loaded."""

from __future__ import annotations

from pathlib import Path

from engine.control.doctor import examine, repair
from tests.support.in_process import open_rookery

EVENTS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: day, type: Date}
engine: {sorting_key: [tenant_id, day], ttl: "day + INTERVAL 30 YEAR"}
"""
DAYS = """
sql: SELECT tenant_id, day, count() AS events FROM events GROUP BY tenant_id, day
materialize: {target: days, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id, day]}}
"""


def test_detached_parts_in_a_nest_are_found_and_attached_after_a_restart(tmp_path: Path) -> None:
    """Some of their rows have expired in the source, so only the detached parts can restore them."""
    with open_rookery(tmp_path) as rookery:
        rookery.push({"datasources/events.yaml": EVENTS, "pipes/to_days.yaml": DAYS})
        rookery.add("1")
        rookery.run(f"SYSTEM STOP MERGES {rookery.nest('1')}.days")
        assert rookery.deliver([{"tenant_id": 1, "day": d} for d in ("1990-01-05", "2090-01-05")])
        rookery.run("OPTIMIZE TABLE main.events FINAL")
        ((part,),) = rookery.rows(f"SELECT DISTINCT _part FROM {rookery.nest('1')}.days")
        rookery.run(f"ALTER TABLE {rookery.nest('1')}.days DETACH PART '{part}'")
    with open_rookery(tmp_path) as rookery:
        named = [f.object for f in examine(rookery.workspace).findings if f.check == "detached-parts"]
        assert named == ["main_nest_1.days"]
        (repaired,) = (t for t in repair(rookery.workspace)["repaired"] if t["table"] == "main_nest_1.days")
        assert [(p["part"], p["done"]) for p in repaired["detached"]] == [(part, "attached")]
        assert rookery.rows(f"SELECT sum(events) FROM {rookery.nest('1')}.days") == [(2,)]
        assert not [f for f in examine(rookery.workspace).findings if f.check == "detached-parts"]
