"""Large results: complete documents in every format, handles that are always returned, and an orderly shutdown."""

from __future__ import annotations

import asyncio
import csv
import gc
import io
import json
import signal
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.to_thread
import httpx
import pyarrow.parquet as pq
import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from engine.query.running import Ticket
from engine.web.control import Report, progress_lines
from engine.web.operations import ready
from engine.web.query_response import run_watched
from engine.web.services import Services
from engine.web.streaming import UnsentMemory
from tests.support.server import Server, running
from tests.web.responses import data, refused

ROWS = 70_000
LAST = {"number": ROWS - 1, "text": str((ROWS - 1) * 7), "third": (ROWS - 1) / 3}


@pytest.fixture(scope="module")
def token(narrow: Server) -> str:
    return narrow.mint("PIPES:READ:many", "PIPES:READ:breaks", "PIPES:READ:by_kind", tenant="1")


@pytest.mark.parametrize("who", ["tenant", "admin"])
def test_a_large_result_is_complete(narrow: Server, token: str, who: str) -> None:
    used = token if who == "tenant" else narrow.admin_token

    def ask(format: str) -> httpx.Response:
        response = narrow.get(f"/v0/pipes/many.{format}?rows={ROWS}", used)
        assert response.status_code == 200
        assert "content-length" not in response.headers and response.headers["transfer-encoding"] == "chunked"
        return response

    body = ask("json").json()
    assert (body["rows"], len(body["data"]), body["data"][-1]) == (ROWS, ROWS, LAST)
    assert [m["name"] for m in body["meta"]] == ["number", "text", "third"]
    assert body["statistics"]["rows_read"] >= ROWS
    rows = list(csv.DictReader(io.StringIO(ask("csv").text)))
    assert (len(rows), rows[-1]["text"]) == (ROWS, LAST["text"])
    lines = ask("ndjson").text.splitlines()
    assert (len(lines), json.loads(lines[-1])) == (ROWS, LAST)
    table = pq.read_table(io.BytesIO(ask("parquet").content))
    assert (table.num_rows, table.slice(ROWS - 1).to_pylist()) == (ROWS, [LAST])


def test_ad_hoc_sql_streams_too(narrow: Server) -> None:
    assert len(narrow.sql(f"SELECT number, toString(number) AS t FROM numbers({ROWS})")) == ROWS


@pytest.mark.parametrize("format", ["json", "csv", "ndjson", "parquet"])
@pytest.mark.parametrize("rows, bad", [(10, 5), (100_000, 0), (100_000, 99_000)])
def test_an_error_before_the_first_byte_has_a_status(
    narrow: Server, token: str, format: str, rows: int, bad: int
) -> None:
    path = f"/v0/pipes/breaks.{format}?rows={rows}&bad={bad}"
    try:
        response = narrow.get(path, token)
    except httpx.RemoteProtocolError:
        # The failing row came after the status line: the answer breaks off, and never looks whole.
        assert bad > 65_000
        return
    refused(response, 400, "RK4013")
    body = response.json()
    del body["request_id"]  # random digits
    assert "4711" not in str(body)


def test_a_late_error_breaks_the_response(narrow: Server, token: str) -> None:
    for format in ("json", "csv", "ndjson", "parquet"):
        with pytest.raises(httpx.RemoteProtocolError):
            narrow.get(f"/v0/pipes/breaks.{format}?rows=2000000&bad=1900000", token)
    assert data(narrow.get("/v0/pipes/by_kind.json", token))
    assert "a response was truncated" in narrow.log() and "Traceback" not in narrow.log()


def leave(server: Server, path: str, token: str, after: int) -> None:
    """Send a request, read `after` bytes and disconnect."""
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port or 0), timeout=30) as connection:
        request = f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
        connection.sendall(request.encode())
        seen = 0
        while seen < after:
            seen += len(connection.recv(65536))


@pytest.mark.parametrize("after", [0, 1, 1_000_000])
def test_a_disconnected_caller_returns_its_handle(narrow: Server, token: str, after: int) -> None:
    for _ in range(4):
        leave(narrow, "/v0/pipes/many.json?rows=1000000", token, after)
    for _ in range(4):
        assert patient(narrow, token)


def patient(server: Server, token: str) -> list[dict[str, object]]:
    """The rows of a query, repeated while disconnected callers still count as running."""
    for _ in range(50):
        response = server.get("/v0/pipes/by_kind.json", token)
        if response.status_code != 429:
            return data(response)
        time.sleep(0.1)
    raise AssertionError("the places were not given back")


def test_a_caller_that_disconnects_while_sending(narrow: Server) -> None:
    address = httpx.URL(narrow.url)
    for _ in range(3):
        with socket.create_connection((address.host, address.port or 0), timeout=30) as connection:
            head = (
                f"POST /v0/events?name=events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {narrow.admin_token}\r\n"
            )
            connection.sendall(f'{head}content-length: 1000\r\n\r\n{{"tenant_id": 1}}\n'.encode())
            time.sleep(0.05)
    time.sleep(0.2)
    assert narrow.events("events", [{"tenant_id": 1, "note": "after"}])
    assert "Traceback" not in narrow.log() and "internal error" not in narrow.log()


