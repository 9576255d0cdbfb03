"""Bodies that analytics clients send by mistake: each row is stored, or its sender learns why not."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import pytest

from tests.support.server import Server

HITS = """
columns:
  - {name: ts, type: DateTime64(3), json: $.timestamp, default: now64(3)}
  - {name: event, type: String}
  - {name: uid, type: "Nullable(UUID)", json: $.uuid}
  - {name: email, type: String, json: $.properties.email}
  - {name: props, type: JSON, json: $.properties}
  - {name: amount, type: Float64}
engine: {sorting_key: [ts]}
"""
EVENT = b'{"event": "e", "timestamp": "2024-10-06T10:00:00.307Z"}'
BODIES: dict[str, tuple[bytes, int, int, str]] = {
    "a byte order mark": (b"\xef\xbb\xbf" + EVENT, 1, 0, ""),
    "gzip without a header": (gzip.compress(EVENT), 1, 0, ""),
    "CRLF and blank lines": (EVENT + b"\r\n\r\n" + EVENT + b"\r\n", 2, 0, ""),
    "objects on one line": (EVENT + EVENT, 2, 0, ""),
    "a comma after each line": (EVENT + b",\n" + EVENT, 2, 0, ""),
    "a comma at the end": (b"[" + EVENT + b"," + EVENT + b",]", 2, 0, ""),
    "a NUL character": (b'{"event": "logout", "properties": {"email": "\\u0000"}}', 1, 0, ""),
    "half of a surrogate pair": (b'{"event": "\\ud83d"}\n' + EVENT, 1, 1, "surrogate"),
    "a text without quotes": (b'{"token": TokenHere, "event": 1745625c6051}', 0, 1, "not JSON"),
    "numbers out of range": (b'{"event": "a", "amount": 1e999}', 0, 1, "inf"),
    "an envelope": (b'{"api_key": "k", "batch": [{"event": "a"}]}', 0, 1, "`batch`"),
    "a form": (b"data=" + base64.b64encode(EVENT), 0, 1, "not a JSON object"),
    "Python": (b"{'event': 'a'}", 0, 1, "not a JSON object"),
    "a key twice": (b'{"event": "a", "event": "b"}', 0, 1, "2 times"),
    "an object as text": (b'{"event": "a", "properties": "{}"}', 0, 1, "`properties` cannot be read"),
    "a path twice": (b'{"event": "a", "properties": {"a.b": 1, "a": {"b": 2}}}', 0, 1, "`properties` cannot be read"),
    "UTF-16": (EVENT.decode().encode("utf-16"), 0, 1, "not a JSON object"),
    "an id that is none": (b'{"event": "a", "uuid": "x"}', 0, 1, "UUID"),
    "nesting": (b'{"event": "a", "properties": ' + b'{"a":' * 2000 + b"1" + b"}" * 2001, 0, 1, "JSON"),
}


@pytest.fixture(scope="module")
def server(inbox: Server) -> Server:
    inbox.push({"datasources/hits.yaml": HITS})
    return inbox


@pytest.mark.parametrize("body", BODIES)
def test_unusual_bodies(server: Server, body: str) -> None:
    content, stored, quarantined, reason = BODIES[body]
    response = server.post(
        "/v0/events",
        server.admin_token,
        params={"name": "hits", "wait": "true"},
        content=content,
        headers={"content-type": "text/plain;charset=UTF-8"},
    )
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert (answer["successful_rows"], answer["quarantined_rows"]) == (stored, quarantined), answer
    assert reason in answer.get("first_bad_row", {}).get("reason", ""), answer
