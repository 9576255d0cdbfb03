"""Rows expire in landing after a month and stay in its rollups: no repair may remove them from a rollup."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.control import fanout_status, tenants
from engine.control.push import PushOptions, PushResult, push
from engine.control.recovery import finish
from engine.errors import RookeryError
from engine.workspace.snapshot import DeployedFile
from tests.support.in_process import Rookery, open_rookery

EVENTS = """\
tenant: {column: tenant_id, fanout: %s}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: at, type: Date}
  - {name: n, type: Int64}
engine: {sorting_key: [tenant_id, at], ttl: "%s"}
"""
ROLLUP = """\
nodes:
  - name: it
    sql: >-
      SELECT tenant_id, toStartOfMonth(at) AS month, sum(intDiv(100, n)) AS share, count() AS events FROM %s
      GROUP BY tenant_id, month
materialize:
  target: %s
  per_tenant: %s
  engine: {type: SummingMergeTree, sorting_key: [tenant_id, month], partition_key: toYear(month)}
"""
FOR_ALL = """\
shared: true
columns:
  - {name: tenant_id, type: UInt32}
  - {name: month, type: Date}
  - {name: share, type: Int64}
  - {name: events, type: UInt64}
engine: {type: SummingMergeTree, sorting_key: [tenant_id, month], partition_key: toYear(month)}
"""
CHAINED = """\
nodes:
  - name: it
    sql: >-
      SELECT tenant_id, sum(intDiv(months.share, months.share - 7)) AS odd, sum(months.events) AS events FROM months
      GROUP BY tenant_id
materialize: {target: chained, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""
POOLED, OWN, LATE = ("1", "2", "3"), ("100", "101"), "55"
JANUARY, TODAY, NEXT_YEAR = "'2024-01-15'", "today()", "today() + 366"
STRIDE = 9
"""Writes of a repair of which one is the last before a kill."""
Sums = dict[int, tuple[int, int]]


def files(mode: str, ttl: str = "at + INTERVAL 1 MONTH", divisor: str = "n") -> dict[str, str]:
    return {
        "datasources/events.yaml": EVENTS % (mode, ttl),
        "datasources/for_all.yaml": FOR_ALL,
        "pipes/to_months.yaml": ROLLUP.replace("100, n", f"100, {divisor}") % ("events", "months", "true"),
        "pipes/to_all.yaml": ROLLUP.replace("100, n", f"100, {divisor}") % ("events", "for_all", "false"),
        "pipes/to_chained.yaml": CHAINED,
    }


class Ledger:
    """What has been sent, so that sums can be checked after landing has forgotten it."""

    def __init__(self, rookery: Rookery) -> None:
        self.rookery = rookery
        self.sent: list[tuple[int, int]] = []

    def send(self, at: str, *rows: tuple[int, int], count: bool = True) -> None:
        """Append rows of (tenant, n)."""
        day = self.rookery.rows(f"SELECT toString(toDate({at}))")[0][0]
        assert self.rookery.append({"tenant_id": t, "at": day, "n": n} for t, n in rows).rows == len(rows)
        self.sent += rows if count else ()

    def send_at(self, rows: list[tuple[str, int, int]]) -> None:
        """Append rows of (day, tenant, n) as one batch."""
        days = {d: self.rookery.rows(f"SELECT toString(toDate({d}))")[0][0] for d, _, _ in rows}
        self.rookery.append({"tenant_id": t, "at": days[d], "n": n} for d, t, n in rows)
        self.sent += [(t, n) for _, t, n in rows]

    def expire(self) -> None:
        """Let the engine remove expired rows."""
        tables = ["main.events", *(f"{self.rookery.nest(t)}.events" for t in OWN)]
        for table in tables:
            self.rookery.run(f"OPTIMIZE TABLE {table} FINAL")
            assert self.rookery.rows(f"SELECT count() FROM {table} WHERE at < today() - 100") == [(0,)]

    def wanted(self, tenants: tuple[str, ...]) -> Sums:
        shares, events = Counter[int](), Counter[int]()
        for tenant, n in self.sent:
            shares[tenant] += 100 // n
            events[tenant] += 1
        return {int(t): (shares[int(t)], events[int(t)]) for t in tenants if events[int(t)]}

    def wrong(self) -> list[str]:
        """Rollups that differ from the sums of the sent rows."""
        self.rookery.wait_until_caught_up()
        differing = []
        for name, table, whose in [
            ("months", "main.months", POOLED),
            ("for_all", "main.for_all", (*POOLED, *OWN, LATE)),
            *((f"months of {t}", f"{self.rookery.nest(t)}.months", (t,)) for t in OWN),
        ]:
            late = "" if LATE in whose else f"WHERE tenant_id != {LATE} "
            rows = self.rookery.rows(f"SELECT tenant_id, sum(share), sum(events) FROM {table} {late}GROUP BY 1")
            have = {int(t): (int(s), int(e)) for t, s, e in rows}
            if have != self.wanted(whose):
                differing.append(f"{name}: {have} instead of {self.wanted(whose)}")
        for table, whose in [("main.chained", POOLED), *((f"{self.rookery.nest(t)}.chained", (t,)) for t in OWN)]:
            rows = self.rookery.rows(
                f"SELECT tenant_id, sum(events) FROM {table} WHERE tenant_id != {LATE} GROUP BY 1"
            )
            expected = {t: e for t, (_, e) in self.wanted(whose).items()}
            if {int(t): int(e) for t, e in rows} != expected:
                differing.append(f"{table}: {rows} instead of {expected}")
        return differing


# Views that all tenants share are on landing in both modes. A tenant whose nest fails is suspended or lags.
@pytest.fixture(params=["direct", pytest.param("routed", marks=pytest.mark.soak_only)], scope="module")
def rookery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp(request.param)) as made:
        made.mode = request.param  # type: ignore[attr-defined]
        made.push(files(request.param))
        made.add(*POOLED, placement="pooled")
        made.add(*OWN)
        yield made


