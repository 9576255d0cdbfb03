"""Damaged parts of tables that the engine loads on first use."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.control.doctor import examine
from tests.control.test_detached_nest_parts import DAYS, EVENTS
from tests.support.in_process import open_rookery


@pytest.mark.parametrize("damage", ["cut", "put aside"])
def test_damage_in_a_nest_is_reported_after_a_restart(tmp_path: Path, damage: str) -> None:
    with open_rookery(tmp_path) as rookery:
        rookery.push({"datasources/events.yaml": EVENTS, "pipes/to_days.yaml": DAYS})
        rookery.add("1")
        assert rookery.deliver([{"tenant_id": 1, "day": "2020-01-05"}])
        ((path,),) = rookery.rows(
            "SELECT path FROM system.parts WHERE active AND database = 'main_nest_1' AND table = 'days'"
        )
    part = Path(path)
    if damage == "cut":
        (part / "data.bin").write_bytes(b"")
    else:
        part.rename(part.parent / "detached" / f"broken-on-start_{part.name}")
    with open_rookery(tmp_path) as rookery:
        named = [f.object for f in examine(rookery.workspace).findings if f.check == "damaged-part"]
        assert named == ["main_nest_1.days"]
