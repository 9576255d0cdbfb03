"""The wait of a fan-out worker for batches that share a delivery, with a clock that the test moves."""

from __future__ import annotations

import pytest

from engine.fanout.gathering import MAX_SHARE, QUIET_SECONDS, SLOW_FLUSH_SECONDS, Gathering


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_fast_delivery_is_not_waited_after(clock: Clock) -> None:
    assert Gathering(SLOW_FLUSH_SECONDS / 2, clock).remaining(1) <= 0


def test_the_wait_ends_after_a_quiet_time(clock: Clock) -> None:
    gathering = Gathering(10.0, clock)
    assert gathering.remaining(1) == pytest.approx(QUIET_SECONDS)
    clock.seconds += QUIET_SECONDS * 1.5
    assert gathering.remaining(1) < 0


def test_each_batch_extends_the_wait(clock: Clock) -> None:
    gathering = Gathering(10.0, clock)
    for queued in range(1, 5):
        assert gathering.remaining(queued) == pytest.approx(QUIET_SECONDS)
        clock.seconds += QUIET_SECONDS / 2
        assert gathering.remaining(queued) == pytest.approx(QUIET_SECONDS / 2)


def test_the_wait_is_limited_by_the_duration_of_the_last_delivery(clock: Clock) -> None:
    gathering = Gathering(SLOW_FLUSH_SECONDS, clock)
    end = clock.seconds + SLOW_FLUSH_SECONDS * MAX_SHARE
    queued = 0
    while gathering.remaining(queued := queued + 1) > 0:
        clock.seconds += QUIET_SECONDS / 2
        assert queued < 100
    assert end <= clock.seconds < end + QUIET_SECONDS
