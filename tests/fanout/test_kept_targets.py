"""A pipe changes after its source has lost rows: the target can stay, and the new query continues it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.control.doctor import examine, repair
from engine.control.push import PushOptions, PushResult, push
from engine.errors import RookeryError
from engine.workspace.snapshot import DeployedFile
from tests.support.in_process import Rookery, open_rookery

pytestmark = pytest.mark.feature

EVENTS = """\
tenant: {column: tenant_id, fanout: %s}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: at, type: Date}
  - {name: n, type: UInt32}
engine: {sorting_key: [tenant_id, at], ttl: "at + INTERVAL 30 YEAR"}
"""
PIPE = """\
sql: SELECT tenant_id, toYear(at) AS year, sum(%s) AS total FROM events GROUP BY tenant_id, year
materialize: {target: totals, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id, year]}}
"""
POOLED, OWN = "1", "100"


@pytest.fixture(scope="module", params=["routed", pytest.param("direct", marks=pytest.mark.soak_only)])
def rookery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp(request.param)) as made:
        made.push({"datasources/events.yaml": EVENTS % request.param, "pipes/fill.yaml": PIPE % "n"})
        made.add(POOLED, placement="pooled")
        made.add(OWN)
        _send(made, "1990-01-15", 5)
        made.wait_until_caught_up()
        for table in ("main.events", f"{made.nest(OWN)}.events"):
            made.run(f"OPTIMIZE TABLE {table} FINAL")
            assert made.rows(f"SELECT count() FROM {table}") == [(0,)]
        _send(made, "2090-01-15", 5)
        yield made


def _send(rookery: Rookery, day: str, n: int) -> None:
    assert rookery.append({"tenant_id": int(t), "at": day, "n": n} for t in (POOLED, OWN)).rows == 2


def _push(rookery: Rookery, query: str, *, skip: str = "fill", allow: str = "", cast: str = "") -> PushResult:
    text = (
        (PIPE % query).replace("sum(", f"{cast}(sum(").replace(") AS total", ")) AS total") if cast else PIPE % query
    )
    options = PushOptions(skip_backfill=frozenset({skip} - {""}), allow=frozenset({allow} - {""}))
    return push(rookery.workspace, {Path("pipes/fill.yaml").stem: DeployedFile(text, "pipes/fill.yaml")}, options)


def _totals(rookery: Rookery) -> dict[int, int]:
    """Sums by year, the same in both placements."""
    rookery.wait_until_caught_up()
    rows = [
        dict(rookery.rows(f"SELECT year, sum(total) FROM {d}.totals WHERE tenant_id = {t} GROUP BY year"))
        for d, t in (("main", POOLED), (rookery.nest(OWN), OWN))
    ]
    assert rows[0] == rows[1]
    return {int(y): int(n) for y, n in rows[0].items()}


def _errors(rookery: Rookery) -> list[str]:
    rookery.wait_until_caught_up()
    return [f"{f.object}: {f.message}" for f in examine(rookery.workspace, deep=True).findings if f.level == "error"]


def test_a_changed_query_continues_in_a_kept_target(rookery: Rookery) -> None:
    assert _totals(rookery) == {1990: 5, 2090: 5}
    with pytest.raises(RookeryError) as raised:
        _push(rookery, "n * 10", skip="")
    assert raised.value.code.id == "RK3001" and str(raised.value.hint).endswith("--skip-backfill fill")
    result = _push(rookery, "n * 10")
    assert {(s.action, s.loss) for s in result.plan.steps} == {("CreateView", "none")}
    assert _totals(rookery) == {1990: 5, 2090: 5}
    _send(rookery, "2090-01-15", 7)
    assert _totals(rookery) == {1990: 5, 2090: 75}
    # Neither the same push again, nor one without the flag, changes anything.
    assert [w.code.id for w in _push(rookery, "n * 10").warnings] == ["RK3035"]
    assert not _push(rookery, "n * 10", skip="").plan
    assert _errors(rookery) == []


def test_the_doctor_compares_rows_after_the_kept_ones(rookery: Rookery) -> None:
    for database in ("main", rookery.nest(OWN)):
        rookery.run(f"SYSTEM STOP MERGES {database}.totals")
    _send(rookery, "2091-01-15", 1)
    rookery.wait_until_caught_up()
    for database in ("main", rookery.nest(OWN)):
        ((part,),) = rookery.rows(f"SELECT argMax(_part, _block_number) FROM {database}.totals WHERE year = 2091")
        rookery.run(f"ALTER TABLE {database}.totals DROP PART '{part}'")
    assert len(_errors(rookery)) == 2
    repair(rookery.workspace)
    assert _errors(rookery) == [] and _totals(rookery) == {1990: 5, 2090: 75, 2091: 10}


def test_a_failed_view_gets_missed_rows_through_its_new_query(rookery: Rookery) -> None:
    _push(rookery, "intDiv(100, n)")
    _send(rookery, "2092-01-15", 0)
    _send(rookery, "2092-01-15", 50)
    result = _push(rookery, "if(n = 0, 1, intDiv(100, n))")
    rookery.router.retry_now()
    assert not result.plan.lost
    assert _totals(rookery) == {1990: 5, 2090: 75, 2091: 10, 2092: 3}


def test_targets_that_cannot_be_kept_are_refused(rookery: Rookery) -> None:
    before = _totals(rookery)
    with pytest.raises(RookeryError, match=r"column total: UInt64 . Int64") as raised:
        _push(rookery, "n", cast="toInt64")
    assert raised.value.code.id == "RK3035"
    with pytest.raises(RookeryError, match="no materialized pipe") as raised:
        _push(rookery, "n", skip="fil")
    assert raised.value.code.id == "RK3007"
    # Rows of several queries cannot be computed again, whatever the source still has.
    with pytest.raises(RookeryError, match="made by an earlier query") as raised:
        _push(rookery, "n", skip="")
    assert raised.value.code.id == "RK3001"
    assert _totals(rookery) == before
