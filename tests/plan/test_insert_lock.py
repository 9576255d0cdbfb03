"""The insert lock: concurrent inserts, one exclusive change, and no insert overtakes a waiting change."""

import threading
import time

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
