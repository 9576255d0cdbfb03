"""Hours that clocks show twice are two keys for the doctor, which finds nothing and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.control.doctor import examine, repair
from tests.support.in_process import Rookery, open_rookery

FIRST = 1729987200
"""2024-10-27 01:00 in London, in summer time; an hour later clocks show the same."""
EVENTS = """
tenant: tenant_id
columns: [{name: tenant_id, type: UInt32}, {name: at, type: DateTime}, {name: n, type: UInt32}]
engine: {sorting_key: [tenant_id, at]}
"""
PER_HOUR = """
sql: |
  SELECT tenant_id, toStartOfHour(toTimeZone(at, 'Europe/London')) AS hour, CAST(if(n > 9, NULL, n), 'Nullable(UInt32)') AS some,
    toLowCardinality(toString(n)) AS name, sum(n) AS total
  FROM events GROUP BY tenant_id, hour, some, name
materialize:
  target: per_hour
  per_tenant: true
  engine:
    type: SummingMergeTree
    sorting_key: [tenant_id, hour, name]
    columns: [total]
"""


def _totals(rookery: Rookery) -> list[tuple[int, int]]:
    totals: list[tuple[int, int]] = []
    for table in ("main.per_hour", f"{rookery.nest('1')}.per_hour"):
        rows = rookery.rows(f"SELECT toUnixTimestamp(hour) AS h, sum(total) FROM {table} GROUP BY h ORDER BY h")
        totals += [(int(hour) - FIRST, int(total)) for hour, total in rows]
    return totals


@pytest.mark.proves("D4")
def test_repeated_hours_are_two_keys(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        rookery.push({"datasources/events.yaml": EVENTS, "pipes/fill.yaml": PER_HOUR})
        rookery.add("1")
        rookery.add("2", placement="pooled")
        rows = [
            {"tenant_id": t, "at": FIRST + 3600 * hour + 60 * minute, "n": 1 + hour * 4}
            for t in (1, 2)
            for hour in (0, 1)
            for minute in (1, 2)
        ]
        same = [{**row, "n": 7} for row in rows for _ in range(1 if row["at"] < FIRST + 3600 else 2)]
        assert rookery.append([*rows, *same]).rows == 20
        expected = [(0, 16), (3600, 38)] * 2
        assert _totals(rookery) == expected
        assert [f for f in examine(rookery.workspace, deep=True).findings if f.level == "error"] == []
        assert repair(rookery.workspace)["repaired"] == []
        assert _totals(rookery) == expected
