"""Erasing a tenant from shared aggregates needs permission if rows of other tenants have expired in the source."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.control import erasure, tenants
from engine.control.doctor import examine, repair
from engine.control.regroup import incomplete_groups
from engine.errors import RookeryError
from tests.support.in_process import Rookery, open_rookery

pytestmark = pytest.mark.feature

EVENTS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: at, type: Date}
  - {name: n, type: Int64}
engine: {sorting_key: [tenant_id, at]%s}
"""
TOTALS = """
shared: {min_tenants: 2}
columns:
  - {name: year, type: UInt16}
  - {name: total, type: "SimpleAggregateFunction(sum, Int64)"}
engine: {type: AggregatingMergeTree, sorting_key: [year]}
"""
FILL = "sql: SELECT toYear(at) AS year, sum(n) AS total FROM events GROUP BY year\nmaterialize: {target: totals}\n"
SUMS = "SELECT year, sum(total) FROM main.totals GROUP BY year ORDER BY year"


def _fill(rookery: Rookery, ttl: str) -> None:
    rookery.push(
        {
            "datasources/events.yaml": EVENTS % ttl,
            "datasources/totals.yaml": TOTALS,
            "pipes/fill.yaml": FILL,
        }
    )
    rookery.add("1", "2", "3", placement="pooled")
    rookery.append([{"tenant_id": t, "at": "2024-01-15", "n": 10**t} for t in (1, 2, 3)])
    rookery.append([{"tenant_id": t, "at": "2099-01-15", "n": 10**t} for t in (1, 2)])


