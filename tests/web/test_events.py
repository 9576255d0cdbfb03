"""Events: what is stored, what is quarantined, and that a refused request stores nothing."""

from __future__ import annotations

import gzip
import json
from itertools import product

import httpx
import pytest
from backports import zstd

from tests.support.server import Server
from tests.support.soak import sampled
from tests.web.conftest import MAX_BODY
from tests.web.inbox import Send, count, delivered, mark, quarantined, stored
from tests.web.responses import data, refused


@pytest.fixture(scope="module")
def server(inbox: Server) -> Server:
    return inbox


@pytest.mark.proves("B2", "A8")
def test_wait_parameter(server: Server) -> None:
    for wait, status in (("true", 200), ("1", 200), ("false", 202), ("0", 202), (None, 202)):
        m = mark()
        params = {"name": "events", **({"wait": wait} if wait else {})}
        body = json.dumps({"tenant_id": 2, "note": m})
        response = server.post("/v0/events", server.admin_token, params=params, content=body)
        assert (response.status_code, response.json()) == (status, {"successful_rows": 1, "quarantined_rows": 0})
        assert len(stored(server, m)) == 1, "stored before it is acknowledged"
    error = refused(server.post("/v0/events?name=events&wait=maybe", server.admin_token, content="{}"), 400, "RK4009")
    assert "visible" in error["error"]


@pytest.mark.proves("B2")
@pytest.mark.parametrize(
    "shape",
    [
        "{0}",
        "{0}\n",
        "{0}\r\n{1}\r\n",
        "\n\n{0}\n \n\t{1}\n",
        "\ufeff{0}\n{1}",
        "[{0},{1}]",
        "[\n {0},\n {1}\n]",
        "{0} {1}",
    ],
)
def test_shapes_of_batches(server: Server, send: Send, shape: str) -> None:
    m = mark()
    rows = [json.dumps({"tenant_id": 1, "note": m, "units": n}) for n in (1, 2)]
    expected = 2 if "{1}" in shape else 1
    assert send(shape.replace("{0}", rows[0]).replace("{1}", rows[1])).json()["successful_rows"] == expected
    assert [r[1] for r in stored(server, m)] == [1, 2][:expected]


def test_pretty_printed_object(server: Server, send: Send) -> None:
    m = mark()
    assert send(json.dumps({"tenant_id": 1, "note": m, "page": {"path": "/a"}}, indent=2)).status_code == 200
    assert stored(server, m) == [[1, 1, "/a", 0, []]]


@pytest.mark.guard
@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", "application/octet-stream"]
)
def test_content_types_that_do_not_name_a_format(server: Server, kind: str) -> None:
    m = mark()
    body = json.dumps({"tenant_id": 1, "note": m})
    params = {"name": "events", "format": "ndjson", "mode": "append"}
    headers = {"content-type": kind}
    assert server.post("/v0/events", server.admin_token, params=params, content=body, headers=headers).is_success
    assert len(stored(server, m)) == 1


@pytest.mark.parametrize("body", ['{"tenant_id": 1}', b"\x1f\x8b", "not JSON"])
@pytest.mark.parametrize("token", ["admin", "wrong", ""])
def test_browsers_and_programs_get_the_same_response(server: Server, body: str | bytes, token: str) -> None:
    """A browser's request has an Origin header and passes the CORS middleware."""
    given = {"admin": server.admin_token, "wrong": "p.x.y"}.get(token)
    path, origin = "/v0/events?name=events&wait=true", {"origin": "https://app.example"}
    same_id = {"x-request-id": "a-test"}
    program = server.post(path, given, content=body, headers=same_id)
    page = server.post(path, given, content=body, headers=origin | same_id)
    assert page.status_code == program.status_code and page.json() == program.json()
    assert page.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in program.headers
    assert ("server-timing" in program.headers) == (program.status_code == 200)


