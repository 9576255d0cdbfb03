"""Erasing a tenant while appends and replays with its rows wait: nothing that was accepted before comes back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from engine.control import tenants
from engine.errors import BAD_TOKEN, BUSY, RookeryError
from engine.ingest.batch import AppendResult
from engine.ingest.replay import _Replay, replay
from engine.ingest.writer import BatchWriter
from engine.warehouse.port import Input
from engine.workspace import pending_appends
from engine.workspace.pending_appends import PendingAppends
from tests.support.in_process import PATIENCE, Rookery, open_copy, open_rookery
from tests.support.soak import paired

EVENTS = """
tenant: tenant_id
columns: [{name: tenant_id, type: UInt32}, {name: n, type: Int64}]
engine: {sorting_key: [tenant_id]}
"""
SUMS = """
tenant: {column: tenant_id, landing: false}
columns: [{name: tenant_id, type: UInt32}, {name: v, type: Int64}]
engine: {type: SummingMergeTree, sorting_key: [tenant_id], columns: [v]}
"""
FILL = """
sql: SELECT tenant_id, sum(n) AS v FROM events GROUP BY tenant_id
materialize: {target: sums, per_tenant: true}
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("queued")
    with open_rookery(directory) as opened:
        opened.push({"datasources/events.yaml": EVENTS, "datasources/sums.yaml": SUMS, "pipes/fill.yaml": FILL})
        opened.add("2", placement="pooled")
    return directory


@pytest.fixture
def rookery(prepared: Path, tmp_path: Path) -> Iterator[Rookery]:
    with open_copy(prepared, tmp_path) as opened:
        yield opened


class _Gate:
    """Holds back what passes through a method, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        real: Callable[..., Any] = getattr(owner, method)

        def held(*args: Any, **kwargs: Any) -> Any:
            self.entered.set()
            assert self.opened.wait(PATIENCE)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, method, held)


def _purge(rookery: Rookery, gate: _Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Erase tenant 1, and open the gate when the purge waits or has ended."""
    draining = threading.Event()
    drain = PendingAppends.drain

    def drained(self: PendingAppends, *args: Any) -> None:
        draining.set()
        drain(self, *args)

    monkeypatch.setattr(PendingAppends, "drain", drained)
    purge = threading.Thread(target=tenants.remove, args=(rookery.workspace, "1"), kwargs={"purge": True})
    purge.start()
    deadline = time.monotonic() + PATIENCE
    while purge.is_alive() and not draining.is_set():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    gate.opened.set()
    purge.join(PATIENCE)
    assert not purge.is_alive()


def _append(rookery: Rookery, rows: list[Any], bound_tenant: str | None) -> Future[AppendResult]:
    body = "\n".join(map(json.dumps, rows)).encode()
    return rookery.gateway.append("events", body, Input.NDJSON, bound_tenant)


def _is_gone(rookery: Rookery) -> None:
    for table in ("events", "events_quarantine", "sums"):
        rows = rookery.rows(f"SELECT * FROM main.{table} WHERE toString(tenant_id) = '1'")
        assert rows == [], table
    assert rookery.rows("SELECT sum(v) FROM main.sums") == rookery.rows("SELECT sum(n) FROM main.events")


@pytest.mark.parametrize(("placement", "bound"), paired(["pooled", "tables"], [None, "1"]))
def test_a_queued_append_does_not_come_after_the_purge(
    rookery: Rookery, monkeypatch: pytest.MonkeyPatch, placement: str, bound: str | None
) -> None:
    rookery.add("1", placement=placement)
    gate = _Gate(monkeypatch, BatchWriter, "attempt")
    own = {"n": 5} if bound else {"tenant_id": 1, "n": 5}
    queued = [_append(rookery, [own, {**own, "n": "bad"}], bound), _append(rookery, [{"tenant_id": 2, "n": 7}], None)]
    assert gate.entered.wait(PATIENCE)
    _purge(rookery, gate, monkeypatch)
    for future in queued:
        future.exception(PATIENCE)
    assert queued[1].result().rows == 1
    _is_gone(rookery)
    with pytest.raises(RookeryError) as caught:
        _append(rookery, [{"n": 6}], "1").result(PATIENCE)
    assert caught.value.code is BAD_TOKEN


def test_a_row_that_is_being_replayed_does_not_come_after_the_purge(
    rookery: Rookery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read from quarantine before the purge, and its sender's token is not bound to the tenant."""
    rookery.add("1", placement="pooled")
    assert rookery.append([{"tenant_id": 1, "n": "bad"}]).quarantined == 1
    ((row,),) = rookery.rows("SELECT c__id FROM main.events_quarantine")
    gate = _Gate(monkeypatch, _Replay, "send")
    corrected = {str(row): json.dumps({"tenant_id": 1, "n": 9})}
    replaying = threading.Thread(target=replay, args=(rookery.workspace, rookery.gateway, "events", None, corrected))
    replaying.start()
    assert gate.entered.wait(PATIENCE)
    _purge(rookery, gate, monkeypatch)
    replaying.join(PATIENCE)
    _is_gone(rookery)


def test_a_purge_that_waits_too_long_can_be_repeated(rookery: Rookery, monkeypatch: pytest.MonkeyPatch) -> None:
    rookery.add("1", placement="pooled")
    gate = _Gate(monkeypatch, BatchWriter, "attempt")
    queued = _append(rookery, [{"tenant_id": 1, "n": 5}], None)
    assert gate.entered.wait(PATIENCE)
    drain = PendingAppends.drain
    monkeypatch.setattr(PendingAppends, "drain", lambda self: drain(self, 0.01))
    with pytest.raises(RookeryError) as caught:
        tenants.remove(rookery.workspace, "1", purge=True)
    assert caught.value.code is BUSY
    assert pending_appends.DRAIN_TIMEOUT_SECONDS > 0
    monkeypatch.setattr(PendingAppends, "drain", drain)
    gate.opened.set()
    queued.result(PATIENCE)
    tenants.remove(rookery.workspace, "1", purge=True)
    _is_gone(rookery)