def test_a_slow_reader_does_not_delay_others(narrow: Server, token: str) -> None:
    address = httpx.URL(narrow.url)
    with socket.create_connection((address.host, address.port or 0), timeout=30) as connection:
        path = "/v0/pipes/many.json?rows=1000000"
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n".encode())
        connection.recv(1000)
        for _ in range(5):
            assert patient(narrow, token)


def test_the_memory_for_unsent_results_is_shared() -> None:
    memory = UnsentMemory(limit=1000)
    fitting = {caller: sum(memory.take(10, caller) for _ in range(100)) for caller in "abc"}
    assert fitting == {"a": 50, "b": 25, "c": 12}
    for caller, chunks in fitting.items():
        memory.give_back(10 * chunks, caller)
    assert memory == UnsentMemory(limit=1000)


def test_responses_that_wait_for_progress_occupy_no_threads() -> None:
    release = threading.Event()

    async def main() -> None:
        services = cast(Services, SimpleNamespace(control=anyio.CapacityLimiter(1)))
        threads = anyio.to_thread.current_default_thread_limiter()

        async def respond() -> None:
            assert [line async for line in progress_lines(services, lambda _: release.wait(60), public=True)]

        async with anyio.create_task_group() as group:
            for _ in range(int(threads.total_tokens)):
                group.start_soon(respond)
            await anyio.wait_all_tasks_blocked()
            free = threads.available_tokens
            release.set()
        assert free == threads.total_tokens, "queries that end need one"

    anyio.run(main)


def test_probes_occupy_no_threads_of_requests() -> None:
    release = threading.Event()

    async def main() -> None:
        services = SimpleNamespace(
            stopping=False,
            queries=SimpleNamespace(running=SimpleNamespace(stuck=lambda: 0)),
            workspace=SimpleNamespace(settings=SimpleNamespace(readers=2)),
            health=SimpleNamespace(reason=lambda: "" if release.wait(60) else None),
            limiter=anyio.CapacityLimiter(4),
            probes=anyio.CapacityLimiter(1),
        )
        request = cast(Request, SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(rookery=services))))
        async with anyio.create_task_group() as group:
            for _ in range(9):
                group.start_soon(ready, request)
            await anyio.wait_all_tasks_blocked()
            used = services.limiter.borrowed_tokens
            release.set()
        assert not used, "queries need them, and probes need no token"

    anyio.run(main)


def test_a_client_that_leaves_while_progress_is_sent_does_not_end_the_work() -> None:
    faults: list[object] = []

    async def main() -> bool:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        services = cast(Services, SimpleNamespace(control=anyio.CapacityLimiter(1)))
        left, sends, ended = anyio.Event(), threading.Event(), threading.Event()

        def work(report: Report) -> None:
            report("x", 1, 2)
            sends.wait(30)
            ended.set()

        async def receive() -> dict[str, str]:
            await left.wait()
            sends.set()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message.get("body"):
                left.set()
                await anyio.sleep_forever()

        response = StreamingResponse(progress_lines(services, work, public=True))
        await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
        del response
        gc.collect()
        while services.control.borrowed_tokens:
            await anyio.sleep(0.001)
        return ended.is_set()

    assert anyio.run(main)
    assert not faults


def test_a_query_is_cancelled_although_control_work_occupies_its_threads() -> None:
    cancelled = threading.Event()

    async def disconnect() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def main() -> bool:
        running = SimpleNamespace(cancel=lambda _: cancelled.set())
        control, limiter = anyio.CapacityLimiter(1), anyio.CapacityLimiter(1)
        services = SimpleNamespace(control=control, limiter=limiter, queries=SimpleNamespace(running=running))
        await control.acquire_on_behalf_of("a push")
        request = cast(Request, SimpleNamespace(receive=disconnect))
        return await run_watched(request, cast(Services, services), Ticket(), lambda: cancelled.wait(5))

    assert anyio.run(main)


def test_a_running_request_finishes_at_shutdown(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.push({"pipes/x.yaml": "sql: SELECT max(cityHash64(number, 1)) AS x FROM numbers(150000000)"})
        responses: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: responses.append(server.get("/v0/pipes/x.json", server.admin_token)))
        asking.start()
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        asking.join(30)
        assert [r.status_code for r in responses] == [200] and responses[0].json()["rows"] == 1
        assert server.process.wait(30) == 0
        assert not (tmp_path / ".rookery" / "server.json").exists()
        assert "Traceback" not in server.log()
    with running(tmp_path) as again:
        assert again.admin_json("GET", "/v0/workspace")["pipes"] == 1
