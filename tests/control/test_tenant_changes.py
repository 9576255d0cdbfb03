"""A tenant's rows are readable when all of them are there, and not before: also for views, and while it moves."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.control import tenants, unfinished_tenants
from engine.control.doctor import examine
from engine.control.unfinished_tenants import complete, unfinished
from engine.errors import TENANT_CHANGING, RookeryError
from engine.query.executor import Queries
from engine.query.request import QueryRequest
from engine.tokens.claims import Claims, Scope
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.port import Statement, Stream
from engine.web.requests import TENANT_HEADER
from tests.support.in_process import PATIENCE, Rookery, open_rookery
from tests.support.server import Server, running
from tests.support.soak import soaking

EVENTS = """
tenant: tenant_id
columns: [{name: tenant_id, type: UInt32}, {name: id, type: UInt32}, {name: k, type: String}]
engine: {sorting_key: [tenant_id]}
"""
SUMS = """
tenant: {column: tenant_id, landing: false}
columns: [{name: tenant_id, type: UInt32}, {name: v, type: Int64}]
engine: {type: SummingMergeTree, sorting_key: [tenant_id], columns: [v]}
"""
FILL = """
sql: SELECT tenant_id, sum(%s(k)) AS v FROM events GROUP BY tenant_id
materialize: {target: %s, per_tenant: true}
"""
TOTAL = "sql: SELECT sum(v) AS v FROM sums\nendpoint: {}\n"
FILES = {
    "datasources/events.yaml": EVENTS,
    "datasources/sums.yaml": SUMS,
    "datasources/others.yaml": SUMS,
    "pipes/fill.yaml": FILL % ("toInt64", "sums"),
    "pipes/fill_others.yaml": FILL % ("toInt64OrZero", "others"),
    "pipes/total.yaml": TOTAL,
}
SCOPES = ("DATASOURCES:READ:events", "DATASOURCES:READ:sums", "DATASOURCES:READ:others", "PIPES:READ:total")
READS = [f"SELECT count() AS n FROM {name}" for name in ("events", "sums", "others")]


def _reads(server: Server, token: str, **more: Any) -> Iterator[httpx.Response]:
    for text in READS:
        yield server.post("/v0/sql", token, content=text, **more)
    yield server.get("/v0/pipes/total.json", token, **more)


def test_an_incomplete_tenant_is_not_read(tmp_path: Path) -> None:
    placements = {"5": "pooled", "6": "tables"}
    with running(tmp_path) as server:
        server.push(FILES)
        rows = [{"tenant_id": int(t), "id": n, "k": k} for t in placements for n, k in enumerate(["4", "bad"])]
        server.events("events", rows)
        tokens = {}
        for tenant, placement in placements.items():
            answer = server.admin("POST", "/v0/tenants", json={"id": tenant, "placement": placement})
            assert answer.json()["code"] == "RK3010", answer.text
            tokens[tenant] = token = server.mint(*SCOPES, tenant=tenant)
            for by, more in ((token, {}), (server.admin_token, {"headers": {TENANT_HEADER: tenant}})):
                for answer in _reads(server, by, **more):
                    assert answer.status_code == 503, answer.text
                    assert answer.json()["code"] == TENANT_CHANGING.id
                    assert answer.headers["Retry-After"]
        server.push({**FILES, "pipes/fill.yaml": FILL % ("toInt64OrZero", "sums")}, allow=["fill", "sums"])
        for tenant in placements:
            # The push has completed their additions, or a thread is about to.
            deadline = time.monotonic() + PATIENCE
            while next(_reads(server, tokens[tenant])).status_code == TENANT_CHANGING.status:
                assert time.monotonic() < deadline, server.log()
                time.sleep(0.05)
            data = [a.json()["data"] for a in _reads(server, tokens[tenant])]
            assert data == [[{"n": 2}], [{"n": 1}], [{"n": 1}], [{"v": 4}]]


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("moving")) as opened:
        opened.push(FILES)
        opened.append([{"tenant_id": t, "id": t, "k": "1"} for t in (5, 5, 6)])
        yield opened


def _read(rookery: Rookery, monkeypatch: pytest.MonkeyPatch, changes: list[Callable[[], None]]) -> Any:
    """Read as tenant 5, with a change between composing the statement and running it."""
    real = rookery.workspace.warehouse.stream

    def stream(statement: Statement, format: Any) -> Stream:
        if changes:
            changes.pop(0)()
        return real(statement, format)

    monkeypatch.setattr(rookery.workspace.warehouse, "stream", stream)
    claims = Claims("own", tuple(Scope("DATASOURCES:READ", n) for n in ("events", "sums")), tenant="5")
    return Queries(rookery.workspace).sql(QueryRequest(claims), "SELECT sum(v) AS v FROM sums").head


@pytest.mark.parametrize(("placement", "then"), [("pooled", "tables"), ("tables", "pooled")])
def test_a_tenant_that_moves_while_it_is_read(
    rookery: Rookery, monkeypatch: pytest.MonkeyPatch, placement: str, then: str
) -> None:
    rookery.add("5", placement=placement)

    def move() -> None:
        tenants.remove(rookery.workspace, "5")
        rookery.add("5", placement=then)

    for change in (lambda: tenants.remove(rookery.workspace, "5"), move):
        with pytest.raises(RookeryError) as caught:
            _read(rookery, monkeypatch, [change])
        assert caught.value.code is TENANT_CHANGING
        if "5" not in rookery.workspace.current.tenants:
            rookery.add("5", placement=placement)
    assert b'"v": 2' in _read(rookery, monkeypatch, []).replace(b'"v":2', b'"v": 2')
    tenants.remove(rookery.workspace, "5")


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, write: int) -> Iterator[list[str]]:
    """End the calling thread's command at one of its writes. The list gets the writes that it reached."""
    reached: list[str] = []
    thread = threading.current_thread()
    with monkeypatch.context() as patch:
        for name in ("execute", "insert"):
            write_function = getattr(EmbeddedWarehouse, name)

            def counted(self: Any, *args: Any, whole: Any = write_function, **more: Any) -> Any:
                if threading.current_thread() is thread:
                    reached.append(str(args[0]))
                    if len(reached) == write:
                        raise KeyboardInterrupt
                return whole(self, *args, **more)

            patch.setattr(EmbeddedWarehouse, name, counted)
        with suppress(KeyboardInterrupt):
            yield reached


