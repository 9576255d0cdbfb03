"""A server that stops: at once if it is idle, otherwise when its requests have ended or it may wait no longer."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from engine.web import prompt_server
from tests.support.server import Server, running
from tests.web.responses import refused

EVENTS = """
tenant: tenant
columns: [{name: tenant, type: UInt32}, {name: n, type: UInt64}]
engine: {sorting_key: [tenant]}
"""


def endless(begun: threading.Event, ended: threading.Event) -> Iterator[bytes]:
    """A body that does not end before the server does."""
    yield b'{"tenant": 1, "n": 0}\n'
    begun.set()
    ended.wait(25)


def unfinished(server: Server, begun: threading.Event, ended: threading.Event) -> httpx.Response:
    return server.post(
        "/v0/events?name=events",
        server.admin_token,
        headers={"idempotency-key": "endless"},
        content=endless(begun, ended),
    )


def test_a_request_that_cannot_be_finished_has_a_code_and_can_be_repeated(tmp_path: Path) -> None:
    answers: list[httpx.Response] = []
    begun, ended = threading.Event(), threading.Event()
    with running(tmp_path, ROOKERY_STOP_SECONDS=1) as server:
        server.push({"datasources/events.yaml": EVENTS})
        sender = threading.Thread(target=lambda: answers.append(unfinished(server, begun, ended)))
        sender.start()
        assert begun.wait(30)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0, server.log()[-1500:]
        ended.set()
        sender.join()
        body = refused(answers[0], 503, "RK4041")
        assert "idempotency key" in body["hint"]
        assert answers[0].headers["retry-after"]
        assert answers[0].headers["x-request-id"] == body["request_id"]
        log = server.log()
        assert "Traceback" not in log
        assert "code=RK4041" in log or "status=503" in log
    with running(tmp_path) as server:
        assert server.sql("SELECT count() AS n FROM events") == [{"n": 0}]
        again = server.post(
            "/v0/events?name=events&wait=true",
            server.admin_token,
            headers={"idempotency-key": "endless"},
            content='{"tenant": 1, "n": 1}',
        )
        assert again.json() == {"successful_rows": 1, "quarantined_rows": 0}


def test_an_idle_server_does_not_wait_until_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    for wait in ("TICK_SECONDS", "POLL_SECONDS"):
        monkeypatch.setattr(prompt_server, wait, 3_600.0)
    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server = prompt_server.PromptServer(uvicorn.Config(Starlette(), log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    assert httpx.get(address).status_code == 404
    while server.server_state.connections:
        time.sleep(0.001)
    server.stop()
    thread.join(30)
    assert not thread.is_alive()
    server.stop()