@pytest.fixture(scope="module")
def ledger(rookery: Rookery) -> Ledger:
    made = Ledger(rookery)
    everybody = [(int(t), 5) for t in (*POOLED, *OWN)]
    made.send(JANUARY, *everybody)
    made.rookery.wait_until_caught_up()
    made.expire()
    made.send(TODAY, *everybody)
    assert made.wrong() == []
    return made


def _push(rookery: Rookery, some: dict[str, str], *allow: str, dry: bool = False) -> PushResult:
    sources = {Path(f).stem: DeployedFile(text, f) for f, text in some.items()}
    return push(rookery.workspace, sources, PushOptions(allow=frozenset(allow), dry_run=dry))


def _down(rookery: Rookery) -> set[str]:
    return {v["view"] for v in fanout_status.status(rookery.workspace)["suspended"]}


NEST = "of one tenant with tables"
POISONS = {
    "of one pooled tenant": [(2, 0)],
    "of all pooled tenants": [(1, 0), (2, 0), (3, 0), (100, 0), (101, 0)],
    NEST: [(100, 0)],
    "of everybody, one after the other": [(1, 0), (100, 0), (2, 0)],
}


@pytest.mark.parametrize(
    "poison", [pytest.param(p, marks=[pytest.mark.soak_only] if p == NEST else []) for p in POISONS]
)
def test_a_failed_view_is_restored_with_the_rows_it_missed(ledger: Ledger, poison: str) -> None:
    _assert_is_restored(ledger, poison)


def _assert_is_restored(ledger: Ledger, poison: str) -> None:
    rookery = ledger.rookery
    batches = [POISONS[poison]] if "one after" not in poison else [[row] for row in POISONS[poison]]
    for rows in batches:
        ledger.send(JANUARY, *rows, count=False)
        ledger.send(TODAY, (1, 9), (2, 9), (3, 9), (100, 9))
    assert _down(rookery)
    # Neither an unchanged push that would fail again nor the good rows since take anything away.
    assert {w.code.id for w in _push(rookery, {}).warnings} <= {"RK3012", "RK3014"}
    ledger.expire()
    result = _push(rookery, files(rookery.mode))  # type: ignore[attr-defined]
    rookery.router.retry_now()
    assert not result.plan.lost and {s.loss for s in result.plan.steps} <= {"none"}
    assert ledger.wrong() == [] and _down(rookery) == set()
    ledger.send(TODAY, *((int(t), 3) for t in (*POOLED, *OWN)))
    assert ledger.wrong() == []


@pytest.mark.parametrize("tenant", ["1", "100"])
def test_a_failed_chained_view_is_recomputed_from_a_complete_source(ledger: Ledger, tenant: str) -> None:
    """Its source merges rows of several blocks into one, but has lost none."""
    rookery = ledger.rookery
    database = rookery.nest(tenant) if tenant in OWN else "main"
    rookery.run(f"ALTER TABLE {database}.chained ADD CONSTRAINT poison CHECK 0")
    try:
        ledger.send_at([(NEXT_YEAR, int(tenant), 9), (TODAY, int(tenant), 9), (TODAY, 2, 9)])
        ledger.send(TODAY, (int(tenant), 7), (2, 7))
    finally:
        rookery.run(f"ALTER TABLE {database}.chained DROP CONSTRAINT poison")
    result = _push(rookery, {})
    rookery.router.retry_now()
    assert {s.loss for s in result.plan.steps} <= {"none", "recomputed"}
    assert ledger.wrong() == [] and _down(rookery) == set()


def test_a_changed_pipe_names_every_target_that_would_lose_rows(ledger: Ledger) -> None:
    rookery = ledger.rookery
    changed = files(rookery.mode, divisor="(n + 0)")  # type: ignore[attr-defined]
    plan = _push(rookery, changed, dry=True).plan
    lost = {s.subject for s in plan.lost}
    own = {f"{rookery.nest(t).strip('`')}.{table}" for t in OWN for table in ("months", "chained")}
    assert lost == {"main.months", "main.for_all", "main.chained"} | own
    assert all(s.loss in ("none", "lost") for s in plan.steps)
    assert {s["subject"] for s in plan.as_list() if s["loss"] == "lost"} == lost
    with pytest.raises(RookeryError) as raised:
        _push(rookery, changed)
    assert raised.value.code.id == "RK3001"
    # The tables of several nests are one line.
    lines = raised.value.message.splitlines()
    for table in ("months", "for_all", "chained"):
        assert any(line.startswith(f"table {table}: ") for line in lines), lines
    for table in ("months", "chained"):
        assert any(line.startswith(f"table {table} in {len(OWN)} nests: ") for line in lines), lines
    assert ledger.wrong() == []


