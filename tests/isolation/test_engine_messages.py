"""The engine's messages quote rows, so only callers who may read all rows see them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from engine.control.push import PushResult
from engine.errors import STILL_FAILING, Problems, RookeryError
from engine.plan.steps import Plan
from tests.support.server import Server, running, sources

CANARY = "canary-of-tenant-1"
EVENTS = """
tenant: {column: tenant_id, fanout: FANOUT}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: note, type: String}
engine: {sorting_key: [tenant_id]}
"""
TARGET = """
tenant: {column: tenant_id, landing: false}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: number, type: UInt32}
engine: {sorting_key: [tenant_id]}
"""
PLAIN = """
columns:
  - {name: id, type: UInt32}
  - {name: note, type: String}
engine: {sorting_key: [id]}
"""
FILES = {
    "datasources/events.yaml": EVENTS.replace("FANOUT", "direct"),
    "datasources/routed.yaml": EVENTS.replace("FANOUT", "routed"),
    "datasources/plain.yaml": PLAIN,
    "datasources/numbers.yaml": TARGET,
    "datasources/lengths.yaml": TARGET,
    "pipes/fill_numbers.yaml": """
sql: SELECT tenant_id, toUInt32(note) AS number FROM routed
materialize: {target: numbers, per_tenant: true}
""",
    "pipes/fill_lengths.yaml": """
sql: SELECT tenant_id, toUInt32(length(note)) AS number FROM events
materialize: {target: lengths, per_tenant: true}
""",
}
CASTING = FILES["pipes/fill_lengths.yaml"].replace("toUInt32(length(note))", "toUInt32(note)")
FAILING_PUSHES: Mapping[str, tuple[Mapping[str, str], list[str]]] = {
    "a query that fills a table again": ({"pipes/fill_lengths.yaml": CASTING}, ["fill_lengths", "lengths"]),
    "a changed column": (
        {"datasources/plain.yaml": PLAIN.replace("note, type: String", "note, type: UInt32")},
        ["plain"],
    ),
    "a backfill": (
        {"datasources/more.yaml": TARGET, "pipes/fill_more.yaml": CASTING.replace("target: lengths", "target: more")},
        [],
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("messages")) as server:
        server.push(FILES)
        server.tenant("1", "tables")
        server.events("events", [{"tenant_id": 1, "note": CANARY}])
        server.events("plain", [{"id": 1, "note": CANARY}])
        server.events("routed", [{"tenant_id": 2, "note": CANARY}])
        yield server


def push(server: Server, token: str, files: Mapping[str, str], allow: list[str], **headers: str) -> httpx.Response:
    body: dict[str, Any] = {"files": sources({**FILES, **files}), "allow": allow}
    return server.post("/v0/push", token, json=body, headers=headers)


def test_an_admin_sees_why_a_push_fails(server: Server) -> None:
    response = push(server, server.admin_token, *FAILING_PUSHES["a query that fills a table again"])
    assert response.status_code == 409
    assert CANARY in response.json()["error"]


@pytest.mark.parametrize(
    ("name", "accept"),
    # The backfill changes something although it fails.
    [
        ("a query that fills a table again", "application/json"),
        ("a query that fills a table again", "application/x-ndjson"),
        ("a backfill", "application/json"),
        ("a changed column", "application/json"),
    ],
)
def test_a_failing_push_does_not_show_rows_to_a_deploy_token(server: Server, name: str, accept: str) -> None:
    response = push(server, server.static("ci", "DEPLOY"), *FAILING_PUSHES[name], accept=accept)
    assert any(code in response.text for code in ("RK2030", "RK3010", "RK3012")), response.text
    assert CANARY not in response.text


def test_the_warnings_of_a_push_quote_rows_only_for_callers_who_read_all() -> None:
    quoting = RookeryError(STILL_FAILING, f"fails on {CANARY}", public="fails on a row")
    result = PushResult(Plan(()), (), warnings=(quoting, Problems([quoting])))
    assert str(result.as_dict()).count(CANARY) == 3
    assert CANARY not in str(result.as_dict(public=True))


@pytest.mark.parametrize("placement", ["tables", "pooled"])
def test_a_tenant_that_cannot_be_added_does_not_show_its_rows(server: Server, placement: str) -> None:
    token = server.static("sign-up", "TENANTS:MANAGE")
    id = {"tables": "2", "pooled": "3"}[placement]
    server.events("routed", [{"tenant_id": int(id), "note": CANARY}])
    added = server.post("/v0/tenants", token, json={"id": id, "placement": placement})
    assert added.status_code == 500
    assert CANARY not in added.text


def test_a_failing_tenant_does_not_show_its_rows(server: Server) -> None:
    token = server.static("sign-up", "TENANTS:MANAGE")
    server.events("routed", [{"tenant_id": 1, "note": CANARY}])
    deadline = time.monotonic() + 60
    while CANARY not in str(server.admin_json("GET", "/v0/tenants/1")["error"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for path in ("/v0/tenants", "/v0/tenants/1"):
        listed = server.get(path, token)
        assert "cannot be delivered" in listed.text
        assert CANARY not in listed.text
