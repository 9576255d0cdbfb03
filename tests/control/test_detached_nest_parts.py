"""Detached parts of nests' tables, which the engine does not list while the tables are not loaded."""

from __future__ import annotations

from pathlib import Path

from engine.control.doctor import examine, repair
from tests.support.in_process import house

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
    with house(tmp_path) as home:
        home.push({"datasources/events.yaml": EVENTS, "pipes/to_days.yaml": DAYS})
        home.add("1")
        home.run(f"SYSTEM STOP MERGES {home.nest('1')}.days")
        assert home.visible([{"tenant_id": 1, "day": d} for d in ("1990-01-05", "2090-01-05")])
        home.run("OPTIMIZE TABLE main.events FINAL")
        ((part,),) = home.rows(f"SELECT DISTINCT _part FROM {home.nest('1')}.days")
        home.run(f"ALTER TABLE {home.nest('1')}.days DETACH PART '{part}'")
    with house(tmp_path) as home:
        named = [f.object for f in examine(home.workspace).findings if f.check == "detached-parts"]
        assert named == ["main_nest_1.days"]
        (told,) = (t for t in repair(home.workspace)["repaired"] if t["table"] == "main_nest_1.days")
        assert [(p["part"], p["done"]) for p in told["detached"]] == [(part, "attached")]
        assert home.rows(f"SELECT sum(events) FROM {home.nest('1')}.days") == [(2,)]
        assert not [f for f in examine(home.workspace).findings if f.check == "detached-parts"]
