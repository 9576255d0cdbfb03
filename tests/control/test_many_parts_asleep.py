"""Parts of tables that are not loaded count as well: the engine does not list them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.control.doctor import examine, storage_checks
from tests.fanout.house import house
from tests.fanout.stream import project


def test_many_parts_of_a_nest_are_found_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_checks, "MAX_PARTS_PER_PARTITION", 5)
    with house(tmp_path) as home:
        home.push(project("direct"))
        home.add("1", "2")
        for tenant in ("1", "2"):
            home.run(f"SYSTEM STOP MERGES {home.nest(tenant)}.events")
        for n in range(5):
            assert home.visible([{"tenant_id": 1, "id": n, "n": 1}])
        assert home.visible([{"tenant_id": 2, "id": 9, "n": 1}])
        home.run("OPTIMIZE TABLE main.events FINAL")

        def named() -> set[str]:
            found = {f.object for f in examine(home.workspace).findings if f.check == "many-parts"}
            return {name for name in found if name.startswith("main_nest")}

        home.run(f"OPTIMIZE TABLE {home.nest('1')}.sums FINAL")
        assert named() == {"main_nest_1.events"}
    with house(tmp_path) as home:
        assert named() == {"main_nest_1.events"}
        # The parts that a merge has replaced are on disk for a while, and do not count.
        home.run(f"OPTIMIZE TABLE {home.nest('1')}.events FINAL")
        assert named() == set()
