"""Quarantine over HTTP: who reaches it, what it shows, and that rows come back out of it once."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from tests.support.server import Server
from tests.web.answers import refused

PATH = "/v0/datasources/events/quarantine"
_marks = itertools.count()


@pytest.fixture(scope="module")
def server(inbox: Server) -> Server:
    return inbox


@pytest.fixture
def mark(server: Server) -> str:
    """A text that only one test's rows have; quarantine is empty before."""
    for name in ("events", "prices"):
        server.done("DELETE", f"/v0/datasources/{name}/quarantine", json={"all": True})
    return f"quarantined-{next(_marks)}"


def bad(mark: str, **values: Any) -> str:
    return json.dumps({"tenant_id": 1, "note": mark, "units": "many"} | values)


def send(server: Server, body: str, token: str | None = None, name: str = "events", **headers: str) -> Any:
    params = {"name": name, "wait": "true"}
    response = server.post("/v0/events", token or server.admin_token, params=params, content=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


def listed(server: Server, **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.done("GET", PATH, params=params)["rows"]
    return found


def replay(server: Server, body: Any = None) -> Any:
    return server.done("POST", f"{PATH}/replay", **({} if body is None else {"json": body}))


def stored(server: Server, mark: str) -> list[list[Any]]:
    rows = server.sql(f"SELECT tenant_id, units FROM events WHERE note = '{mark}' ORDER BY tenant_id, units")
    return [list(r.values()) for r in rows]


@pytest.mark.proves("D11", "D12")
def test_only_an_admin_reaches_what_is_in_quarantine(server: Server, mark: str) -> None:
    """Rows of all tenants lie there together, as text: no token of a tenant or for one datasource gets near."""
    send(server, bad(mark))
    kept = listed(server)
    append, read = "DATASOURCES:APPEND:events", "DATASOURCES:READ:events"
    tokens = [
        None,
        "garbage",
        server.static("quarantine appends", append),
        server.static("quarantine reads", read),
        server.static("quarantine appends for 1", append, tenant="1"),
        server.mint(append, read, "PIPES:READ:raw", tenant="1"),
        server.mint(append, read, "PIPES:READ:raw", tenant="2"),
        server.mint(append, {"type": "DATASOURCES:READ", "resource": "events", "filter": "tenant_id = 1"}),
    ]
    for token in tokens:
        for method, path in (("GET", PATH), ("POST", f"{PATH}/replay"), ("DELETE", PATH)):
            for body in (b"", json.dumps({"ids": [kept[0]["c__id"]]}).encode(), b'{"all": true}'):
                refused(server.request(method, path, token, content=body), 403)
                looking = server.request(method, path, token, content=body, headers={"x-rookery-tenant": "1"})
                assert looking.status_code == 403
        for text in (
            "SELECT * FROM events_quarantine",
            "SELECT * FROM main.events_quarantine",
            "SELECT c__text FROM events",
            "SELECT * FROM merge('main', 'events_quarantine')",
        ):
            if token and token != "garbage":
                answer = server.post("/v0/sql", token, content=text)
                assert answer.status_code in (400, 403), answer.text
                assert mark not in answer.text
    assert listed(server) == kept


@pytest.mark.proves("D11")
def test_a_row_is_replayed_under_the_tenant_of_its_sender(server: Server, mark: str) -> None:
    """What a token for one tenant sent does not reach another tenant because an admin mended it."""
    token = server.mint("DATASOURCES:APPEND:events", tenant="2")
    send(server, bad(mark, tenant_id=1), token)
    (row,) = listed(server)
    assert row["c__writer"] == "2"
    answer = replay(server, {"rows": [{"id": row["c__id"], "text": bad(mark, tenant_id=1, units=5)}]})
    assert (answer["successful_rows"], [r["code"] for r in answer["refused"]]) == (0, ["RK5003"])
    assert stored(server, mark) == []
    assert [r["c__id"] for r in listed(server)] == [row["c__id"]], "it stays where it is"
    mended = json.dumps({"note": mark, "units": 5})
    assert replay(server, {"rows": [{"id": row["c__id"], "text": mended}]})["successful_rows"] == 1
    assert stored(server, mark) == [[2, 5]]


@pytest.mark.proves("D11")
def test_rows_of_a_removed_tenant_are_not_replayed_for_it(server: Server, mark: str) -> None:
    server.tenant("77", "pooled")
    send(server, bad(mark, tenant_id=None), server.mint("DATASOURCES:APPEND:events", tenant="77"))
    server.done("DELETE", "/v0/tenants/77")
    (row,) = listed(server)
    answer = replay(server, {"rows": [{"id": row["c__id"], "text": json.dumps({"note": mark})}]})
    assert [r["code"] for r in answer["refused"]] == ["RK3004"]
    assert stored(server, mark) == []
