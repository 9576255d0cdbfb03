"""Many callers of one datasource do not delay the callers of another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.warehouse.port import Input
from tests.support.in_process import Rookery, open_rookery

PLAIN = "columns:\n  - {name: id, type: UInt32}\nengine: {sorting_key: [id]}\n"


@pytest.fixture
def rookery(tmp_path: Path) -> Iterator[Rookery]:
    with open_rookery(tmp_path) as opened:
        opened.push({"datasources/crowded.yaml": PLAIN, "datasources/quiet.yaml": PLAIN})
        yield opened


def test_one_caller_waits_for_few_batches_of_many_others(rookery: Rookery) -> None:
    """There is one thread for all, and the other callers never stop."""
    rookery.gateway._threads.shutdown(wait=True)
    rookery.gateway._threads = ThreadPoolExecutor(1)
    batches: list[str] = []
    stop = threading.Event()

    def caller() -> None:
        while not stop.is_set():
            batches.append(rookery.gateway.append("crowded", b'{"id": 1}', Input.NDJSON).result(30).batch)

    crowd = [threading.Thread(target=caller) for _ in range(6)]
    for thread in crowd:
        thread.start()
    try:
        for _ in range(20):
            before = set(batches)
            assert rookery.gateway.append("quiet", b'{"id": 2}', Input.NDJSON).result(30).rows == 1
            assert len(set(batches) - before) <= 3
    finally:
        stop.set()
        for thread in crowd:
            thread.join()
