"""A merge that made a damaged part just before its process ended is undone by the next one."""

from __future__ import annotations

from pathlib import Path

from tests.fanout.retrying_writers import project
from tests.support.in_process import open_rookery

QUARANTINE = "main.events_quarantine"


def test_a_damaged_merge_is_undone_at_startup(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        rookery.push(project("direct"))
        for _ in range(3):
            rookery.append([{"tenant_id": 1, "id": "none", "n": 1}])
        rookery.run(f"OPTIMIZE TABLE {QUARANTINE} FINAL")
        ((path,),) = rookery.rows("SELECT path FROM system.parts WHERE active AND table = 'events_quarantine'")
        cut = Path(path) / "columns.txt"
        cut.write_bytes(cut.read_bytes()[:60])
    with open_rookery(tmp_path) as rookery:
        assert rookery.rows(f"SELECT count() FROM {QUARANTINE}") == [(3,)]
        assert rookery.rows("SELECT count() FROM system.detached_parts") == [(0,)]