def test_a_chunked_body(server: Server) -> None:
    """Also one without a length, and one whose first chunk does not show that it is compressed."""
    body = b'{"tenant_id": 1}\n{"tenant_id": 2}'
    packed = gzip.compress(body)
    for pieces in ([body[:5], body[5:]], [body], [packed[:1], packed[1:]], [packed], [b"", body]):
        response = server.post("/v0/events?name=events&wait=true", server.admin_token, content=iter(pieces))
        assert response.json() == {"successful_rows": 2, "quarantined_rows": 0}


def test_an_empty_body_stores_nothing(server: Server, send: Send) -> None:
    for body in ("", "\n", " \r\n "):
        assert send(body).json() == {"successful_rows": 0, "quarantined_rows": 0}


BROKEN = [
    "not json",
    '{"tenant_id": 1',
    '{"tenant_id": 1, "units": "x"}',
    '{"tenant_id": 1, "units": 32768}',
    '{"tenant_id": 1, "units": -32769}',
    '{"tenant_id": 1, "units": 65541}',
    '{"tenant_id": 1, "units": 18446744073709551621}',
    '{"tenant_id": 1, "units": 340282366920938463463374607431768211461}',
    '{"tenant_id": 1, "units": "340282366920938463463374607431768211461"}',
    '{"tenant_id": 1, "units": 1' + "0" * 400 + "}",
    '{"tenant_id": 1, "units": 1.5}',
    '{"tenant_id": 1, "units": [1]}',
    '{"tenant_id": 1, "note": "a", "note": "b"}',
    '{"tenant_id": 1, "note": null, "note": "b"}',
    '{"tenant_id": 1, "at": "yesterday"}',
    '{"tenant_id": 1, "at": "2026-13-01 00:00:00"}',
    '{"tenant_id": 1, "page": "/a"}',
    '{"tenant_id": 1, "page": {"how deep": 40000}}',
    '{"tenant_id": 1, "page": {"how deep": "deep"}}',
    '{"tenant_id": 1, "page": {"how deep": 1.5}}',
    '{"tenant_id": 1, "tags": "a"}',
    '{"tenant_id": 1, "note": "\\ud800"}',
    '"text"',
    "5",
    "null",
    "[1, 2]",
]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_each_broken_line_of_a_batch_is_quarantined(server: Server, send: Send, ending: str) -> None:
    m = mark()
    good = [json.dumps({"tenant_id": 1, "note": m, "units": n}) for n in range(len(BROKEN) + 1)]
    lines = [line for pair in zip(good, BROKEN, strict=False) for line in pair]
    answer = send(ending.join([*lines, good[-1]])).json()
    assert (answer["successful_rows"], answer["quarantined_rows"]) == (len(good), len(BROKEN))
    path, newest = "/v0/datasources/events/quarantine", {"limit": len(BROKEN)}
    rows = server.admin_json("GET", path, params=newest)["rows"]
    assert {(r["c__text"], r["c__row"]) for r in rows} == {(bad, 2 * n + 1) for n, bad in enumerate(BROKEN)}
    assert [r[1] for r in stored(server, m)] == list(range(len(good)))
    assert delivered(server, m) == len(good)


@pytest.mark.parametrize(("bad", "ending"), sampled(product(BROKEN, ["\n", "\r\n"]), 13), ids=lambda b: b[:60])
def test_a_broken_line_is_quarantined_and_its_neighbors_are_stored(
    server: Server, send: Send, bad: str, ending: str
) -> None:
    m = mark()
    good = [json.dumps({"tenant_id": 1, "note": m, "units": n}) for n in range(3)]
    row = quarantined(server, send(ending.join([good[0], "", good[1], bad, good[2]])), beside=3)
    assert (row["c__text"], row["c__row"]) == (bad, 2)
    assert [r[1] for r in stored(server, m)] == [0, 1, 2]
    assert delivered(server, m) == 3


def test_keys_are_case_insensitive(server: Server, send: Send) -> None:
    """Keys are case-insensitive; the value follows the same rule."""
    m = mark()
    assert send(json.dumps({"TENANT_ID": 2, "note": m})).status_code == 200
    assert [r[0] for r in stored(server, m)] == [2]
    assert quarantined(server, send('{"TENANT_ID": "02"}'))["c__error_column"] == ["tenant_id"]


