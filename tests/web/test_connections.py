"""Connections that send too much, too slowly or nothing are closed, and others are served meanwhile."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import repeat
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.server import Server, running

HEADER_BYTES, LINE = 20_000, 10_000
ROOM = 12
PATIENCE = 30.0
LIMITS = {
    "MAX_HEADER_BYTES": HEADER_BYTES,
    "MAX_HEADERS": 20,
    "MAX_REQUEST_LINE": LINE,
    "HEADER_SECONDS": 0.4,
    "BODY_SECONDS": 1,
    "IDLE_SECONDS": 0.4,
    "SEND_SECONDS": 0.5,
    "MAX_CONNECTIONS": ROOM,
    "READERS": 2,
    "READERS_PER_CALLER": 2,
    "BORROW_TIMEOUT": 60,
    "WRITERS": 2,
}
READ = 256 << 10
"""What the server reads at once."""
BUFFERS = 8 << 20
"""More than the system keeps of a connection on its own."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("bounded"), **{f"ROOKERY_{k}": v for k, v in LIMITS.items()}) as server:
        yield server


def connect(server: Server) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port), PATIENCE)


def send(connection: socket.socket, pieces: Iterator[bytes], pause: float = 0.0) -> int:
    """Send until the server ends the connection; the bytes that were sent."""
    sent = 0
    try:
        for piece in pieces:
            connection.sendall(piece)
            sent += len(piece)
            if pause:
                time.sleep(pause)
    except OSError:
        pass
    return sent


def answer(connection: socket.socket) -> tuple[int, dict[str, str], dict[str, str]]:
    """The answer on a connection that the server closes: status, headers, body."""
    received = b""
    while piece := connection.recv(65536):
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, json.loads(body)


def refused(connection: socket.socket, status: int, code: str) -> dict[str, str]:
    actual_status, headers, body = answer(connection)
    assert (actual_status, body["code"]) == (status, code), body
    assert headers["connection"] == "close" and headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"
    return headers


GET = b"GET /live HTTP/1.1\r\nhost: x\r\n"
HEADS = {
    "one long header": (GET + b"a: ", b"x" * 1000, 431, "RK4022"),
    "a long name": (GET, b"x" * 1000, 431, "RK4022"),
    "many headers": (GET, b"a: b\r\n", 431, "RK4022"),
    "many bytes": (GET, b"a: " + b"x" * 5000 + b"\r\n", 431, "RK4022"),
    "a long URL": (b"GET /", b"x" * 1000, 414, "RK4023"),
    "a long query": (b"GET /live?a=", b"x" * 1000, 414, "RK4023"),
    "a long trailer": (
        b"POST /v0/sql HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: ",
        b"x" * 1000,
        None,
        None,
    ),
}


