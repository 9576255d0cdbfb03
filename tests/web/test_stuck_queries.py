"""Queries that hold readers: one tenant's leave some to others, those of clients that left end, and those that no
limit of time ends are noticed, and end with the process."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.server import Server, running
from tests.web.responses import data, refused

READERS = 4
SETTINGS = {"READERS": READERS, "WRITERS": 2, "BORROW_TIMEOUT": 0.7, "MAX_SECONDS": 1, "STOP_SECONDS": 1}
LIMITS = {**SETTINGS, "STUCK_SECONDS": 1, "MAX_TOTAL_MEMORY": 200_000_000, "MAX_MEMORY": 2_000_000_000}
FILES = {
    "datasources/events.yaml": """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: units, type: Int64}
engine: {sorting_key: [tenant_id]}
""",
    "pipes/long.yaml": """
nodes:
  - {name: long_node, sql: "SELECT max(cityHash64(number, 1)) AS x FROM numbers(400000000000)"}
endpoint: {limits: {max_seconds: 100}}
""",
    "pipes/many.yaml": """
nodes:
  - {name: many_node, sql: "SELECT number, cityHash64(number) AS x FROM numbers(4000000000)"}
endpoint: {limits: {max_seconds: 100}}
""",
    "pipes/short.yaml": "nodes: [{name: short_node, sql: SELECT 1 AS x}]\nendpoint: {}\n",
    # More than the system keeps of a connection, and little enough that four of them are read ahead.
    "pipes/some.yaml": """
nodes:
  - {name: some_node, sql: "SELECT number, repeat('x', 1000) AS x FROM numbers(10000)"}
endpoint: {limits: {max_seconds: 100}}
""",
    # One row, for which one function takes many seconds, without looking at the clock.
    "pipes/endless.yaml": """
nodes:
  - name: endless_node
    sql: |
      SELECT arrayFold((sum, x) -> sum + x, range(9000000 + number), toUInt64(0)) AS x FROM numbers(1)
endpoint: {}
""",
    # Long enough that it still runs when the server has stopped waiting for it.
    "pipes/hashes.yaml": f"""
nodes:
  - name: hashes_node
    sql: SELECT arrayMax(arrayMap(x -> {"sipHash64(" * 40}x{")" * 40}, range(9000000 + number))) AS x FROM numbers(1)
endpoint: {{}}
""",
    "pipes/hungry.yaml": """
nodes:
  - {name: hungry_node, sql: "SELECT length(groupArray(number)) AS x FROM numbers(40000000)"}
endpoint: {limits: {max_seconds: 100}}
""",
}
PIPES = ("long", "many", "some", "short", "endless", "hashes", "hungry")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("stuck"), **{f"ROOKERY_{k}": v for k, v in LIMITS.items()}) as server:
        server.push(FILES)
        server.tenant("1")
        server.tenant("2")
        server.tenant("3")
        yield server


@contextmanager
def asked(server: Server, token: str, pipe: str, times: int) -> Iterator[list[socket.socket]]:
    """So many calls under way; their clients are gone afterwards."""
    parts = urlsplit(server.url)
    request = f"GET /v0/pipes/{pipe} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n".encode()
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection((parts.hostname, parts.port), 60)) for _ in range(times)
        ]
        for connection in connections:
            connection.sendall(request)
        yield connections


def token(server: Server, tenant: str) -> str:
    return server.mint(*(f"PIPES:READ:{p}" for p in PIPES), tenant=tenant)


@pytest.mark.parametrize("pipe", ["long.json", "many.ndjson"])
def test_one_tenant_leaves_readers_to_others_and_returns_them_on_disconnect(server: Server, pipe: str) -> None:
    mine, other = token(server, "1"), token(server, "2")
    with asked(server, mine, pipe, 2 * READERS) as calls:
        assert data(server.get("/v0/pipes/short.json", other)) == [{"x": 1}]
        answers = [c.recv(4096) for c in reversed(calls[READERS:])]
        late = [a for a in answers if a.startswith(b"HTTP/1.1 429")]
        assert len(late) >= READERS and all(b"retry-after: 1" in a for a in late)
        assert data(server.get("/v0/pipes/short.json", other)) == [{"x": 1}]
    # No client waits for the others now. They would run for minutes.
    for _ in range(60):
        answer = server.get("/v0/pipes/short.json", mine)
        if answer.status_code == 200:
            return
        refused(answer, 429, "RK4010")
    raise AssertionError("queries of disconnected clients are still running")


@contextmanager
def all_readers_asked(server: Server, pipe: str) -> Iterator[list[socket.socket]]:
    """Responses for two tenants, as many as there are readers, of which only the first bytes were read."""
    mine, other = token(server, "1"), token(server, "2")
    with asked(server, mine, pipe, READERS - 1) as calls, asked(server, other, pipe, 1) as more:
        for call in (*calls, *more):
            assert call.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200"
        yield [*calls, *more]


def test_results_that_fit_into_memory_hold_no_reader(server: Server) -> None:
    with all_readers_asked(server, "some.ndjson") as calls:
        assert data(server.get("/v0/pipes/short.json", token(server, "3"))) == [{"x": 1}]
        for call in calls:
            received = b""
            while not received.endswith(b"\r\n0\r\n\r\n"):
                received += (piece := call.recv(1 << 20))
                assert piece, "it is incomplete"
            assert received.count(b'"number"') == 10_000


def test_clients_that_do_not_read_lose_their_readers_to_others(server: Server) -> None:
    with all_readers_asked(server, "many.ndjson"):
        # They may wait longer than the others do.
        for _ in range(10):
            answer = server.get("/v0/pipes/short.json", token(server, "3"))
            if answer.status_code == 200:
                break
            refused(answer, 503, "RK6003")
        assert data(answer) == [{"x": 1}]
        assert "the reader of a slow client" in server.log()


def test_the_memory_of_all_queries_is_limited(server: Server) -> None:
    """A query may have ten times as much by itself."""
    refused(server.get("/v0/pipes/hungry.json", token(server, "1")), 400, "RK4012")
    assert data(server.get("/v0/pipes/short.json", token(server, "1"))) == [{"x": 1}]


def test_stuck_readers_are_reported_and_do_not_block_shutdown(tmp_path: Path) -> None:
    with running(
        tmp_path, **{f"ROOKERY_{k}": v for k, v in {**SETTINGS, "READERS": 2, "STUCK_SECONDS": 1}.items()}
    ) as server:
        server.push(FILES)
        server.tenant("1")
        assert server.get("/ready").status_code == 200
        with asked(server, token(server, "1"), "hashes.json", 1):
            for _ in range(300):
                ready = server.get("/ready")
                if ready.status_code == 503:
                    break
                time.sleep(0.1)
            assert ready.status_code == 503 and ready.json()["stuck_readers"] == 1
            assert server.get("/live").status_code == 200
            assert server.stop() == 1
            assert "the process ends without waiting" in server.log()