def test_null_is_absent(server: Server, send: Send) -> None:
    m = mark()
    body = {"tenant_id": 1, "note": m, "units": None, "at": None, "kind": None, "page": {"path": None}}
    assert send(json.dumps(body)).status_code == 200
    assert stored(server, m, "units, kind, page, at") == [[1, "view", "-", "2026-01-01 00:00:00"]]


def test_times_are_not_clamped(server: Server, send: Send) -> None:
    times = ('"2200-01-01 00:00:00"', '"1900-01-01 00:00:00"', "99999999999", "-5")
    good = '{"tenant_id": 1}'
    answer = send("\n".join(f'{good}\n{{"tenant_id": 1, "at": {at}}}' for at in times)).json()
    assert (answer["successful_rows"], answer["quarantined_rows"]) == (len(times), len(times))
    newest = {"limit": len(times)}
    rows = server.admin_json("GET", "/v0/datasources/events/quarantine", params=newest)["rows"]
    for row, at in zip(sorted(rows, key=lambda r: r["c__row"]), times, strict=True):
        assert row["c__error_column"] == ["at"]
        assert at.strip('"') in row["c__error"][0] and "DateTime" in row["c__error"][0]


def test_json_paths(server: Server, send: Send) -> None:
    m = mark()
    page = {"path": "/x", "how deep": -32768, "other": {"y": 1}}
    assert send(json.dumps({"tenant_id": 1, "note": m, "page": page, "tags": ["a", "b"]})).status_code == 200
    assert stored(server, m) == [[1, 1, "/x", -32768, ["a", "b"]]]
    m = mark()
    for body in ({}, {"page": {}}, {"page": {"other": 1}}, {"path": "/top"}, {"page.path": "/dotted"}):
        assert send(json.dumps({"tenant_id": 1, "note": m, **body})).status_code == 200
    assert {r[2] for r in stored(server, m)} == {"-"}


def test_integers_of_every_width(server: Server, send: Send) -> None:
    def row(**values: object) -> httpx.Response:
        return send(json.dumps({"who": {"org": 77}, **values}), "clicks")

    for fine in ({"big": 2**64 - 1}, {"wide": -(2**255)}, {"few": None}, {"few": -128}, {"list": [127, -128]}):
        assert row(**fine).status_code == 200
    every = (
        {"big": 2**64},
        {"big": -1},
        {"big": 2**128 + 5},
        {"wide": 2**255},
        {"wide": 2**256 + 5},
        {"few": 128},
        {"few": 2**64 + 5},
        {"few": 2**128 + 5},
        {"list": [1, 128]},
        {"list": [2**128 + 5]},
    )
    assert quarantined(server, row(**every[0]), "clicks")["c__error_column"] == list(every[0])
    together = [json.dumps({"who": {"org": 77}, **bad}) for bad in every]
    assert send("\n".join(together), "clicks").json()["quarantined_rows"] == len(every)
    newest = {"limit": len(every)}
    kept = server.admin_json("GET", "/v0/datasources/clicks/quarantine", params=newest)["rows"]
    assert [r["c__error_column"] for r in sorted(kept, key=lambda r: r["c__row"])] == [list(bad) for bad in every]
    rows = server.sql("SELECT big, toString(wide) AS wide, few, list FROM clicks WHERE org = 77")
    assert {r["big"] for r in rows} == {1, 2**64 - 1}
    assert {r["few"] for r in rows} == {None, -128}
    assert {r["wide"] for r in rows} == {"1", str(-(2**255))}