CHANGES = ("add", "remove", "purge")


@pytest.mark.parametrize("placement", tenants.PLACEMENTS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_is_killed_at_any_write_is_completed(
    rookery: Rookery, monkeypatch: pytest.MonkeyPatch, placement: str, change: str
) -> None:
    workspace, step = rookery.workspace, 1 if soaking() else 10 if change == "purge" else 5
    # The rows of a purged tenant are not stored until it is added again.
    tenant = str(10 + 2 * CHANGES.index(change) + tenants.PLACEMENTS.index(placement))
    for write in itertools.count(1 + CHANGES.index(change), step):
        if change != "add":
            rookery.add(tenant, placement=placement)
        rookery.append([{"tenant_id": int(tenant), "id": 1, "k": "1"}])
        with killed_at(monkeypatch, write) as reached:
            if change == "add":
                tenants.add(workspace, [tenant], placement)
            else:
                tenants.remove(workspace, tenant, purge=change == "purge")
        for each in unfinished(workspace):
            complete(workspace, each)
        assert unfinished(workspace) == []
        record = workspace.refresh().tenants.get(tenant)
        ((rows,),) = rookery.rows(f"SELECT count() FROM main.events WHERE tenant_id = {tenant}")
        # Only at its first write nothing has begun.
        assert (record is None) == (change != "add") or write == 1
        assert rows == 0 if change == "purge" and record is None else rows > 0
        sums = f"{rookery.nest(tenant)}.sums" if placement == "tables" else "main.sums"
        if record is not None or placement == "pooled":
            assert rookery.rows(f"SELECT sum(v) FROM {sums} WHERE tenant_id = {tenant}") == [
                (rows if record else 0,)
            ], reached
        if record is not None:
            tenants.remove(workspace, tenant)
        if len(reached) < write:
            break
    tenants.remove(workspace, tenant, purge=True)
    assert [f for f in examine(workspace).findings if f.level == "error"] == []


def test_a_push_lets_a_running_thread_try_a_tenant_again(rookery: Rookery, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    busy, pushed, again = threading.Event(), threading.Event(), threading.Event()

    def fail(_workspace: Any, tenant: str) -> None:
        tried.append(tenant)
        if len(tried) == 2:
            busy.set()
            pushed.wait(PATIENCE)
        if len(tried) == 4:
            again.set()
        raise RookeryError(TENANT_CHANGING, "not yet")

    monkeypatch.setattr(unfinished_tenants, "complete", fail)
    monkeypatch.setattr(unfinished_tenants, "unfinished", lambda _workspace: ["1", "2"])
    service = unfinished_tenants.UnfinishedTenants(rookery.workspace)
    service.complete()
    assert busy.wait(PATIENCE)
    service.complete()
    pushed.set()
    assert again.wait(PATIENCE)
    service.close()
    assert tried == ["1", "2", "1", "2"]


def test_a_tenant_that_is_about_to_be_erased_cannot_be_added(
    rookery: Rookery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its addition would seem to succeed, and the next start would erase it."""
    workspace = rookery.workspace
    rookery.add("30", placement="pooled")
    rookery.append([{"tenant_id": 30, "id": 1, "k": "1"}])
    for write in itertools.count(1):
        with killed_at(monkeypatch, write):
            tenants.remove(workspace, "30", purge=True)
        if unfinished(workspace):
            break
    assert workspace.refresh().tenants["30"].state == "ready"
    with pytest.raises(RookeryError, match="RK3006"):
        rookery.add("30", placement="pooled")
    complete(workspace, "30")
    assert unfinished(workspace) == []
    rookery.add("30", placement="pooled")
    assert rookery.append([{"tenant_id": 30, "id": 1, "k": "1"}]).rows == 1
    tenants.remove(workspace, "30")


def test_an_addition_that_a_stopping_server_interrupts_is_not_complete(rookery: Rookery) -> None:
    """The last test: the worker stays closed."""
    routed = EVENTS.replace("tenant_id\n", "{column: tenant_id, fanout: routed}\n", 1)
    rookery.push({"datasources/routed.yaml": routed})
    worker = rookery.router.worker("routed")
    assert worker is not None
    worker.close()
    worker.join(PATIENCE)
    with pytest.raises(RookeryError, match="RK4041"):
        rookery.add("3")
    assert rookery.workspace.refresh().tenants["3"].state == "adding"