def test_unrecorded_rows_of_an_earlier_version_need_permission_to_drop(ledger: Ledger) -> None:
    rookery = ledger.rookery
    ledger.send(JANUARY, (2, 0), count=False)
    ledger.expire()
    notes = rookery.workspace.registry.read("suspended")
    assert notes
    rookery.workspace.registry.write(
        "suspended", {n: {k: v for k, v in b.items() if k != "missing"} for n, b in notes.items()}
    )
    rookery.workspace.refresh()
    for _ in range(2):
        with pytest.raises(RookeryError, match="lost") as raised:
            _push(rookery, {})
        assert raised.value.code.id == "RK3001" and "table months: " in raised.value.message
    rookery.workspace.registry.write("suspended", notes)
    rookery.workspace.refresh()
    _push(rookery, {})
    assert ledger.wrong() == [] and _down(rookery) == set()


def test_missed_rows_that_have_expired_are_reported_by_tenant(ledger: Ledger) -> None:
    rookery = ledger.rookery
    ledger.send(JANUARY, (2, 0), (2, 0), count=False)
    ledger.send(TODAY, (2, 5), (3, 5))
    ledger.expire()
    result = _push(rookery, {})
    gone = sorted(w.message for w in result.warnings if w.code.id == "RK3014")
    assert [m.partition(" that ")[0] for m in gone] == ["2 rows of tenant `2`"] * 2
    assert ledger.wrong() == [] and _down(rookery) == set()


def test_a_tenant_added_while_a_view_is_suspended_has_every_row_once(ledger: Ledger) -> None:
    rookery = ledger.rookery
    ledger.send(TODAY, (55, 5), (1, 5))
    for poison in ([(3, 0)], [(int(t), 0) for t in POOLED]):
        ledger.send(JANUARY, *poison, count=False)
        rookery.add(LATE, placement="pooled")
        ledger.send(TODAY, (55, 6), (1, 6))
        ledger.expire()
        _push(rookery, {})
        rows = rookery.rows("SELECT sum(events) FROM main.months WHERE tenant_id = 55")
        assert rows == rookery.rows("SELECT count() FROM main.events WHERE tenant_id = 55")
        assert ledger.wrong() == []
        tenants.remove(rookery.workspace, LATE)


def test_a_kill_during_a_repair_keeps_every_row_once(ledger: Ledger) -> None:
    """Every few writes of a repair; `python -m benchmarks recovery` tries all of them."""
    if ledger.rookery.mode == "routed":  # type: ignore[attr-defined]
        pytest.skip("views that all tenants share are repaired in the same way in both modes")
    assert [where for where, wrong in repairs_killed(ledger, STRIDE) if wrong] == []


def repairs_killed(ledger: Ledger, stride: int) -> Iterator[tuple[str, list[str]]]:
    """A repair is killed after a write; then a server starts and repairs: after which write, and what is wrong."""
    rookery = ledger.rookery
    poisons = itertools.cycle([[(2, 0)], [(100, 0), (2, 0)], [(1, 0), (2, 0), (3, 0)]])
    for step in itertools.count(2, stride):
        ledger.send(JANUARY, *next(poisons), count=False)
        ledger.send(TODAY, (1, 8), (2, 8), (100, 8))
        ledger.expire()
        complete = _killed_push(rookery, step)
        finish(rookery.workspace)
        ledger.send(TODAY, (1, 4), (2, 4), (100, 4))
        _push(rookery, {})
        yield f"write {step}", [*ledger.wrong(), *_down(rookery)]
        if complete:
            assert step > 8, "a repair writes more often"
            return


def _killed_push(rookery: Rookery, step: int) -> bool:
    """A push whose writes fail from one on; returns whether it needed fewer."""
    warehouse = rookery.workspace.warehouse
    writes = itertools.count(1)

    def until_killed(real: Any, *args: Any, **more: Any) -> Any:
        if not threading.current_thread().name.startswith("fan-out") and next(writes) >= step:
            raise KeyboardInterrupt
        return real(*args, **more)

    with pytest.MonkeyPatch.context() as patched:
        for name in ("execute", "insert"):
            patched.setattr(warehouse, name, partial(until_killed, getattr(warehouse, name)))
        try:
            _push(rookery, {})
        except KeyboardInterrupt:
            return False
    return True


@pytest.mark.parametrize("rookery", ["routed"], indirect=True, scope="module")
def test_a_nest_that_lags_is_restored_with_the_rows_it_missed(ledger: Ledger) -> None:
    """Modes differ in what happens to a nest. With direct fan-out, the last of the poisons fails in one as well."""
    _assert_is_restored(ledger, NEST)