def test_too_large_bodies_are_refused(server: Server) -> None:
    path, line = "/v0/events?name=events", b'{"tenant_id": 1, "note": "too large"}\n'
    refused(server.post(path, server.admin_token, content=line * (MAX_BODY // len(line) + 1)), 413, "RK5004")
    refused(server.post(path, server.admin_token, content=iter([line * 2000] * 5)), 413, "RK5004")
    assert stored(server, "too large") == []
    refused(server.post("/v0/push", server.admin_token, content=b" " * (MAX_BODY + 1)), 413, "RK5004")


def test_compressed_bodies(server: Server) -> None:
    """gzip and Zstandard, named or not; corrupt, truncated, unknown or too large bodies store nothing."""
    path = "/v0/events?name=events&wait=true"

    def post(body: bytes, encoding: str | None = None) -> httpx.Response:
        headers = {"content-encoding": encoding} if encoding else {}
        return server.post(path, server.admin_token, content=body, headers=headers)

    m = mark()
    text = json.dumps({"tenant_id": 1, "note": m}).encode()
    for pack, name in ((gzip.compress, "gzip"), (zstd.compress, "zstd")):
        for encoding in (name, None):
            assert post(pack(text), encoding).json() == {"successful_rows": 1, "quarantined_rows": 0}
        before = count(server)
        for body in (
            pack(text)[:-3],
            pack(text) + b"x",
            text if name == "gzip" else text[:-1],
            pack(text)[:5] + text,
        ):
            refused(post(body, name), 400, "RK5007")
        refused(post(pack(text * (MAX_BODY // len(text) + 1)), name), 413, "RK5004")
        assert count(server) == before
    refused(post(text, "br"), 400, "RK5007")
    assert len(stored(server, m)) == 4
    answer = server.post("/v0/push", server.admin_token, content=gzip.compress(b"{}"))
    assert "compressed" in refused(answer, 400, "RK5007")["error"], "only rows are taken compressed"


def test_datasources_that_accept_no_rows(server: Server, send: Send) -> None:
    for name in ("nonesuch", "by_kind", "events; DROP TABLE events", "EVENTS", "main.events", "../events", "\u0000"):
        refused(send('{"tenant_id": 1}', name), 404, "RK5005")
    assert "fill_daily" in refused(send('{"tenant_id": 1}', "daily"), 400, "RK5006")["error"]
    refused(server.post("/v0/events", server.admin_token, content="{}"), 400, "RK4009")
    refused(server.post("/v0/events?name=", server.admin_token, content="{}"), 400, "RK4009")
    refused(server.post("/v0/events?name=events&name=prices", server.admin_token, content="{}"), 400, "RK4009")


@pytest.mark.proves("A8", "B6")
def test_rows_are_visible_at_once_to_their_tenant_only(server: Server) -> None:
    m = mark()
    tokens = {t: server.mint("PIPES:READ:raw", "PIPES:READ:by_kind", tenant=t) for t in ("1", "2")}
    server.events("events", [{"tenant_id": t, "note": m, "kind": m} for t in (1, 1, 2, 3)])
    for tenant, rows in (("1", 2), ("2", 1)):
        raw = data(server.get("/v0/pipes/raw.json", tokens[tenant]))
        assert sum(r["note"] == m for r in raw) == rows
        assert data(server.get(f"/v0/pipes/by_kind.json?kind={m}", tokens[tenant]))[0]["events"] == rows


def test_two_files_with_the_same_name_are_refused(server: Server) -> None:
    files = [
        {"name": "pair", "file": "datasources/pair.yaml", "text": "columns:\n  - {name: a, type: UInt8}\n"},
        {"name": "pair", "file": "pipes/pair.yaml", "text": "sql: SELECT 1 AS a\n"},
    ]
    body = {"files": files, "dry_run": True}
    error = refused(server.post("/v0/push", server.admin_token, json=body), 400, "RK1007")
    assert "datasources/pair.yaml" in error["error"] and "pipes/pair.yaml" in error["error"]


@pytest.mark.parametrize("file", ["datasources/other.yaml", "other/pair", "pair.yaml/", ""])
@pytest.mark.parametrize("route", ["push", "materialize"])
def test_a_file_whose_name_is_not_that_of_its_resource_is_refused(server: Server, route: str, file: str) -> None:
    body: dict[str, object] = {"files": [{"name": "pair", "file": file, "text": "sql: SELECT 1 AS a\n"}]}
    body |= {"dry_run": True} if route == "push" else {"pipe": "pair", "target": "to"}
    error = refused(server.post(f"/v0/{route}", server.admin_token, json=body), 400, "RK1005")
    assert f'"{file}"' in error["error"]
