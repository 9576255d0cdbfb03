"""The pool of handles: bounded, every slot is returned, and a failed handle is never reused."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from engine import errors
from engine.warehouse.errors import EngineError
from engine.warehouse.pool import Pool
from engine.warehouse.stream import ResultStream


class Handles:
    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.closed: list[int] = []
        self.failing = False

    def make(self) -> int:
        if self.failing:
            raise EngineError(errors.DIRECTORY_BUSY, "no")
        return next(self._numbers)

    def pool(self, size: int = 2, timeout: float = 0.05) -> Pool[int]:
        return Pool(self.make, self.closed.append, size=size, timeout=timeout)


def test_handles_are_created_on_demand_and_reused() -> None:
    pool = Handles().pool()
    with pool.lend() as first:
        pass
    with pool.lend() as again, pool.lend() as second:
        assert (first, again, second) == (0, 0, 1)
        with pytest.raises(EngineError) as caught:
            pool.borrow()
    assert caught.value.code is errors.BUSY


def test_an_exception_retires_the_handle() -> None:
    handles = Handles()
    pool = handles.pool(size=1)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), pool.lend():
            raise KeyboardInterrupt
    assert handles.closed == [0, 1, 2]
    assert pool.borrow() == 3


def test_a_slot_is_not_lost_when_a_handle_cannot_be_created() -> None:
    handles = Handles()
    pool = handles.pool(size=1)
    handles.failing = True
    for _ in range(3):
        with pytest.raises(EngineError) as caught:
            pool.borrow()
        assert caught.value.code is errors.DIRECTORY_BUSY
    handles.failing = False
    assert pool.borrow() == 0


def test_a_waiting_borrower_gets_the_next_free_slot() -> None:
    pool = Handles().pool(size=1, timeout=5)
    handle = pool.borrow()
    threading.Timer(0.05, pool.give_back, [handle]).start()
    assert pool.borrow() == handle


def test_closing_closes_borrowed_handles_too() -> None:
    handles = Handles()
    pool = handles.pool(size=3)
    out, back, retired = pool.borrow(), pool.borrow(), pool.borrow()
    pool.give_back(back)
    pool.close(wait=0.01)
    pool.close()
    assert handles.closed == [back]
    pool.give_back(out)
    pool.retire(retired)
    assert sorted(handles.closed) == [0, 1, 2]
    with pytest.raises(EngineError) as caught:
        pool.borrow()
    assert caught.value.code is errors.CLOSED


def test_a_stream_translates_errors_and_releases_its_handle_once() -> None:
    released = []

    def parts() -> Iterator[bytes]:
        try:
            yield b"a"
            raise RuntimeError("Code: 241. DB::Exception: much. (MEMORY)")
        finally:
            released.append(True)

    flow = ResultStream(parts())  # type: ignore[arg-type]
    assert next(flow) == b"a"
    with pytest.raises(EngineError) as caught:
        next(flow)
    assert caught.value.code is errors.RESULT_LIMIT
    flow.close()
    flow.close()
    assert released == [True]
    with pytest.raises(StopIteration):
        next(flow)
