"""The doctor warns before rows that a suspended view lacks are removed by the TTL of their source."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.control.doctor import examine
from engine.project.lifetimes import expiry_expressions
from tests.fanout.test_expired_source_rows import files
from tests.support.in_process import open_rookery

pytestmark = pytest.mark.feature


def test_missed_rows_are_reported_a_week_before_they_expire(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        rookery.push(files("direct", "at + INTERVAL 30 DAY"))
        rookery.add("1", "2", placement="pooled")
        rookery.add("100")

        def send(tenant: int, age: int, n: int) -> None:
            day = (datetime.now(UTC) - timedelta(days=age)).date().isoformat()
            rookery.append([{"tenant_id": tenant, "at": day, "n": n}])

        def found() -> list[tuple[str, str]]:
            rookery.wait_until_caught_up()
            findings = examine(rookery.workspace).findings
            return sorted((f.object, f.message.split(" that ")[0]) for f in findings if f.check == "expiring-rows")

        send(1, 27, 5)
        send(2, 10, 0)
        assert found() == []
        send(2, 27, 0)
        send(1, 27, 5)
        lacks = "it lacks 1 row of tenant 2"
        assert found() == [("main._rk_to_all", lacks), ("main._rk_to_months", lacks)]
        send(100, 26, 0)
        rookery.wait_until_caught_up()
        assert ("main_nest_100._rk_to_months", "it lacks 1 row") in found()


def test_dates_of_a_ttl() -> None:
    ttl = "at + INTERVAL 1 DAY, at + toIntervalDay(2) DELETE WHERE n = 0, at TO DISK 'cold', at + 5 GROUP BY n"
    assert expiry_expressions(ttl) == ["at + INTERVAL 1 DAY", "at + toIntervalDay(2)", "at + 5"]
    assert expiry_expressions("") == [] and expiry_expressions("f(") == []
