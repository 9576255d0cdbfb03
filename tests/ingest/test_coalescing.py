"""The delay of a batch for callers that were answered together, with a clock that only waiting moves."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest

from engine.ingest.coalescing import (
    ENOUGH_BYTES,
    MIN_CALLERS,
    QUIET_SECONDS,
    TIMEOUT_SECONDS,
    CoalescingDelay,
    Waiting,
)

BODY_BYTES = 10


class Clock(threading.Event):
    """Time passes in quiet periods. `arrivals` says which tenants' appends arrive in which period, from 1."""

    def __init__(self, arrivals: Mapping[int, list[str | None]] | None = None, body_bytes: int = BODY_BYTES) -> None:
        super().__init__()
        self.periods = 0
        self.appends = 0
        self.arrivals = arrivals or {}
        self.body_bytes = body_bytes
        self.delay = CoalescingDelay(self.now, self)

    def now(self) -> float:
        return self.periods * QUIET_SECONDS

    def waiting(self) -> Waiting:
        return Waiting(self.appends, self.appends * self.body_bytes)

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout == QUIET_SECONDS
        self.periods += 1
        for tenant in self.arrivals.get(self.periods, ()):
            self.appends += 1
            self.delay.note(tenant, self.waiting())
        return self.is_set()

    def delayed_periods(self, callers: int = MIN_CALLERS, tenant: str | None = None) -> int:
        """For how many quiet periods the delay lasts."""
        self.delay.wait(callers, tenant, self.waiting)
        return self.periods


def test_few_callers_are_not_waited_for() -> None:
    assert Clock().delayed_periods(callers=MIN_CALLERS - 1) == 0


def test_the_delay_ends_when_all_callers_have_sent_again() -> None:
    assert Clock({1: [None, None], 2: [None, None]}).delayed_periods() == 2


def test_the_delay_ends_after_a_quiet_period_once_a_caller_has_sent_again() -> None:
    assert Clock({2: [None], 3: [None]}).delayed_periods() == 4


def test_the_delay_has_a_limit_when_no_caller_sends_again() -> None:
    assert Clock().delayed_periods() == int(TIMEOUT_SECONDS / QUIET_SECONDS) + 1


def test_the_delay_has_a_limit_when_single_appends_keep_it_up() -> None:
    steady = Clock({n: [None] for n in range(1, 100)})
    assert steady.delayed_periods(callers=1000) == int(TIMEOUT_SECONDS / QUIET_SECONDS) + 1


def test_enough_bytes_end_the_delay() -> None:
    assert Clock({1: [None]}, body_bytes=ENOUGH_BYTES).delayed_periods() == 1


def test_an_append_of_another_tenant_ends_the_delay() -> None:
    assert Clock({1: ["b"]}).delayed_periods(tenant="a") == 1


@pytest.mark.parametrize("waiting", [MIN_CALLERS, MIN_CALLERS + 1])
def test_there_is_no_delay_if_enough_appends_wait_already(waiting: int) -> None:
    clock = Clock()
    clock.appends = waiting
    assert clock.delayed_periods() == 0


def test_an_end_of_the_last_delay_does_not_end_the_next_one() -> None:
    clock = Clock({1: ["b"]})
    assert clock.delayed_periods(tenant="a") == 1
    assert clock.delayed_periods(callers=1000) > 2


def test_closing_ends_the_delay() -> None:
    clock = Clock()
    clock.delay.wait(MIN_CALLERS, None, clock.waiting, lambda: clock.periods >= 2)
    assert clock.periods == 2
