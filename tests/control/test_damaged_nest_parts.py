"""Damaged parts of tables that the engine loads on first use."""

from __future__ import annotations

from pathlib import Path

from engine.control.doctor import examine
from tests.control.test_detached_nest_parts import DAYS, EVENTS
from tests.support.in_process import open_rookery


def test_damage_in_nests_is_reported_after_a_restart(tmp_path: Path) -> None:
    """Of one part the data is cut off, and one was put aside by an earlier start."""
    with open_rookery(tmp_path) as rookery:
        rookery.push({"datasources/events.yaml": EVENTS, "pipes/to_days.yaml": DAYS})
        rookery.add("1", "2")
        assert rookery.deliver([{"tenant_id": t, "day": "2020-01-05"} for t in (1, 2)])
        paths = rookery.rows(
            "SELECT path FROM system.parts WHERE active AND startsWith(database, 'main_nest_') AND table = 'days' "
            "ORDER BY database"
        )
    cut, aside = (Path(path) for (path,) in paths)
    (cut / "data.bin").write_bytes(b"")
    aside.rename(aside.parent / "detached" / f"broken-on-start_{aside.name}")
    with open_rookery(tmp_path) as rookery:
        named = [f.object for f in examine(rookery.workspace).findings if f.check == "damaged-part"]
        assert sorted(named) == ["main_nest_1.days", "main_nest_2.days"]
