"""Idempotency keys over HTTP: a request happens once, and its receipt is visible to tokens that may write such rows."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.server import Server
from tests.web.responses import refused

_keys = itertools.count()


@pytest.fixture
def key() -> str:
    return f"key {next(_keys)}"


@pytest.fixture(scope="module")
def server(inbox: Server) -> Server:
    return inbox


def send(server: Server, key: str, body: str, token: str | None = None, name: str = "events") -> Any:
    headers = {"idempotency-key": key}
    return server.post(
        f"/v0/events?name={name}&wait=true", token or server.admin_token, content=body, headers=headers
    )


def row(mark: str, tenant: int = 1) -> str:
    return json.dumps({"tenant_id": tenant, "note": mark, "units": 1})


def stored(server: Server, mark: str) -> int:
    return int(server.sql(f"SELECT count() AS n FROM events WHERE note = '{mark}'")[0]["n"])


def test_a_repeated_request_happens_once(server: Server, key: str) -> None:
    body = row(key) + "\n" + row(key, 2) + "\n" + '{"tenant_id": "01"}'
    first, again = send(server, key, body).json(), send(server, key, body).json()
    assert (first["successful_rows"], first["quarantined_rows"], first["first_bad_row"]["row"]) == (2, 1, 3)
    assert again == {**first, "repeated": True}
    assert stored(server, key) == 2
    (receipt,) = server.admin_json("GET", f"/v0/events/{key}")["receipts"]
    assert (receipt["datasource"], receipt["tenants"]) == ("events", {"1": 1, "2": 1})
    assert (receipt["successful_rows"], receipt["quarantined_rows"]) == (2, 1)


def test_concurrent_repetitions_happen_once(server: Server, key: str) -> None:
    with ThreadPoolExecutor(12) as callers:
        answers = list(callers.map(lambda _: send(server, key, row(key)), range(24)))
    assert {a.status_code for a in answers} == {200}
    assert {a.json()["successful_rows"] for a in answers} == {1}
    assert [a.json().get("repeated", False) for a in answers].count(False) == 1
    assert stored(server, key) == 1


def test_another_body_under_the_same_key_is_refused(server: Server, key: str) -> None:
    assert send(server, key, row(key)).status_code == 200
    refused(send(server, key, row(key, 2)), 422, "RK5008")
    assert stored(server, key) == 1


def test_keys_with_a_common_prefix_are_independent(server: Server, key: str) -> None:
    """The batches of a file have keys that no caller can use, so no caller's key is equal to one."""
    content = "tenant_id,note\n1,whole\n"
    headers = {"Idempotency-Key": key}
    path = "/v0/datasources?name=events&format=csv"
    assert server.post(path, server.admin_token, content=content, headers=headers).json()["rows"] == 1
    assert send(server, f"{key}#1", row(f"{key}#1")).json()["successful_rows"] == 1
    assert stored(server, f"{key}#1") == 1
    receipts = server.admin_json("GET", f"/v0/events/{key}")["receipts"]
    assert [r["successful_rows"] for r in receipts] == [1]
    longest = "x" * 255
    headers = {"Idempotency-Key": longest}
    again = [server.post(path, server.admin_token, content=content, headers=headers).json() for _ in range(2)]
    assert [a["rows"] for a in again] == [1, 1] and stored(server, "whole") == 2


@pytest.mark.parametrize("bad", ["", "x" * 256, "tab\there"])
def test_a_key_is_short_and_printable(server: Server, bad: str) -> None:
    refused(send(server, bad, row("no key")), 400, "RK4009")


@pytest.mark.proves("D11")
def test_receipts_are_visible_to_tokens_that_can_write_the_rows(server: Server, key: str) -> None:
    """Keys of different tenants, and of writers without one, have nothing to do with each other."""
    one = server.static(f"one {key}", "DATASOURCES:APPEND:events", tenant="1")
    two = server.static(f"two {key}", "DATASOURCES:APPEND:events", tenant="2")
    prices = server.static(f"prices {key}", "DATASOURCES:APPEND:prices")
    producer = server.static(f"producer {key}", "DATASOURCES:APPEND:events")
    reader = server.static(f"reader {key}", "DATASOURCES:READ:prices")
    for token, tenant in ((one, 1), (two, 2)):
        assert send(server, key, row(key, tenant), token).status_code == 200
    assert send(server, key, row(key, 2) + "\n" + row(key), producer).status_code == 200
    assert stored(server, key) == 4
    path = f"/v0/events/{key}"
    for token, tenants in ((one, {"1": 1}), (two, {"2": 1}), (producer, {"1": 1, "2": 1})):
        (receipt,) = server.get(path, token).json()["receipts"]
        assert receipt["tenants"] == tenants
    refused(server.get(path, prices), 404, "RK5009")
    refused(server.get(path, reader), 403, "RK4003")
    refused(server.get(path, server.mint("PIPES:READ:by_kind", tenant="1")), 403, "RK4003")
    assert len(server.admin_json("GET", path)["receipts"]) == 3
    refused(server.get("/v0/events/nothing", one), 404, "RK5009")


def test_an_empty_body_has_a_receipt(server: Server, key: str) -> None:
    assert send(server, key, "").json() == {"successful_rows": 0, "quarantined_rows": 0}
    assert send(server, key, "\n").status_code == 422
    (receipt,) = server.admin_json("GET", f"/v0/events/{key}")["receipts"]
    assert (receipt["successful_rows"], receipt["quarantined_rows"]) == (0, 0)


def test_an_invalid_key_is_refused(server: Server, key: str) -> None:
    """The server stores records of its own beside the receipts; no path leads to them."""
    writer = server.static("writes for everybody", "DATASOURCES:APPEND:events")
    for part in range(2):
        assert send(server, f"{key} {part}", row(key), writer).status_code == 200
    for path in ("%1Fstored", "%1Fstored%1F", "%1F", "", f"{key}%1F", "a" * 256, "%C3%A9", "%00"):
        for token in (server.admin_token, writer):
            refused(server.get(f"/v0/events/{path}", token), 400, "RK4009")
    assert server.get(f"/v0/events/{key} 0", writer).status_code == 200
