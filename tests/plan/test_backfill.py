"""Delivering recorded history: the record keeps exactly the ranges that have not arrived, even after a failure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.compiler.storage import NEST_DEDUP_WINDOW
from engine.control.push import PushOptions, push
from engine.control.recovery import finish
from engine.errors import ENGINE, RookeryError
from engine.plan import backfill_delivery
from engine.plan.backfill import Backfill
from engine.plan.backfill_delivery import BACKFILL_THREADS, RANGES_PER_GROUP, deliver
from engine.workspace.journal import BACKFILL_KIND, RegistryJournal
from engine.workspace.snapshot import DeployedFile
from tests.support.in_process import open_rookery


class Notes:
    """A journal in memory."""

    def __init__(self, histories: Sequence[Backfill]) -> None:
        self.kept = {h.id: h for h in histories}

    def record(self, histories: Sequence[Backfill]) -> None:
        self.kept.update({h.id: h for h in histories})

    def delete(self, histories: Sequence[Backfill]) -> None:
        for item in histories:
            self.kept.pop(item.id, None)

    def outstanding(self) -> list[Backfill]:
        return list(self.kept.values())

    def record_newest_blocks(self) -> None:
        """Landing gets no rows here."""


class Log:
    """Records statements, and fails on those that name a poisoned range."""

    def __init__(self, poisoned: str = "") -> None:
        self.statements: list[str] = []
        self.poisoned = poisoned

    def execute(self, sql: str) -> None:
        if self.poisoned and self.poisoned in sql:
            raise RookeryError(ENGINE, "poisoned")
        self.statements.append(sql)


def _history(name: str, ranges: int) -> Backfill:
    pieces = tuple((n * 10, n * 10 + 10) for n in range(ranges))
    return Backfill(name, f"main.{name}", "s", "SELECT {rk_after:UInt64}, {rk_upto:UInt64}", ("a", "b"), "t", pieces)


def _deliver(histories: Sequence[Backfill], log: Any, notes: Notes) -> None:
    deliver(histories, log, notes)


def test_delivered_ranges_are_removed_from_the_record() -> None:
    histories = [_history(f"h{n}", n) for n in range(2 * RANGES_PER_GROUP)]
    log, notes = Log(), Notes(histories)
    _deliver(histories, log, notes)
    assert not notes.kept
    assert len(set(log.statements)) == len(log.statements) == sum(len(h.ranges) for h in histories)


def test_ranges_delivered_before_a_failure_are_not_repeated() -> None:
    long, short = _history("long", 3 * RANGES_PER_GROUP), _history("short", 2)
    notes = Notes([short, long])
    failing = Log(f"SELECT {RANGES_PER_GROUP * 10}, ")
    with pytest.raises(RookeryError):
        _deliver([short, long], failing, notes)
    assert "short" not in notes.kept
    left = notes.kept["long"].ranges
    assert (RANGES_PER_GROUP * 10, RANGES_PER_GROUP * 10 + 10) in left
    assert len(failing.statements) == 2 + len(long.ranges) - len(left)
    again = Log()
    _deliver(notes.outstanding(), again, notes)
    assert not notes.kept
    assert not set(again.statements) & set(failing.statements)
    assert len(again.statements) + len(failing.statements) == 2 + len(long.ranges)


def test_few_ranges_are_delivered_ahead_of_the_record() -> None:
    """A target remembers few tokens, and rows that arrive meanwhile add others. So a killed process must leave as few
    ranges as possible to recognize.
    """
    history = _history("h", 5 * RANGES_PER_GROUP)
    ahead: list[int] = []

    class Watched(Notes):
        def record(self, histories: Sequence[Backfill]) -> None:
            ahead.append(len(log.statements) - sum(len(history.ranges) - len(h.ranges) for h in self.kept.values()))
            super().record(histories)

    log, notes = Log(), Watched([history])
    _deliver([history], log, notes)
    assert max(ahead) <= BACKFILL_THREADS


EVENTS = """
tenant: tenant_id
columns: [{name: tenant_id, type: UInt32}, {name: id, type: UInt64}, {name: day, type: Date}]
engine: {sorting_key: [tenant_id, id]}
"""
COUNTS = """
sql: SELECT tenant_id, day, count() AS events FROM events GROUP BY tenant_id, day
materialize:
  target: counts
  per_tenant: true
  engine: {type: SummingMergeTree, sorting_key: [tenant_id, day], partition_key: day}
