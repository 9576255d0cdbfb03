"""Events: what is taken, what is refused, and that a refused batch leaves nothing behind."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.support.server import Server
from tests.web.answers import data, refused
from tests.web.conftest import MAX_BODY

Send = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def server(inbox: Server) -> Server:
    return inbox


@pytest.fixture
def send(server: Server) -> Iterator[Send]:
    """Post to /v0/events as admin; whatever was refused must have stored nothing."""

    def post(body: str | bytes, name: str = "events", token: str | None = None, **params: str) -> httpx.Response:
        before = count(server)
        given = {"name": name, "wait": "true", **params}
        response = server.post("/v0/events", token or server.admin_token, params=given, content=body)
        if response.status_code >= 400:
            assert count(server) == before
        else:
            assert sum(count(server)) - sum(before) == response.json()["successful_rows"]
        return response

    yield post


def count(server: Server) -> list[int]:
    found = server.sql(
        "SELECT (SELECT count() FROM events) AS a, (SELECT count() FROM notes) AS b, "
        "(SELECT count() FROM clicks) AS c, (SELECT count() FROM prices) AS d"
    )
    return list(found[0].values())


_marks = itertools.count()


def stored(server: Server, mark: str, columns: str = "tenant_id, units, page, depth, tags") -> list[list[object]]:
    rows = server.sql(f"SELECT {columns} FROM events WHERE note = '{mark}' ORDER BY tenant_id, units")
    return [list(r.values()) for r in rows]


def mark() -> str:
    return f"mark-{next(_marks)}"


@pytest.mark.proves("B2", "A8")
def test_wait_and_not(server: Server) -> None:
    for wait, status in (("true", 200), ("1", 200), ("false", 202), ("0", 202), (None, 202)):
        m = mark()
        params = {"name": "events", **({"wait": wait} if wait else {})}
        body = json.dumps({"tenant_id": 2, "note": m})
        response = server.post("/v0/events", server.admin_token, params=params, content=body)
        assert (response.status_code, response.json()) == (status, {"successful_rows": 1, "quarantined_rows": 0})
        assert len(stored(server, m)) == 1, "stored before it is acknowledged"
    refused(server.post("/v0/events?name=events&wait=maybe", server.admin_token, content="{}"), 400, "RK4009")


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


def test_a_pretty_printed_object(server: Server, send: Send) -> None:
    m = mark()
    assert send(json.dumps({"tenant_id": 1, "note": m, "page": {"path": "/a"}}, indent=2)).status_code == 200
    assert stored(server, m) == [[1, 1, "/a", 0, []]]


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", "x/y"])
def test_content_types_do_not_matter(server: Server, kind: str) -> None:
    m = mark()
    body = json.dumps({"tenant_id": 1, "note": m})
    params = {"name": "events", "format": "ndjson", "mode": "append"}
    headers = {"content-type": kind}
    assert server.post("/v0/events", server.admin_token, params=params, content=body, headers=headers).is_success
    assert len(stored(server, m)) == 1


def test_nothing_is_sent(server: Server, send: Send) -> None:
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


@pytest.mark.parametrize("bad", BROKEN, ids=lambda b: b[:60])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_broken_line_is_named_and_nothing_is_stored(server: Server, send: Send, bad: str, ending: str) -> None:
    m = mark()
    good = json.dumps({"tenant_id": 1, "note": m})
    body = refused(send(ending.join([good, "", good, bad, good])), 400, "RK5001")
    assert body["error"].startswith("line 4: ")
    assert stored(server, m) == []


TENANTS = [
    '{"note": "no tenant"}',
    "{}",
    '{"tenant_id": null}',
    '{"tenant_id": "01"}',
    '{"tenant_id": 01}',
    '{"tenant_id": 1.0}',
    '{"tenant_id": "1.0"}',
    '{"tenant_id": 1e0}',
    '{"tenant_id": true}',
    '{"tenant_id": "true"}',
    '{"tenant_id": -1}',
    '{"tenant_id": -0}',
    '{"tenant_id": "+1"}',
    '{"tenant_id": " 1"}',
    '{"tenant_id": "1 "}',
    '{"tenant_id": "1\\u0000"}',
    '{"tenant_id": ""}',
    '{"tenant_id": "\uff11"}',
    '{"tenant_id": "\\u00b9"}',
    '{"tenant_id": 4294967296}',
    '{"tenant_id": 4294967297}',
    '{"tenant_id": 18446744073709551617}',
    '{"tenant_id": 340282366920938463463374607431768211457}',
    '{"tenant_id": [1]}',
    '{"tenant_id": {"id": 1}}',
    '{"tenant_id": "nan"}',
    '{"tenant": 1}',
    '{"tenant_id ": 1}',
]


@pytest.mark.proves("D11")
@pytest.mark.parametrize("bad", TENANTS)
def test_a_tenant_that_is_not_canonical(server: Server, send: Send, bad: str) -> None:
    good = json.dumps({"tenant_id": 1, "note": "beside a bad tenant"})
    for body, line in ((f"{good}\n{bad}\n{good}", 2), (bad, 1)):
        found = refused(send(body), 400)
        assert found["code"] in ("RK5001", "RK5002") and found["error"].startswith(f"line {line}: ")
    assert stored(server, "beside a bad tenant") == []


@pytest.mark.proves("D11")
@pytest.mark.parametrize(
    "bad",
    [
        '{"tenant_id": 1, "tenant_id": 2}',
        '{"tenant_id": 1, "tenant_id": 1}',
        '{"tenant_id": 1, "TENANT_ID": 2}',
        '{"TENANT_ID": 2, "tenant_id": 1}',
        '{"tenant_id": 1, "tenant\\u005fid": 2}',
    ],
)
def test_a_tenant_is_given_once(send: Send, bad: str) -> None:
    refused(send(bad), 400, "RK5001")


def test_a_key_in_other_case_is_the_same_key(server: Server, send: Send) -> None:
    """Keys are matched without regard to case; the value is held to the same rule."""
    m = mark()
    assert send(json.dumps({"TENANT_ID": 2, "note": m})).status_code == 200
    assert [r[0] for r in stored(server, m)] == [2]
    refused(send('{"TENANT_ID": "02"}'), 400, "RK5002")


@pytest.mark.parametrize(
    "owner, fine",
    [
        ("a b", True),
        ("\u00e9", True),
        ("x" * 256, True),
        ("x" * 257, False),
        ("\u00e9" * 129, False),
        ("", False),
        ("a\nb", False),
        ("a\tb", False),
        ("a\x7fb", False),
        ("a\u0085b", False),
        ("a\u2028b", False),
        ("a\u2029b", False),
        ("e\u0301", False),
    ],
    ids=repr,
)
def test_text_tenants_follow_the_rule_of_tenant_ids(send: Send, owner: str, fine: bool) -> None:
    response = send(json.dumps({"owner": owner, "text": "x"}), "notes")
    if fine:
        assert response.status_code == 200
    else:
        refused(response, 400, "RK5002")


def test_text_tenants_are_utf8(send: Send) -> None:
    refused(send(b'{"owner": "\xff", "text": "x"}', "notes"), 400, "RK5002")


def test_null_is_absent(server: Server, send: Send) -> None:
    m = mark()
    body = {"tenant_id": 1, "note": m, "units": None, "at": None, "kind": None, "page": {"path": None}}
    assert send(json.dumps(body)).status_code == 200
    assert stored(server, m, "units, kind, page, at") == [[1, "view", "-", "2026-01-01 00:00:00"]]


def test_times_are_not_bent_into_range(send: Send) -> None:
    for at in ('"2200-01-01 00:00:00"', '"1900-01-01 00:00:00"', "99999999999", "-5"):
        good = '{"tenant_id": 1}'
        body = refused(send(f'{good}\n{{"tenant_id": 1, "at": {at}}}\n{good}'), 400, "RK5001")
        assert "`at`" in body["error"] or "key at" in body["error"]


def test_json_paths(server: Server, send: Send) -> None:
    m = mark()
    page = {"path": "/x", "how deep": -32768, "other": {"y": 1}}
    assert send(json.dumps({"tenant_id": 1, "note": m, "page": page, "tags": ["a", "b"]})).status_code == 200
    assert stored(server, m) == [[1, 1, "/x", -32768, ["a", "b"]]]
    m = mark()
    for body in ({}, {"page": {}}, {"page": {"other": 1}}, {"path": "/top"}, {"page.path": "/dotted"}):
        assert send(json.dumps({"tenant_id": 1, "note": m, **body})).status_code == 200
    assert {r[2] for r in stored(server, m)} == {"-"}


@pytest.mark.proves("D11")
def test_a_tenant_deep_in_the_event(server: Server, send: Send) -> None:
    for org in ("1", 1, 4294967295):
        assert send(json.dumps({"who": {"org": org}}), "clicks").status_code == 200
    for org in ('"01"', "1.0", "true", "null", "-1", "4294967296", "18446744073709551617", "[1]", '{"a": 1}', '""'):
        refused(send(f'{{"who": {{"org": {org}}}}}', "clicks"), 400)
    for body in ("{}", '{"who": {}}', '{"org": 1}', '{"who": 1}', '{"who": {"org": 1, "org": 2}}', '{"who.org": 1}'):
        refused(send(body, "clicks"), 400)


def test_integers_of_every_width(server: Server, send: Send) -> None:
    def row(**values: object) -> httpx.Response:
        return send(json.dumps({"who": {"org": 77}, **values}), "clicks")

    for fine in ({"big": 2**64 - 1}, {"wide": -(2**255)}, {"few": None}, {"few": -128}, {"list": [127, -128]}):
        assert row(**fine).status_code == 200
    for bad in (
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
    ):
        assert refused(row(**bad), 400, "RK5001")["error"].startswith("line 1: ")
    found = server.sql("SELECT big, toString(wide) AS wide, few, list FROM clicks WHERE org = 77")
    assert {r["big"] for r in found} == {1, 2**64 - 1}
    assert {r["few"] for r in found} == {None, -128}
    assert {r["wide"] for r in found} == {"1", str(-(2**255))}


def test_too_large(server: Server) -> None:
    path, line = "/v0/events?name=events", b'{"tenant_id": 1, "note": "too large"}\n'
    refused(server.post(path, server.admin_token, content=line * (MAX_BODY // len(line) + 1)), 413, "RK5004")
    refused(server.post(path, server.admin_token, content=iter([line * 2000] * 5)), 413, "RK5004")
    assert stored(server, "too large") == []
    refused(server.post("/v0/push", server.admin_token, content=b" " * (MAX_BODY + 1)), 413, "RK5004")


def test_compressed_bodies_are_refused_clearly(server: Server) -> None:
    body = gzip.compress(b'{"tenant_id": 1}')
    for headers in ({"content-encoding": "gzip"}, {"content-encoding": "br"}, {}):
        answer = server.post("/v0/events?name=events", server.admin_token, content=body, headers=headers)
        assert "compressed" in refused(answer, 400, "RK5007")["error"]


def test_where_rows_cannot_go(server: Server, send: Send) -> None:
    for name in ("nonesuch", "by_kind", "events; DROP TABLE events", "EVENTS", "main.events", "../events", "\u0000"):
        refused(send('{"tenant_id": 1}', name), 404, "RK5005")
    assert "fill_daily" in refused(send('{"tenant_id": 1}', "daily"), 400, "RK5006")["error"]
    refused(server.post("/v0/events", server.admin_token, content="{}"), 400, "RK4009")
    refused(server.post("/v0/events?name=", server.admin_token, content="{}"), 400, "RK4009")
    refused(server.post("/v0/events?name=events&name=prices", server.admin_token, content="{}"), 400, "RK4009")


@pytest.mark.proves("D11")
def test_append_tokens(server: Server, send: Send) -> None:
    token = server.static("appends", "DATASOURCES:APPEND:events")
    m = mark()
    assert send("\n".join(json.dumps({"tenant_id": t, "note": m}) for t in (1, 2, 3)), token=token).is_success
    refused(send('{"owner": "1", "text": "x"}', "notes", token=token), 403, "RK4003")
    refused(send("{}", "nonesuch", token=token), 403, "RK4003")
    reader = server.mint("DATASOURCES:READ:events", "PIPES:READ:raw", tenant="1")
    refused(send('{"tenant_id": 1}', token=reader), 403, "RK4003")
    refused(server.post("/v0/events?name=events", content="{}"), 403, "RK4001")
    refused(server.post("/v0/events?name=events&token=bad", content="{}"), 403, "RK4002")


@pytest.mark.proves("D11")
@pytest.mark.parametrize("kind", ["static", "jwt"])
def test_an_append_token_of_a_tenant_writes_that_tenant_only(server: Server, send: Send, kind: str) -> None:
    make = server.mint if kind == "jwt" else lambda *a, **k: server.static("appends for 2", *a, **k)
    token = make("DATASOURCES:APPEND:events", tenant="2")
    m = mark()
    for fine in (
        {"note": m},
        {"tenant_id": 2, "note": m},
        {"tenant_id": "2", "note": m},
        {"tenant_id": None, "note": m},
    ):
        assert send(json.dumps(fine), token=token).status_code == 200
    assert [r[0] for r in stored(server, m)] == [2, 2, 2, 2]
    own = json.dumps({"note": "beside a foreign row"})
    for foreign in ("1", '"1"', '"02"', "2.0", "true", '""', "-2", "4294967298", '{"a": 2}', '"2 "'):
        body = refused(send(f'{own}\n{{"tenant_id": {foreign}}}', token=token), 403, "RK5003")
        assert body["error"].startswith("line 2: ")
    refused(send('{"TENANT_ID": 1}', token=token), 403, "RK5003")
    refused(send('{"tenant_id": 2, "tenant_id": 1}', token=token), 400, "RK5001")
    refused(send('{"tenant_id": 2, "TENANT_ID": 1}', token=token), 400, "RK5001")
    assert stored(server, "beside a foreign row") == []


@pytest.mark.proves("A8", "B6")
def test_rows_are_visible_at_once_to_their_tenant_only(server: Server) -> None:
    m = mark()
    tokens = {t: server.mint("PIPES:READ:raw", "PIPES:READ:by_kind", tenant=t) for t in ("1", "2")}
    server.events("events", [{"tenant_id": t, "note": m, "kind": m} for t in (1, 1, 2, 3)])
    for tenant, rows in (("1", 2), ("2", 1)):
        raw = data(server.get("/v0/pipes/raw.json", tokens[tenant]))
        assert sum(r["note"] == m for r in raw) == rows
        assert data(server.get(f"/v0/pipes/by_kind.json?kind={m}", tokens[tenant]))[0]["events"] == rows
