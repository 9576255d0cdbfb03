"""Tenants that come, modes that change and other programs that write, while rows stream in: nests equal landing."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.fanout.landing_log import MAX_BLOCKS, Block, LandingLog
from engine.warehouse.port import Input
from tests.fanout.retrying_writers import OWN, POOLED, UNKNOWN, Stream, add_tenants, check_delivery, landing, project
from tests.support.in_process import Rookery, open_rookery
from tests.support.server import running
from tests.support.soak import soak_rounds, soaking

LATER = ("5", "6")
BEFORE, AFTER = soak_rounds(15), soak_rounds(25)
"""Batches of the gateway before and after tenants are added."""


@pytest.mark.proves("B6", "B7")
@pytest.mark.parametrize("mode", ["routed", pytest.param("direct", marks=pytest.mark.soak_only)])
def test_tenants_are_added_while_rows_arrive(tmp_path: Path, mode: str) -> None:
    with running(tmp_path) as server:
        server.push(project(mode))
        add_tenants(server)
        stream = Stream(2, tenants=(*OWN, *LATER, POOLED, UNKNOWN))
        stream.connect(server)
        stream.start(4)
        stream.until(soak_rounds(8))
        with ThreadPoolExecutor(len(LATER)) as hands:
            list(hands.map(lambda t: server.tenant(t, "tables"), LATER))
        # The stream continues: it has not kept the new tenants from catching up.
        stream.until(5)
        stream.finish()
        assert stream.faults == []
        report = check_delivery(server, stream, (*OWN, *LATER))
        assert report.clean, report
        assert all(landing(server)[t]["rows"] for t in LATER)


@pytest.mark.proves("B7")
def test_modes_change_while_rows_arrive(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.push(project("direct"))
        add_tenants(server)
        stream = Stream(3)
        stream.connect(server)
        stream.start(4)
        for mode in ("routed", "direct") * (2 if soaking() else 1):
            stream.until(soak_rounds(6))
            server.push(project(mode))
        stream.finish()
        assert stream.faults == []
        report = check_delivery(server, stream)
        assert report.clean, report


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("racing")) as opened:
        opened.push(project("routed"))
        opened.add("1", "2")
        opened.add(POOLED, placement="pooled")
        yield opened


@pytest.mark.proves("B6")
def test_rows_of_other_programs_between_gateway_inserts(rookery: Rookery) -> None:
    """They are found by their blocks; a batch of the gateway never counts as one of them."""
    ids, ending, arrived = itertools.count(1), threading.Event(), threading.Semaphore(0)

    def ours() -> None:
        while not ending.is_set():
            n = next(ids)
            body = json.dumps({"tenant_id": 1 + n % 4, "id": n, "n": n % 100}).encode()
            rookery.gateway.append("events", body, Input.NDJSON).result(30)
            arrived.release()

    def theirs() -> None:
        while not ending.is_set():
            n = 10_000_000 + next(ids) * 10
            rookery.run(
                "INSERT INTO main.events (tenant_id, id, n) SETTINGS async_insert = 0, "
                f"insert_deduplication_token = 'other {n}' SELECT 1 + number % 4, {n} + number, number FROM numbers(8)"
            )
            time.sleep(0.05)

    threads = [threading.Thread(target=t) for t in (ours, ours, ours, theirs)]
    for thread in threads:
        thread.start()
    assert all(arrived.acquire(timeout=30) for _ in range(BEFORE))
    rookery.add("3", "4")
    assert all(arrived.acquire(timeout=30) for _ in range(AFTER))
    ending.set()
    for thread in threads:
        thread.join()
    rookery.wait_until_read()
    assert rookery.differences(("1", "2", "3", "4")) == []


def test_a_batch_stored_while_the_log_is_read(rookery: Rookery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway delivers it, even if it is late; it does not count as a batch of another program."""
    reading, reading_began, landed = LandingLog.blocks, threading.Event(), threading.Event()

    def late(log: LandingLog, after: int, limit: int = MAX_BLOCKS) -> list[Block]:
        if not reading_began.is_set():
            reading_began.set()
            rookery.append([{"tenant_id": t, "id": 20_000_000 + t, "n": 1} for t in (1, 2)])
            landed.set()
        return reading(log, after, limit)

    monkeypatch.setattr(LandingLog, "blocks", late)
    assert landed.wait(30)
    rookery.wait_until_read()
    assert rookery.differences(("1", "2")) == []
