"""Attached parts do not count as inserts that failed to be logged."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.schema import Name
from tests.fanout.retrying_writers import project
from tests.support.in_process import open_rookery


@pytest.mark.guard
def test_attached_parts_are_kept(tmp_path: Path) -> None:
    table = Name("main", "sums")
    with open_rookery(tmp_path) as rookery:
        rookery.push(project("direct"))
        rookery.add("8", placement="pooled")
        rookery.append([{"tenant_id": 8, "id": 1, "n": 1}])
        rookery.run(f"CREATE TABLE main.other AS {table.sql()}")
        rookery.run("INSERT INTO main.other SETTINGS deduplicate_insert = 'disable' VALUES (8, 1, 5, 7)")
        rookery.workspace.warehouse.execute(f"ALTER TABLE {table.sql()} ATTACH PARTITION ID 'all' FROM main.other")
        for n in range(2, 4):
            rookery.append([{"tenant_id": 8, "id": n, "n": 1}])
        assert rookery.rows(f"SELECT sum(events), sum(total) FROM {table.sql()}") == [(8, 10)]
        rookery.run("DROP TABLE main.other")
