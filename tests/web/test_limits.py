"""Limits: time, rows, memory, queries at once, changes at once and requests per second."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import httpx
import pytest

from engine.settings import Settings
from engine.web.app import CONTROL_THREADS, create_app
from engine.workspace.opening import open_workspace
from tests.support.in_process import PATIENCE
from tests.support.server import Server
from tests.support.soak import paired
from tests.web.responses import data, refused

BUSY = "SELECT max(cityHash64(number, 1)) AS x FROM numbers(300000000)"


@pytest.fixture(scope="module")
def token(narrow: Server) -> str:
    return narrow.mint(*(f"PIPES:READ:{n}" for n in ("slow", "short", "hungry", "by_kind", "many")), tenant="1")


FORMATS = [*paired(["json", "parquet"], [False, True])]
FURTHER = [pytest.param(f, a, marks=pytest.mark.soak_only) for f in ("csv", "ndjson") for a in (False, True)]


@pytest.mark.parametrize(("format", "admin"), [*FORMATS, *FURTHER])
def test_a_slow_query_is_stopped(narrow: Server, token: str, format: str, admin: bool) -> None:
    used = narrow.admin_token if admin else token
    refused(narrow.get(f"/v0/pipes/slow.{format}", used), 408, "RK4011")


def test_too_many_rows(narrow: Server, token: str) -> None:
    assert len(data(narrow.get("/v0/pipes/short.json?rows=100", token))) == 100
    for format in ("json", "csv", "ndjson", "parquet"):
        for rows in (101, 100_000):
            refused(narrow.get(f"/v0/pipes/short.{format}?rows={rows}", token), 400, "RK4012")
            refused(narrow.get(f"/v0/pipes/short.{format}?rows={rows}", narrow.admin_token), 400, "RK4012")


def test_too_much_memory(narrow: Server, token: str) -> None:
    for used in (token, narrow.admin_token):
        refused(narrow.get("/v0/pipes/hungry.json", used), 400, "RK4012")
    assert data(narrow.get("/v0/pipes/by_kind.json", token))


def at_once(call: Callable[[int], httpx.Response], times: int) -> list[httpx.Response]:
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(call, range(times)))


def test_too_many_calls_of_one_endpoint(narrow: Server, token: str) -> None:
    answers = at_once(lambda _: narrow.get("/v0/pipes/slow.json", token), 2)
    assert Counter(a.status_code for a in answers) == {408: 1, 429: 1}
    busy = next(a for a in answers if a.status_code == 429)
    refused(busy, 429, "RK4010")
    assert int(busy.headers["retry-after"]) >= 1
    refused(narrow.get("/v0/pipes/slow.json", token), 408)


@pytest.mark.parametrize("by", ["token", "tenant"])
def test_too_many_queries_of_one_caller(narrow: Server, by: str) -> None:
    """Three at once are allowed, per token, and per tenant over all its tokens. Two run, one waits for a handle."""
    name = f"many of one {by}"
    tokens = [
        narrow.mint("DATASOURCES:READ:prices", tenant="2", name=f"{name} {n if by == 'tenant' else 0}")
        for n in range(6)
    ]
    answers = at_once(lambda n: narrow.post("/v0/sql", tokens[n], content=BUSY), 6)
    counts = Counter(a.status_code for a in answers)
    assert set(counts) <= {200, 429} and counts[200] >= 2, counts
    for answer in answers:
        if answer.status_code == 429:
            refused(answer, 429, "RK4010")
            assert int(answer.headers["retry-after"]) >= 1
    assert counts[429] >= 1
    assert narrow.sql("SELECT 1 AS x", tokens[0]) == [{"x": 1}], "the places are given back"


def test_receipts_are_limited_like_queries(narrow: Server) -> None:
    token = narrow.mint("DATASOURCES:READ:prices", "DATASOURCES:APPEND:notes", tenant="2")
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(narrow.post, "/v0/sql", token, content=BUSY) for _ in range(3)]
        statuses = set()
        while not all(future.done() for future in running):
            statuses.add(narrow.get("/v0/events/a-key", token).status_code)
    # Either the queries leave no place for a request for a receipt, or such a request none for a query.
    assert 429 in statuses | {future.result().status_code for future in running}
    refused(narrow.get("/v0/events/a-key", token), 404, "RK5009")


def test_a_token_with_the_name_of_another_has_its_own_limits(narrow: Server) -> None:
    static = narrow.static("shared name", "DATASOURCES:READ:prices")
    token = narrow.mint("DATASOURCES:READ:prices", name="shared name")
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(narrow.post, "/v0/sql", token, content=BUSY) for _ in range(4)]
        answers = [narrow.post("/v0/sql", static, content="SELECT 1 AS x")]
        while not all(future.done() for future in running):
            answers.append(narrow.post("/v0/sql", static, content="SELECT 1 AS x"))
    assert 429 not in {a.status_code for a in answers}


def test_requests_per_second(narrow: Server) -> None:
    token = narrow.mint("PIPES:READ:by_kind", tenant="1", name="limited", limits={"rps": 1})
    other = narrow.mint("PIPES:READ:by_kind", tenant="1", name="not limited")
    answers = [narrow.get("/v0/pipes/by_kind.json", token) for _ in range(12)]
    counts = Counter(a.status_code for a in answers)
    assert counts[200] >= 1 and counts[429] >= 1 and set(counts) == {200, 429}
    busy = next(a for a in answers if a.status_code == 429)
    refused(busy, 429, "RK4010")
    assert (busy.headers["x-ratelimit-limit"], busy.headers["x-ratelimit-remaining"]) == ("1", "0")
    assert int(busy.headers["retry-after"]) >= 1 and int(busy.headers["x-ratelimit-reset"]) >= 0
    assert data(narrow.get("/v0/pipes/by_kind.json", other))
    time.sleep(1.1)
    assert data(narrow.get("/v0/pipes/by_kind.json", token))


def test_the_settings_limit_ad_hoc_sql(narrow: Server) -> None:
    """Enough rows that the response has begun: it is cut off."""
    with pytest.raises(httpx.RemoteProtocolError):
        narrow.admin("POST", "/v0/sql", content="SELECT number FROM numbers(6000000) FORMAT CSV")
    assert narrow.sql("SELECT 1 AS x") == [{"x": 1}]


def test_changes_that_wait_delay_no_other_request(tmp_path: Path) -> None:
    workspace = open_workspace(Settings(data=tmp_path / "data", admin_token="an admin token", readers=2, writers=2))
    app = create_app(workspace)
    begun, may_end = threading.Event(), threading.Event()

    def change() -> None:
        with workspace.changes:
            begun.set()
            may_end.wait()

    async def main() -> None:
        headers = {"authorization": "Bearer an admin token"}
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x", headers=headers) as client,
            anyio.create_task_group() as group,
        ):
            threading.Thread(target=change, daemon=True).start()
            begun.wait(PATIENCE)
            try:
                for n in range(CONTROL_THREADS):
                    group.start_soon(lambda id: client.post("/v0/tenants", json={"id": id}), str(n))
                await anyio.wait_all_tasks_blocked()
                with anyio.fail_after(PATIENCE):
                    for path in ("/v0/tenants", "/metrics", "/v0/fanout"):
                        assert (await client.get(path)).status_code == 200
                    minted = await client.post(
                        "/v0/tokens", json={"name": "n", "scopes": ["METRICS:READ"], "ttl": 60}
                    )
                    assert minted.status_code == 200, minted.text
            finally:
                may_end.set()

    anyio.run(main)
