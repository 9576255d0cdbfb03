"""The insert lock: concurrent inserts, one exclusive change, and no insert overtakes a waiting change."""

import threading
import time
from contextlib import nullcontext

import pytest

from engine.plan.insert_lock import InsertLock


def test_inserts_are_concurrent_and_a_change_is_exclusive() -> None:
    insert_lock = InsertLock()
    together = threading.Barrier(4)

    def meet() -> None:
        with insert_lock.shared():
            together.wait(30)

    inserts = [threading.Thread(target=meet) for _ in range(4)]
    for thread in inserts:
        thread.start()
    for thread in inserts:
        thread.join(30)
    assert not together.broken

    inside, broken = [0], []
    lock = threading.Lock()

    def insert() -> None:
        for _ in range(200):
            with insert_lock.shared():
                with lock:
                    inside[0] += 1
                time.sleep(0.0002)
                with lock:
                    inside[0] -= 1

    def change() -> None:
        for _ in range(40):
            with insert_lock.exclusive():
                broken.append(inside[0])
            time.sleep(0.0005)

    threads = [threading.Thread(target=insert) for _ in range(4)] + [
        threading.Thread(target=change) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert broken == [0] * 80


def test_a_waiting_change_precedes_later_inserts() -> None:
    insert_lock = InsertLock()
    order: list[str] = []
    entered = threading.Event()

    def change() -> None:
        entered.set()
        with insert_lock.exclusive():
            order.append("change")

    def later() -> None:
        with insert_lock.shared():
            order.append("insert")

    with insert_lock.shared():
        first = threading.Thread(target=change)
        first.start()
        entered.wait()
        time.sleep(0.05)
        second = threading.Thread(target=later)
        second.start()
        time.sleep(0.05)
    first.join(30)
    second.join(30)
    assert order == ["change", "insert"]


@pytest.mark.parametrize("kind", ["exclusive", "upgraded"])
def test_a_change_waits_for_every_insert_that_runs(kind: str) -> None:
    """Also if several run, and one of them ends."""
    insert_lock = InsertLock()
    holds, changed = threading.Event(), threading.Event()

    def change() -> None:
        with insert_lock.shared() if kind == "upgraded" else nullcontext():
            holds.set()
            with getattr(insert_lock, kind)():
                changed.set()

    with insert_lock.shared():
        with insert_lock.shared():
            thread = threading.Thread(target=change)
            thread.start()
            assert holds.wait(30) and not changed.wait(0.05)
        assert not changed.wait(0.05)
    thread.join(30)
    assert changed.is_set()


def test_upgrades_wait_for_inserts_and_not_for_each_other() -> None:
    insert_lock = InsertLock()
    both = threading.Barrier(3)
    inside, together = [0], []

    def upgrade() -> None:
        with insert_lock.shared():
            both.wait(30)
            with insert_lock.upgraded():
                inside[0] += 1
                together.append(inside[0])
                time.sleep(0.01)
                inside[0] -= 1

    threads = [threading.Thread(target=upgrade) for _ in range(2)]
    with insert_lock.shared():
        for thread in threads:
            thread.start()
        both.wait(30)
        time.sleep(0.05)
        assert not together, "an insert still runs"
    for thread in threads:
        thread.join(30)
    assert together == [1, 1]
