"""A server is killed again and again while rows arrive: each row is stored once wherever it belongs."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fanout.retrying_writers import OWN, Stream, add_tenants, check_delivery, kill, project, receipts_differ
from tests.support.server import Server, running
from tests.support.soak import soak_rounds, soaking

KILLS = soak_rounds(3)
LATER = "5"


@pytest.mark.soak_only
@pytest.mark.proves("B6")
@pytest.mark.parametrize("mode", ["routed", "direct"])
def test_every_row_is_stored_once(tmp_path: Path, mode: str) -> None:
    chance, stream = random.Random(mode), Stream(1)
    kills = KILLS if mode == "routed" else KILLS - 1
    with running(tmp_path) as server:
        server.push(project(mode))
        add_tenants(server)
        stream.connect(server)
        stream.start()
        stream.until(10)
        kill(server, stream)
    for _ in range(kills - 1):
        with running(tmp_path) as server:
            stream.connect(server)
            time.sleep(chance.uniform(0.05, 0.8))
            kill(server, stream)
    with running(tmp_path) as server:
        stream.connect(server)
        stream.until(5)
        stream.finish()
        report = check_delivery(server, stream)
        assert report.clean, report
        assert stream.faults == []
        assert receipts_differ(server, stream) == []


@pytest.mark.proves("B6", "B7")
def test_kills_while_tenants_and_modes_change(tmp_path: Path) -> None:
    """Interrupted changes are repeated, and end with every row stored once."""
    chance, stream = random.Random(7), Stream(4, tenants=(*OWN, LATER, "9"))
    with running(tmp_path) as server:
        server.push(project("routed"))
        add_tenants(server)
        stream.connect(server)
        stream.start()
        stream.until(10)
        _killed_during(server, stream, chance, _adds_a_tenant)
    for mode in ("direct", "routed") if soaking() else ("direct",):
        with running(tmp_path) as server:
            stream.connect(server)
            server.tenant(LATER, "tables")
            _killed_during(server, stream, chance, lambda s, m=mode: s.push(project(m)))
    with running(tmp_path) as server:
        stream.connect(server)
        server.push(project("routed"))
        stream.finish()
        report = check_delivery(server, stream, (*OWN, LATER))
        assert report.clean, report
        assert stream.faults == []
        assert receipts_differ(server, stream) == []


def _adds_a_tenant(server: Server) -> None:
    server.tenant(LATER, "tables")


def _killed_during(server: Server, stream: Stream, chance: random.Random, what: Callable[[Server], Any]) -> None:
    """Run a change and kill the server at a random moment of it."""

    def quietly() -> None:
        with suppress(httpx.HTTPError, AssertionError):
            what(server)

    doing = threading.Thread(target=quietly)
    doing.start()
    time.sleep(chance.uniform(0.02, 0.4))
    kill(server, stream)
    doing.join()


def test_a_retry_after_a_lost_response_needs_a_key(tmp_path: Path) -> None:
    """Writers send their rows again. Only a key prevents doubling, and `check_delivery` detects it."""
    with_keys = Stream(5)
    without = Stream(5, first=1000, keyed=False)
    streams = {with_keys: with_keys.request(20), without: without.request(20)}
    with running(tmp_path) as server, httpx.Client(timeout=20, trust_env=False, verify=False) as client:
        server.push(project("routed"))
        add_tenants(server)
        for stream, request in streams.items():
            stream.connect(server)
            assert stream.send(client, request)
            request.acknowledged = 0
        for stream in streams:
            kill(server, stream)
    with running(tmp_path) as server, httpx.Client(timeout=20, trust_env=False, verify=False) as client:
        for stream, request in streams.items():
            stream.connect(server)
            assert stream.send(client, request)
            assert request.answers[-1].get("repeated", False) is (stream is with_keys)
        report = check_delivery(server, with_keys)
        assert report.clean, report
        report = check_delivery(server, without)
        assert report.doubled == len(streams[without].rows) and not report.clean, report
