"""Rows that need far more memory than their bytes are refused, and batches share the memory in turns."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.ingest.insert_memory import MIN_INSERT_BYTES, InsertMemory, max_insert_bytes
from engine.settings import Settings
from engine.warehouse.port import Input
from tests.support.server import Server, running

MIB = 1 << 20
COLUMNS = 300
WIDE = "columns:\n  - {name: c0, type: String}\n"
WIDE += "".join(f"  - {{name: c{n}, type: String, default: \"''\"}}\n" for n in range(1, COLUMNS))
WIDE += "engine: {sorting_key: [c0]}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("memory"), ROOKERY_MAX_INSERT_MEMORY=128 * MIB) as server:
        server.push({"datasources/wide.yaml": WIDE})
        yield server


@pytest.mark.parametrize("path", ["/v0/events?name=wide&wait=true", "/v0/datasources?name=wide&format=ndjson"])
def test_short_rows_of_a_wide_datasource_are_bounded(server: Server, path: str) -> None:
    before = server.sql("SELECT count() AS n FROM wide")[0]["n"]
    response = server.admin("POST", path, content=b'{"c0":"x"}\n' * 200_000)
    assert (response.status_code, response.json()["code"]) == (413, "RK5004"), response.text
    assert server.sql("SELECT count() AS n FROM wide") == [{"n": before}]
    server.admin_json("POST", path, content=b'{"c0":"x"}\n' * 100)


def test_batches_never_reserve_more_than_the_limit() -> None:
    memory, lock, most = InsertMemory(10), threading.Lock(), 0
    done: list[int] = []

    def store(size: int) -> None:
        nonlocal most
        with memory.reserved(size):
            with lock:
                most = max(most, memory.reserved_bytes)
            done.append(size)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(store, [1 + n % 10 for n in range(400)]))
    assert most <= 10
    assert len(done) == 400
    assert memory.reserved_bytes == 0


def test_a_large_batch_is_not_overtaken() -> None:
    memory, order = InsertMemory(10), list[str]()
    entered = threading.Event()

    def store(name: str, size: int) -> None:
        entered.set()
        with memory.reserved(size):
            order.append(name)

    with ThreadPoolExecutor(2) as threads, memory.reserved(1):
        large = threads.submit(store, "large", 10)
        entered.wait()
        while not memory.waiting:
            pass
        small = threads.submit(store, "small", 1)
        while memory.waiting < 2:
            pass
        assert order == []
    large.result()
    small.result()
    assert order == ["large", "small"]


def test_the_reservation_grows_with_columns_up_to_the_limit() -> None:
    assert max_insert_bytes(100, 10, Input.NDJSON, 1 << 30) < MIN_INSERT_BYTES + 10_000
    assert max_insert_bytes(8 * MIB, 500, Input.NDJSON, 1 << 30) == 1 << 30
    assert max_insert_bytes(10, 1, Input.PARQUET, 1 << 30) == 1 << 30


def test_an_insert_reaches_its_own_limit_before_that_of_the_machine() -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    embedded = Settings(max_total_insert_memory=128 * MIB)
    assert embedded.commit_memory(2) > embedded.commit_memory()
    assert embedded.delivery_memory(100_000) <= machine // 2
    assert Settings(max_backfill_memory=1).backfill_memory == Settings().insert_memory
    # The memory of a server on another machine is unknown.
    server = Settings(clickhouse_url="http://localhost:8123")
    assert server.commit_memory(100_000) > machine
    assert server.backfill_memory == 0
