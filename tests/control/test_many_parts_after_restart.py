"""Parts of tables that are not loaded count as well: the engine does not list them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.control.doctor import examine, storage_checks
from tests.fanout.retrying_writers import project
from tests.support.in_process import open_rookery


def test_many_parts_of_a_nest_are_found_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_checks, "MAX_PARTS_PER_PARTITION", 5)
    with open_rookery(tmp_path) as rookery:
        rookery.push(project("direct"))
        rookery.add("1", "2")
        for tenant in ("1", "2"):
            rookery.run(f"SYSTEM STOP MERGES {rookery.nest(tenant)}.events")
        for n in range(5):
            assert rookery.deliver([{"tenant_id": 1, "id": n, "n": 1}])
        assert rookery.deliver([{"tenant_id": 2, "id": 9, "n": 1}])
        rookery.run("OPTIMIZE TABLE main.events FINAL")

        def named() -> set[str]:
            findings = {f.object for f in examine(rookery.workspace).findings if f.check == "many-parts"}
            return {name for name in findings if name.startswith("main_nest")}

        rookery.run(f"OPTIMIZE TABLE {rookery.nest('1')}.sums FINAL")
        assert named() == {"main_nest_1.events"}
    with open_rookery(tmp_path) as rookery:
        assert named() == {"main_nest_1.events"}
        # The parts that a merge has replaced are on disk for a while, and do not count.
        rookery.run(f"OPTIMIZE TABLE {rookery.nest('1')}.events FINAL")
        assert named() == set()