@pytest.mark.parametrize("case", HEADS)
def test_an_endless_header_is_refused_at_its_limit(server: Server, case: str) -> None:
    begin, more, status, code = HEADS[case]
    with connect(server) as connection:
        connection.sendall(begin)
        if status is None:
            assert connection.recv(1 << 16), "it was answered before its end"
            assert send(connection, repeat(more, 100_000)) < BUFFERS
        else:
            # No more is sent than the limit and two reads, so the answer can only be due to the limit.
            connection.sendall(more * ((max(HEADER_BYTES, LINE) + 2 * READ) // len(more)))
            refused(connection, status, code)
    assert server.get("/live").status_code == 200


def test_a_large_header_is_read_only_up_to_one_buffer(server: Server) -> None:
    with connect(server) as connection:
        assert send(connection, repeat(GET + b"a: " + b"x" * (1 << 20), 64)) < 64 << 20
        assert server.get("/live").status_code == 200


@pytest.mark.guard
def test_large_headers_within_the_limit_are_served(server: Server) -> None:
    headers = {f"a{n}": "x" * 1500 for n in range(10)}
    assert server.get("/live", headers=headers, params={"a": "x" * (LINE - 200)}).status_code == 200


def test_input_that_is_not_http_is_refused(server: Server) -> None:
    for text in (b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nhost\r\n\r\n"):
        with connect(server) as connection:
            connection.sendall(text)
            refused(connection, 400, "RK4025")


def test_requests_that_do_not_wait_for_responses_are_limited(server: Server) -> None:
    request, ok = b"GET /live HTTP/1.1\r\nhost: a\r\n\r\n", b"HTTP/1.1 200"
    for number, answered in ((20, range(20, 21)), (2000, range(100))):
        received = b""
        with connect(server) as connection, suppress(ConnectionResetError):
            connection.sendall(request * number)
            while received.count(ok) < number and (piece := connection.recv(65536)):
                received += piece
        assert received.count(ok) in answered


BODY = b"SELECT 'the body' AS b"
BODIES = {
    "a length": b"content-length: %d\r\n\r\n%s" % (len(BODY), BODY),
    "chunks": b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
}


def conversation(server: Server, text: bytes, *, pieces: int = 1) -> bytes:
    """What the server sends to a client that sends a text in pieces, whose last request closes the connection."""
    received = b""
    with connect(server) as connection:
        for n in range(pieces):
            connection.sendall(text[len(text) * n // pieces : len(text) * (n + 1) // pieces])
            time.sleep(0.01 if n < pieces - 1 else 0)
        while piece := connection.recv(65536):
            received += piece
    return received


@pytest.mark.parametrize("body", BODIES)
def test_an_offered_upgrade_is_ignored(server: Server, body: str) -> None:
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMA\r\n"
    head = b"POST /v0/sql HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\n" % server.admin_token.encode()
    last = b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close, upgrade\r\nupgrade: other\r\n\r\n"
    for pieces in (1, 9):
        received = conversation(server, (head + offer + BODIES[body]) * 2 + last, pieces=pieces)
        assert (received.count(b"HTTP/1.1 200"), received.count(b'"the body"')) == (3, 2), received
    # What follows a request that closes the connection is ignored.
    assert conversation(server, last * 2).count(b"HTTP/1.1 200") == 1
    received = conversation(server, (last * 40).replace(b"close, ", b"") + last)
    assert received.count(b"HTTP/1.1 ") <= 34
    assert b"RK4025" in conversation(server, b"CONNECT /v0/sql HTTP/1.1\r\nhost: x\r\n\r\n")


def test_trailers_are_not_headers(server: Server) -> None:
    token = b"authorization: Bearer %s\r\n" % server.admin_token.encode()
    head = b"POST /v0/sql HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    body = BODIES["chunks"].removesuffix(b"\r\n")
    assert b"RK4001" in conversation(server, head + body + token + b"\r\n")
    received = conversation(server, head + token + body + b"x-rookery-tenant: 1\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200"), received
    for trailers in (b"a: b\r\n" * 30, b"a: " + b"b" * HEADER_BYTES + b"\r\n"):
        assert b"RK4022" in conversation(server, head + token + body + trailers + b"\r\n")


POST = b"POST /v0/sql HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\nauthorization: Bearer %s\r\n\r\n"
SLOW = {
    "a head": (b"GET /live HTTP/1.1\r\na: ", b"x", "RK4024"),
    "nothing but line ends": (b"", b"\r\n", None),
    "nothing at all": (b"", b"", None),
    "a body": (POST, b"x", "RK4024"),
    "no body": (POST, b"", "RK4024"),
    "a body in chunks": (
        b"POST /v0/sql HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nauthorization: Bearer %s\r\n\r\n",
        b"1\r\nx\r\n",
        "RK4024",
    ),
    "a body after its answer": (b"POST /v0/sql HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n", b"x", None),
    "an idle connection": (GET + b"\r\n", b"", None),
    "line ends after an answer": (GET + b"\r\n", b"\r\n", None),
}


def test_slow_clients_are_disconnected(server: Server) -> None:
    """A byte at a time, as long as the connection is open: thousands of them would have to be taken otherwise."""
    with ThreadPoolExecutor(len(SLOW)) as pool:
        cases = {case: pool.submit(_is_disconnected, server, case) for case in SLOW}
    assert {case: done.exception() for case, done in cases.items()} == dict.fromkeys(SLOW)


def _is_disconnected(server: Server, case: str) -> None:
    begin, drip, code = SLOW[case]
    with connect(server) as connection:
        connection.sendall(begin % server.admin_token.encode() if b"%s" in begin else begin)
        connection.settimeout(0.05)
        for _ in range(200):
            try:
                connection.sendall(drip)
                if not connection.recv(1, socket.MSG_PEEK):
                    break
                if code is not None:
                    break
                connection.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            raise AssertionError("the connection stayed open")
        if code is not None:
            connection.settimeout(PATIENCE)
            refused(connection, 408, code)


@pytest.mark.guard
def test_a_slow_but_steady_body_is_accepted(server: Server) -> None:
    begin = POST % server.admin_token.encode()
    text = b"SELECT 1 AS x".ljust(100_000)
    with connect(server) as connection:
        connection.sendall(begin.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        for start in range(0, len(text), 7_000):
            connection.sendall(text[start : start + 7_000])
            time.sleep(0.1)
        assert answer(connection)[0] == 200


@pytest.mark.guard
def test_a_response_that_is_not_read_returns_its_reader(server: Server) -> None:
    query = b"GET /v0/sql?q=SELECT%%20repeat('x',1000)%%20FROM%%20numbers(100000) HTTP/1.1\r\nhost: x\r\n"
    query += b"authorization: Bearer %s\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(LIMITS["READERS"]):
            stack.enter_context(connect(server)).sendall(query % server.admin_token.encode())
        # Each of them holds a reader; without an end of that, nothing else could be asked.
        assert server.sql("SELECT 1 AS x") == [{"x": 1}]


def test_connections_are_limited_and_freed(server: Server) -> None:
    with ExitStack() as stack:
        # The client's own connections count too.
        opened = [stack.enter_context(connect(server)) for _ in range(ROOM + 1)]
        headers = refused(opened[-1], 503, "RK4026")
        assert headers["retry-after"] == "1"
    for _ in range(100):
        with connect(server) as connection:
            connection.sendall(GET + b"connection: close\r\n\r\n")
            if answer(connection)[0] == 200:
                return
            time.sleep(0.1)
    raise AssertionError("the places of closed connections are not given back")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere, loopback has one address")
def test_refused_connections_of_one_address_leave_room_for_others(tmp_path: Path) -> None:
    with running(tmp_path, ROOKERY_MAX_CONNECTIONS=6, ROOKERY_MAX_CONNECTIONS_PER_ADDRESS=3) as server:
        parts = urlsplit(server.url)
        with ExitStack() as stack:
            for number in range(20):
                address = (parts.hostname, parts.port)
                opened = stack.enter_context(socket.create_connection(address, PATIENCE, ("127.0.0.2", 0)))
                if number in range(3, 9):
                    refused(opened, 503, "RK4026")
            # Beyond as many as fit, refused connections are closed without a response.
            with suppress(ConnectionResetError):
                assert opened.recv(100) == b""
            assert server.get("/live").status_code == 200
