"""Erasing a tenant from shared aggregates while views are down, over sources that merge rows, and in one step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.control import tenants
from engine.control.push import push
from engine.errors import RookeryError
from tests.support.in_process import Rookery, open_copy, open_rookery
from tests.support.soak import soaking

pytestmark = pytest.mark.feature

EVENTS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: region, type: String}
  - {name: n, type: Int64}
engine: {sorting_key: [tenant_id]}
"""
TOTALS = """
shared: {min_tenants: 2}
columns:
  - {name: region, type: String}
  - {name: events, type: "SimpleAggregateFunction(sum, UInt64)"}
  - {name: share, type: "SimpleAggregateFunction(sum, Int64)"}
engine: {type: AggregatingMergeTree, sorting_key: [region], partition_key: "length(region)"}
"""
FILL = """
sql: SELECT region, count() AS events, sum(intDiv(100, n)) AS share FROM events GROUP BY region
materialize: {target: totals}
"""
AGAIN = """
shared: true
columns: [{name: region, type: String}, {name: events, type: UInt64}]
engine: {type: SummingMergeTree, sorting_key: [region]}
"""
DAILY = """
tenant: {column: tenant_id, landing: false}
columns: [{name: tenant_id, type: UInt32}, {name: region, type: String}, {name: n, type: Int64}]
engine: {type: SummingMergeTree, sorting_key: [tenant_id, region], columns: [n]}
"""
FILES = {
    "datasources/events.yaml": EVENTS,
    "datasources/totals.yaml": TOTALS,
    "pipes/fill.yaml": FILL,
    "datasources/again.yaml": AGAIN,
    "pipes/fill_again.yaml": "sql: SELECT region, events FROM totals\nmaterialize: {target: again}\n",
}
SUMS = "SELECT region, sum(events), sum(share) FROM main.totals GROUP BY region ORDER BY region"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("suspended")
    with open_rookery(directory) as opened:
        opened.push(FILES)
        opened.add(*map(str, range(1, 31)), placement="pooled")
        opened.append(_rows(range(1, 31)))
        opened.append(_rows([1, 2, 3], region="north"))
    return directory


@pytest.fixture
def rookery(prepared: Path, tmp_path: Path) -> Iterator[Rookery]:
    with open_copy(prepared, tmp_path) as opened:
        yield opened


def _rows(ids: object, n: int = 1, region: str = "eu") -> list[dict[str, object]]:
    return [{"tenant_id": t, "region": region, "n": n} for t in ids]  # type: ignore[attr-defined]


@pytest.mark.parametrize("bad", [range(10, 12), range(10, 30)], ids=["few", "many"])
@pytest.mark.soak
def test_a_suspended_view_gets_each_row_once(rookery: Rookery, bad: range) -> None:
    """Rows that the view missed are not in the groups before it is restored; then they are, once."""
    rookery.append([*_rows([1]), *_rows(bad, n=0)])
    rookery.append(_rows([1, 2, 3]))
    down = len(bad) > 16
    received = 30 if down else 34
    assert rookery.rows(SUMS) == [("eu", received, 100 * received), ("north", 3, 300)]
    tenants.remove(rookery.workspace, "3", purge=True)
    received -= 1 if down else 2
    assert rookery.rows(SUMS) == [("eu", received, 100 * received), ("north", 2, 200)]
    purged = bad if soaking() else bad[:1]
    for tenant in purged:
        tenants.remove(rookery.workspace, str(tenant), purge=True)
    # The others' rows on which the view fails, so that it can be restored; their good ones stay.
    rookery.run("ALTER TABLE main.events DELETE WHERE n = 0 SETTINGS mutations_sync = 2")
    push(rookery.workspace, {})
    left = 29 - len(purged) + 3
    assert rookery.rows(SUMS) == [("eu", left, 100 * left), ("north", 2, 200)]


def test_groups_change_in_one_step_and_trigger_no_views(rookery: Rookery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are computed in a separate table: a failure changes nothing, and derived tables get their rows once."""
    before, derived = rookery.rows(SUMS), "SELECT region, sum(events) FROM main.again GROUP BY region ORDER BY region"
    copied = rookery.rows(derived)
    execute = rookery.workspace.warehouse.execute
    seen = set()

    def watching(sql: str, *more: object) -> None:
        if "totals" in sql:
            seen.add(str(rookery.rows(SUMS)))
        if "PARTITION ID" in sql:
            raise KeyboardInterrupt
        execute(sql, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(rookery.workspace.warehouse, "execute", watching)
        with pytest.raises(KeyboardInterrupt):
            tenants.remove(rookery.workspace, "3", purge=True)
    assert seen == {str(before)}
    tenants.remove(rookery.workspace, "3", purge=True)
    assert rookery.rows(SUMS) == [("eu", 29, 2900), ("north", 2, 200)]
    assert rookery.rows(derived) == copied
    rookery.append(_rows([1, 2]))
    assert rookery.rows(SUMS) == [("eu", 31, 3100), ("north", 2, 200)]


def test_a_source_that_merges_rows_needs_permission(tmp_path: Path) -> None:
    """It has fewer rows than have gone through the view, so counts would shrink."""
    with open_rookery(tmp_path) as rookery:
        fill = "sql: SELECT tenant_id, region, sum(n) AS n FROM events GROUP BY tenant_id, region\n"
        rookery.push(
            {
                "datasources/events.yaml": EVENTS,
                "datasources/daily.yaml": DAILY,
                "pipes/fill_daily.yaml": fill + "materialize: {target: daily, per_tenant: true}\n",
                "datasources/totals.yaml": TOTALS,
                "pipes/fill.yaml": FILL.replace("FROM events", "FROM daily"),
            }
        )
        rookery.add("1", "2", "3", placement="pooled")
        for _ in range(3):
            rookery.append(_rows([1, 2, 3]))
        rookery.run("OPTIMIZE TABLE main.daily FINAL")
        before = rookery.rows(SUMS)
        with pytest.raises(RookeryError, match="merges its rows") as raised:
            tenants.remove(rookery.workspace, "3", purge=True)
        assert raised.value.code.id == "RK3001"
        assert rookery.rows(SUMS) == before == [("eu", 9, 900)]
        tenants.remove(rookery.workspace, "3", purge=True, allow=["totals"])
        assert rookery.rows(SUMS) == [("eu", 2, 66)]
