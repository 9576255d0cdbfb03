"""Delivering recorded history: the record keeps exactly the ranges that have not arrived, even after a failure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from engine.errors import ENGINE, RookeryError
from engine.plan.backfill import Backfill
from engine.plan.backfill_delivery import RANGES_PER_RECORD, deliver


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
    histories = [_history(f"h{n}", n) for n in range(2 * RANGES_PER_RECORD)]
    log, notes = Log(), Notes(histories)
    _deliver(histories, log, notes)
    assert not notes.kept
    assert len(set(log.statements)) == len(log.statements) == sum(len(h.ranges) for h in histories)


def test_ranges_delivered_before_a_failure_are_not_repeated() -> None:
    long, short = _history("long", 3 * RANGES_PER_RECORD), _history("short", 2)
    notes = Notes([short, long])
    failing = Log(f"SELECT {RANGES_PER_RECORD * 10}, ")
    with pytest.raises(RookeryError):
        _deliver([short, long], failing, notes)
    assert "short" not in notes.kept
    left = notes.kept["long"].ranges
    assert (RANGES_PER_RECORD * 10, RANGES_PER_RECORD * 10 + 10) in left
    assert len(failing.statements) == 2 + len(long.ranges) - len(left)
    again = Log()
    _deliver(notes.outstanding(), again, notes)
    assert not notes.kept
    assert not set(again.statements) & set(failing.statements)
    assert len(again.statements) + len(failing.statements) == 2 + len(long.ranges)


def test_few_ranges_are_delivered_ahead_of_the_record() -> None:
    """A target remembers few tokens, so a killed process must not leave more ranges than that to recognize."""
    history = _history("h", 5 * RANGES_PER_RECORD)
    ahead: list[int] = []

    class Watched(Notes):
        def record(self, histories: Sequence[Backfill]) -> None:
            ahead.append(len(log.statements) - sum(len(history.ranges) - len(h.ranges) for h in self.kept.values()))
            super().record(histories)

    log, notes = Log(), Watched([history])
    _deliver([history], log, notes)
    assert max(ahead) <= RANGES_PER_RECORD < 128
