"""The access log has exactly one line per request, whatever happens to it, and never what a caller wants to hide in it."""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.support.server import Server, running
from tests.web.access_log import FILES, exchange, lines, lines_of, only, samples, total


@pytest.fixture(scope="module")
def server(observed: Server) -> Server:
    return observed


CANARY = "canary-4711"


REQUESTS: dict[str, tuple[str, str, dict[str, Any], int, dict[str, Any]]] = {
    "live": ("GET", "/live", {}, 200, {"route": "/live"}),
    "head": ("HEAD", "/live", {}, 200, {"route": "/live", "bytes": 0}),
    "endpoint": (
        "GET",
        "/v0/pipes/notes.json",
        {"admin": True},
        200,
        {
            "route": "/v0/pipes/{name}.{format}",
            "endpoint": "notes",
            "rows": 6,
            "rows_read": 6,
            "token": "admin token",
        },
    ),
    "csv": ("GET", "/v0/pipes/notes.csv", {"admin": True}, 200, {"endpoint": "notes", "rows": 6}),
    "no-token": ("GET", "/v0/pipes/notes.json", {}, 403, {"endpoint": "notes", "code": "RK4001", "rows": 0}),
    "made-up": ("GET", "/v0/pipes/made_up.json", {"admin": True}, 404, {"endpoint": None, "code": "RK4008"}),
    "append": (
        "POST",
        "/v0/events?name=events",
        {"admin": True, "content": '{"tenant_id": 1, "note": "none"}'},
        202,
        {"route": "/v0/events", "datasource": "events", "rows": 1, "token": "admin token"},
    ),
    "page": (
        "POST",
        "/v0/events?name=events",
        {"admin": True, "content": '{"tenant_id": 1, "note": "none"}', "headers": {"origin": "http://a"}},
        202,
        {"route": "/v0/events", "datasource": "events", "rows": 1},
    ),
    "upload": (
        "POST",
        "/v0/datasources?name=events&format=csv",
        {"admin": True, "content": "tenant_id,note\n1,none\n1,none\n"},
        200,
        {"route": "/v0/datasources", "datasource": "events", "rows": 2},
    ),
    "bad-rows": ("POST", "/v0/events?name=other", {"admin": True, "content": "{}"}, 404, {"datasource": None}),
    "preflight": (
        "OPTIONS",
        "/v0/sql",
        {"headers": {"origin": "http://a", "access-control-request-method": "GET"}},
        200,
        {"method": "OPTIONS"},
    ),
    "no-route": ("GET", "/made/up", {}, 404, {"route": None, "path": None, "code": "RK4019"}),
    "bad-method": ("PUT", "/live", {}, 405, {"route": "/live", "code": "RK4020"}),
    "sql": ("POST", "/v0/sql", {"admin": True, "content": "SELEC 1"}, 400, {"route": "/v0/sql", "code": "RK2001"}),
    "impersonated": (
        "GET",
        "/v0/pipes/notes.json",
        {"admin": True, "headers": {"x-rookery-tenant": "1"}},
        200,
        {"tenant": "1"},
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_each_request_has_one_line_and_returns_its_id(server: Server, name: str) -> None:
    method, path, given, status, expected = REQUESTS[name]
    options = {key: value for key, value in given.items() if key != "admin"}
    headers = {"x-request-id": f"one-{name}", **options.pop("headers", {})}
    token = server.admin_token if given.get("admin") else None
    response = server.request(method, path, token, headers=headers, **options)
    assert response.status_code == status
    assert response.headers.get_list("x-request-id") == [f"one-{name}"]
    if status >= 400:
        assert response.json()["request_id"] == f"one-{name}"
    line = only(server, f"one-{name}")
    assert line["status"] == status and line["method"] == method and line["ms"] > 0
    assert line["bytes"] == len(response.content)
    assert {key: line.get(key) for key in expected} == expected
    assert "aborted" not in line


@pytest.mark.parametrize(
    "id", ["", "a/ b", "a b", "a\x1b[2J", "-a", "é", "a" * 129, "${jndi}", "a\tb", "<script>"], ids=range(10)
)
def test_an_unusual_request_id_is_replaced(server: Server, id: str) -> None:
    response = server.get("/live", headers={"x-request-id": id.encode("latin-1")})
    assert re.fullmatch(r"[0-9a-f]{16}", response.headers["x-request-id"])


def test_each_request_without_an_id_gets_another_one(server: Server) -> None:
    ids = {server.get("/live").headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20


REFUSED: dict[str, tuple[bytes, str]] = {
    "garbage": (b"\x00\x01\x02\r\n\r\n", "RK4025"),
    "bad header": (b"GET /live HTTP/1.1\r\nx-request-id: refused-1\r\nBad\x01: x\r\n\r\n", "RK4025"),
    "large headers": (b"GET /live HTTP/1.1\r\nA: " + b"a" * 9000 + b"\r\n\r\n", "RK4022"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_is_refused_before_its_route_has_one_line(server: Server, name: str) -> None:
    data, code = REFUSED[name]
    # Lines are written by a thread, in order: once this one is there, so are those of earlier tests.
    earlier = f"before-{name.replace(' ', '-')}"
    server.get("/live", headers={"x-request-id": earlier})
    only(server, earlier)
    before = Counter(line.get("code") for line in lines(server))
    response = exchange(server, data)
    head, _, body = response.partition(b"\r\n\r\n")
    id = json.loads(body)["request_id"]
    assert f"x-request-id: {id}".encode() in head
    line = only(server, id)
    assert line["code"] == code and "route" not in line
    assert Counter(line.get("code") for line in lines(server))[code] == before[code] + 1


def test_a_client_that_leaves_has_one_line(server: Server) -> None:
    """A client that leaves during a query, during its own body, or in the middle of a large response."""
    head = "HTTP/1.1\r\nhost: a\r\nauthorization: Bearer " + server.admin_token + "\r\nx-request-id: "
    exchange(server, f"GET /v0/pipes/slow.json {head}left-query\r\n\r\n".encode(), reads=False)
    body = f"POST /v0/events?name=events {head}left-body\r\ncontent-length: 100\r\n\r\n{{".encode()
    exchange(server, body, reads=False)
    with socket.create_connection((urlsplit(server.url).hostname, urlsplit(server.url).port), timeout=30) as reader:
        reader.sendall(f"GET /v0/pipes/many.ndjson {head}left-response\r\n\r\n".encode())
        assert reader.recv(1000).startswith(b"HTTP/1.1 200")
    lines_by_id = lines_of(server, "left-query", "left-body", "left-response")
    assert {id: (len(each), each[0]["status"], each[0]["aborted"]) for id, each in lines_by_id.items()} == {
        "left-query": (1, 499, True),
        "left-body": (1, 499, True),
        "left-response": (1, 200, True),
    }


def test_pipelined_requests_of_a_client_that_leaves_end_with_one_line_each(server: Server) -> None:
    """The first one runs, for minutes if nothing cancels it."""
    head = "HTTP/1.1\r\nhost: a\r\nauthorization: Bearer " + server.admin_token + "\r\nx-request-id: "
    ids = [f"pipelined-{n}" for n in range(4)]
    exchange(server, "".join(f"GET /v0/pipes/slow.json {head}{id}\r\n\r\n" for id in ids).encode(), reads=False)
    lines_by_id = lines_of(server, *ids)
    assert {id: [line["status"] for line in each] for id, each in lines_by_id.items()} == {id: [499] for id in ids}


def test_nothing_secret_is_logged(server: Server) -> None:
    """Canaries are in every place of a request that a caller controls, except the name of the token."""
    token = server.mint("PIPES:READ:notes", "DATASOURCES:APPEND:events", tenant="1")
    paths = (
        f"/v0/pipes/notes.json?word={CANARY}",
        f"/v0/pipes/notes.json?{CANARY}=1&token={token}",
        f"/v0/pipes/{CANARY}.json",
        f"/v0/pipes/notes.{CANARY}",
        f"/v0/events?name={CANARY}",
        f"/v0/events/{CANARY}",
        f"/v0/tenants/{CANARY}",
        f"/v0/tokens/{CANARY}",
        f"/{CANARY}",
        f"/live/{token}",
        "/v0/sql?q=" + quote(f"SELECT '{CANARY}' AS x FROM {CANARY}"),
    )
    headers = {
        "idempotency-key": CANARY,
        "x-rookery-tenant": CANARY,
        "user-agent": CANARY,
        "referer": CANARY,
        "cookie": CANARY,
        "x-forwarded-for": CANARY,
        "x-request-id": f"{CANARY} with a space",
        "content-type": f"text/plain; {CANARY}",
    }
    for path in paths:
        for given in (token, f"p.{CANARY}.x", server.admin_token):
            for method, body in (("GET", b""), ("POST", f'{{"tenant_id": 1, "note": "{CANARY}"}}'.encode())):
                url_token = "token=" in path
                server.request(method, path, None if url_token else given, headers=headers, content=body)
                server.request(method, path, None if url_token else given, content=body)
    exchange(server, f"{CANARY} /{CANARY} HTTP/1.1\r\n{CANARY}: {CANARY}\r\n\r\n".encode())
    lines_of(server)
    for text in (server.log(), (server.directory / ".rookery" / "server.log").read_text(encoding="utf-8")):
        leaks = [line for line in text.splitlines() if CANARY in line or token in line or server.admin_token in line]
        assert leaks == []
    metrics = server.admin("GET", "/metrics").text
    assert CANARY not in metrics and token not in metrics


def test_names_cannot_forge_lines(server: Server) -> None:
    """A token's name is the only text of a caller in a line. Terminals and readers of lines must not obey it."""
    forged = "a\n2026-01-01T00:00:00Z [info     ] request   status=200\r\x1b[2J\x9b\x7f\u2028\u202e\x00 b='c' \"d\""
    token = server.mint("PIPES:READ:notes", tenant="1", name=forged)
    assert server.get("/v0/pipes/notes.json", token, headers={"x-request-id": "forged"}).status_code == 200
    assert only(server, "forged")["token"].startswith("a")
    written = (server.directory / ".rookery" / "server.log").read_text(encoding="utf-8")
    for text in (server.log(), written):
        assert all(character.isprintable() or character == "\n" for character in text)
    assert all("timestamp" in json.loads(line) for line in written.split("\n") if line)
    ours = [line for line in server.log().split("\n") if "request_id=forged" in line]
    assert len(ours) == 1 and "\\n2026-01-01" in ours[0]


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 203.0.113.9, 127.0.0.5", "203.0.113.9"),
        ("2001:db8::1", "2001:db8::1"),
        ("made up", "127.0.0.1"),
        ("203.0.113.9, made up", "127.0.0.1"),
        ("", "127.0.0.1"),
        (",".join(["127.0.0.2"] * 100), "127.0.0.2"),
    ],
    ids=range(8),
)
def test_the_address_behind_a_trusted_proxy_is_logged(server: Server, forwarded: str, client: str) -> None:
    id = server.get("/live", headers={"x-forwarded-for": forwarded}).headers["x-request-id"]
    assert only(server, id)["client"] == client


def test_requests_with_their_lines_turned_off_are_counted(tmp_path: Path) -> None:
    with running(tmp_path, ROOKERY_ACCESS_LOG="false", ROOKERY_LOG_FILE_BYTES=0) as server:
        server.push(FILES)
        assert server.admin("GET", "/v0/pipes/notes.json").status_code == 200
        assert server.get("/live", headers={"x-forwarded-for": "203.0.113.9"}).headers["x-request-id"]
        assert total(samples(server), "rookery_requests_total", 'endpoint="notes"') == 1
        assert not (tmp_path / ".rookery" / "server.log").exists()
    assert " request  " not in server.log()


def test_refusals_by_the_connection_and_lines_at_level_debug(tmp_path: Path) -> None:
    limits = {"ROOKERY_BODY_SECONDS": "0.5", "ROOKERY_MAX_CONNECTIONS": "3", "ROOKERY_LOG_LEVEL": "debug"}
    with running(tmp_path, **limits) as server:
        head = f"POST /v0/events?name=x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {server.admin_token}\r\n"
        slow = exchange(server, f"{head}x-request-id: slow\r\ncontent-length: 9\r\n\r\n{{".encode())
        assert (
            slow.startswith(b"HTTP/1.1 408") and b"x-request-id: slow\r\n" in slow and b'"request_id":"slow"' in slow
        )
        line = only(server, "slow")
        assert (line["status"], line["code"], line["route"]) == (408, "RK4024", "/v0/events")
        assert "aborted" not in line

        host, port = urlsplit(server.url).hostname, urlsplit(server.url).port
        open_ones = [socket.create_connection((host, port), timeout=30) for _ in range(2)]
        refused = exchange(server, b"")
        for connection in open_ones:
            connection.close()
        assert refused.startswith(b"HTTP/1.1 503")
        line = only(server, json.loads(refused.partition(b"\r\n\r\n")[2])["request_id"])
        assert (line["status"], line["code"], line.get("method")) == (503, "RK4026", None)
        metrics = samples(server)
        assert total(metrics, "rookery_requests_total", 'status="408"', 'route="/v0/events"') == 1
        assert total(metrics, "rookery_errors_total", 'code="RK4026"') == 1

        server.admin("POST", "/v0/sql", content="SELEC 1")
        server.get(f"/made/{server.admin_token}/\u2028up", headers={"x-request-id": "with-a-path"})
        path = only(server, "with-a-path")["path"]
        assert path.startswith("/made/[token]")
        written = (tmp_path / ".rookery" / "server.log").read_text(encoding="utf-8")
        assert all(line.isprintable() for line in written.split("\n"))
        failures = [json.loads(line) for line in written.splitlines() if "RK2001" in line or "SELEC" in line]
        assert failures and all(len(json.dumps(event)) < 2500 for event in failures)
        assert server.admin_token not in written