"""
FIRST = date(2024, 1, 1)


@pytest.mark.parametrize(("days", "later"), [(1, NEST_DEDUP_WINDOW + 1), (60, 0)])
def test_ranges_before_a_kill_are_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, later: int
) -> None:
    """The target has forgotten their tokens: because of rows that arrived meanwhile, or of its partitions."""
    killed: list[bool] = []
    deliver_range, write = (
        backfill_delivery.deliver_range,
        {n: getattr(RegistryJournal, n) for n in ("record", "delete")},
    )
    monkeypatch.setattr("engine.plan.backfill.RANGE_ROWS", days)
    with open_rookery(tmp_path) as rookery:
        rookery.push({"datasources/events.yaml": EVENTS})
        rookery.add("1", placement="pooled")
        for n in range(5):
            rookery.append([{"tenant_id": 1, "id": n, "day": str(FIRST + timedelta(day))} for day in range(days)])

        def deliver_until_the_last(warehouse: Any, backfill: Backfill, block_range: tuple[int, int]) -> None:
            is_last = block_range == backfill.ranges[-1]
            for n in range(later if is_last else 0):
                rookery.append([{"tenant_id": 1, "id": n, "day": str(FIRST)}])
            deliver_range(warehouse, backfill, block_range)
            if is_last:
                killed.append(True)
                raise KeyboardInterrupt

        def unless_killed(name: str) -> Any:
            def run(*args: Any) -> None:
                if killed:
                    raise KeyboardInterrupt
                write[name](*args)

            return run

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(backfill_delivery, "deliver_range", deliver_until_the_last)
            for name in write:
                patched.setattr(RegistryJournal, name, unless_killed(name))
            rookery.push({"pipes/fill_counts.yaml": COUNTS})
    with open_rookery(tmp_path) as rookery:
        finish(rookery.workspace)
        assert rookery.rows("SELECT sum(events) FROM main.counts") == [(5 * days + later,)]


PASSED = """
sql: SELECT tenant_id, day, sum(id) AS total FROM events GROUP BY tenant_id, day
materialize: {target: passed, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id, day]}}
"""
SHARES = """
sql: SELECT tenant_id, sum(intDiv(100, %s)) AS share FROM passed GROUP BY tenant_id
materialize: {target: shares, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""


@pytest.mark.parametrize(("later", "refused"), [(3, False), (NEST_DEDUP_WINDOW + 1, True)])
def test_a_range_that_failed_behind_its_target_is_stored_once(tmp_path: Path, later: int, refused: bool) -> None:
    """Even if the target has forgotten its token: then it is computed again."""

    def pushed(passed: str, divisor: str) -> None:
        files = {"passed_pipe": passed, "shares_pipe": SHARES % divisor}
        sources = {n: DeployedFile(text, f"pipes/{n}.yaml") for n, text in files.items()}
        push(rookery.workspace, sources, PushOptions(allow=frozenset({*files, "passed", "shares"})))

    with open_rookery(tmp_path) as rookery:
        rookery.push({"datasources/events.yaml": EVENTS})
        rookery.add("1", "2", placement="pooled")
        rookery.append([{"tenant_id": t, "id": n, "day": str(FIRST)} for t, n in ((1, 5), (2, 0))])
        with pytest.raises(RookeryError):
            pushed(PASSED, "total")
        for _ in range(later):
            rookery.append([{"tenant_id": 1, "id": 5, "day": str(FIRST)}])
        if refused:
            with pytest.raises(RookeryError) as failed:
                pushed(PASSED, "greatest(total, 1)")
            assert failed.value.code.id == "RK3010" and "passed_pipe" in failed.value.message
        pushed(PASSED.replace("sum(id)", "sum(id + 0)") if refused else PASSED, "greatest(total, 1)")
        sums = rookery.rows("SELECT tenant_id, sum(total) FROM main.passed GROUP BY 1 ORDER BY 1")
        assert sums in ([(1, 5 * (later + 1))], [(1, 5 * (later + 1)), (2, 0)])
        assert rookery.workspace.registry.read(BACKFILL_KIND) == {}