def test_groups_whose_source_has_expired_need_permission(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        _fill(rookery, ', ttl: "at + INTERVAL 1 MONTH"')
        rookery.run("OPTIMIZE TABLE main.events FINAL")
        before = rookery.rows(SUMS)
        assert before == [(2024, 1110), (2099, 110)]
        with pytest.raises(RookeryError) as raised:
            tenants.remove(rookery.workspace, "3", purge=True)
        assert raised.value.code.id == "RK3001"
        assert "`totals`" in raised.value.message and "TTL" in raised.value.message
        assert raised.value.hint and raised.value.hint.endswith("--purge --allow-destructive totals")
        assert rookery.rows(SUMS) == before
        assert rookery.workspace.refresh().tenants["3"].state == "ready"
        tenants.remove(rookery.workspace, "2", purge=True, allow=["totals"])
        assert rookery.rows(SUMS) == [(2099, 10)]
        assert "2" not in rookery.workspace.refresh().tenants
        assert rookery.workspace.registry.read(erasure.ERASURE_KIND) == {}
        # No group has rows of tenant 3 now, so nothing can be lost.
        tenants.remove(rookery.workspace, "3", purge=True)


def test_only_rows_that_have_expired_need_permission(tmp_path: Path) -> None:
    """Of other tenants, in groups of the tenant that is erased."""
    with open_rookery(tmp_path) as rookery:
        _fill(rookery, ', ttl: "at + INTERVAL 50 YEAR"')
        tenants.remove(rookery.workspace, "3", purge=True)
        assert rookery.rows(SUMS) == [(2024, 110), (2099, 110)]
        rookery.append([{"tenant_id": t, "at": "1970-01-15", "n": 5} for t in (4, 5)])
        rookery.run("OPTIMIZE TABLE main.events FINAL")
        assert rookery.rows("SELECT count() FROM main.events WHERE tenant_id > 3") == [(0,)]
        tenants.remove(rookery.workspace, "1", purge=True)
        assert rookery.rows(SUMS) == [(1970, 10), (2024, 100), (2099, 100)]
        with pytest.raises(RookeryError, match="totals"):
            tenants.remove(rookery.workspace, "4", purge=True)


def test_an_interrupted_erasure_needs_no_permission_and_keeps_other_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that the erasure itself has deleted are not a loss."""
    with open_rookery(tmp_path) as rookery:
        _fill(rookery, "")
        with monkeypatch.context() as patched:
            patched.setattr(erasure, "recompute_groups", _killed)
            patched.setattr(tenants.RegistryJournal, "record_consumed", _killed)
            with pytest.raises(KeyboardInterrupt):
                tenants.remove(rookery.workspace, "3", purge=True)
        tenants.remove(rookery.workspace, "3", purge=True)
        assert rookery.rows(SUMS) == [(2024, 110), (2099, 110)]
        assert incomplete_groups(rookery.workspace, rookery.workspace.current.build, "1") == {}


def test_an_interrupted_erasure_is_reported_with_the_command_that_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `--purge` the tenant would be gone, and its rows would not. Also of a tenant that was never added."""
    with open_rookery(tmp_path) as rookery:
        _fill(rookery, "")
        rookery.append([{"tenant_id": 7, "at": "2024-01-15", "n": 1}])
        for tenant in ("3", "7"):
            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr(erasure, "delete_rows", _killed)
                tenants.remove(rookery.workspace, tenant, purge=True)
            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr(erasure, "delete_rows", _killed)
                tenants.remove(rookery.workspace, tenant, purge=True)
            (finding,) = [f for f in examine(rookery.workspace).findings if f.check == "unfinished-tenant"]
            assert (finding.object, finding.hint) == (f"tenant {tenant}", f"rookery tenant rm {tenant} --purge")
            if tenant == "3":
                with pytest.raises(RookeryError) as raised:
                    tenants.add(rookery.workspace, [tenant])
                assert "rm 3 --purge" in str(raised.value.hint)
            tenants.remove(rookery.workspace, tenant, purge=True)
            assert examine(rookery.workspace).healthy
            assert rookery.rows(f"SELECT count() FROM main.events WHERE tenant_id = {tenant}") == [(0,)]


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_ordinary_aggregate_keeps_a_purged_tenants_part_until_it_is_repaired(tmp_path: Path) -> None:
    ordinary = TOTALS.replace("shared: {min_tenants: 2}", "shared: true").replace("Int64", "UInt64")
    with open_rookery(tmp_path) as rookery:
        rookery.push(
            {
                "datasources/events.yaml": EVENTS.replace("Int64", "UInt64") % "",
                "datasources/totals.yaml": ordinary,
                "pipes/fill.yaml": FILL,
            }
        )
        rookery.add("1", "2", placement="pooled")
        rookery.append([{"tenant_id": t, "at": "2024-01-15", "n": 10**t} for t in (1, 2)])
        tenants.remove(rookery.workspace, "2", purge=True)
        assert rookery.rows(SUMS) == [(2024, 110)]
        (found,) = examine(rookery.workspace, deep=True).findings
        assert (found.check, found.object) == ("derived", "main.totals")
        assert found.hint is not None
        assert "purged tenant" in found.hint
        assert "--repair --allow-destructive totals" in found.hint
        repair(rookery.workspace, ["totals"])
        assert rookery.rows(SUMS) == [(2024, 10)]
        assert examine(rookery.workspace, deep=True).findings == ()


def test_groups_in_many_partitions_are_recomputed(tmp_path: Path) -> None:
    years = range(2000, 2120)
    totals = TOTALS.replace("sorting_key", "partition_key: year, sorting_key")
    with open_rookery(tmp_path) as rookery:
        rookery.push(
            {
                "datasources/events.yaml": EVENTS % "",
                "datasources/totals.yaml": totals,
                "pipes/fill.yaml": FILL,
            }
        )
        rookery.add("1", "2", placement="pooled")
        for some in (years[:60], years[60:]):
            rookery.append([{"tenant_id": t, "at": f"{year}-01-15", "n": t} for year in some for t in (1, 2)])
        tenants.remove(rookery.workspace, "1", purge=True)
        assert rookery.rows(SUMS) == [(year, 2) for year in years]
        assert examine(rookery.workspace, deep=True).findings == ()
