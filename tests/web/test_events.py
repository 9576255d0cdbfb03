"""Events: what is stored, what is quarantined, and that a refused request stores nothing."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from backports import zstd

from tests.support.server import Server
from tests.web.conftest import MAX_BODY
from tests.web.responses import data, refused

Send = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def server(inbox: Server) -> Server:
    return inbox


@pytest.fixture
def send(server: Server) -> Iterator[Send]:
    """Post to /v0/events as admin; the response's counts are exact, and a refused request stored nothing."""

    def post(body: str | bytes, name: str = "events", token: str | None = None, **params: str) -> httpx.Response:
        before = count(server)
        given = {"name": name, "wait": "true", **params}
        response = server.post("/v0/events", token or server.admin_token, params=given, content=body)
        after = count(server)
        if response.status_code >= 400:
            assert after == before
        else:
            found = response.json()
            assert sum(after[:4]) - sum(before[:4]) == found["successful_rows"]
            assert sum(after[4:]) - sum(before[4:]) == found["quarantined_rows"]
        return response

    yield post


def count(server: Server) -> list[int]:
    """Rows of four datasources, then rows in their quarantines."""
    found = server.sql(
        "SELECT (SELECT count() FROM events) AS a, (SELECT count() FROM notes) AS b, "
        "(SELECT count() FROM clicks) AS c, (SELECT count() FROM prices) AS d"
    )
    names = ("events", "notes", "clicks", "prices")
    return [*found[0].values(), *(quarantine(server, name)["total"] for name in names)]


def quarantine(server: Server, name: str) -> Any:
    return server.admin_json("GET", f"/v0/datasources/{name}/quarantine", params={"limit": 1})


def quarantined(server: Server, response: httpx.Response, name: str = "events", *, beside: int = 0) -> dict[str, Any]:
    """The only row of a request that went to quarantine; `beside` others are stored."""
    assert response.status_code == 200, response.text
    answer = response.json()
    first = answer.pop("first_bad_row")
    answer.pop("unknown_keys", None)
    assert answer == {"successful_rows": beside, "quarantined_rows": 1}
    found: dict[str, Any] = quarantine(server, name)["rows"][0]
    columns = [c for c in found["c__error_column"] if c]
    assert first == {"row": found["c__row"] + 1, "columns": columns, "reason": "; ".join(found["c__error"])}
    assert found["c__error"] and all(found["c__error"]) and len(found["c__error"]) == len(found["c__error_column"])
    return found


def delivered(server: Server, mark: str, tenant: str = "1") -> int:
    """Rows of a mark that a tenant reads; tenant 1 reads them from its nest."""
    rows = data(server.get("/v0/pipes/raw.json", server.mint("PIPES:READ:raw", tenant=tenant)))
    return sum(r["note"] == mark for r in rows)


_marks = itertools.count()


def stored(server: Server, mark: str, columns: str = "tenant_id, units, page, depth, tags") -> list[list[object]]:
    rows = server.sql(f"SELECT {columns} FROM events WHERE note = '{mark}' ORDER BY tenant_id, units")
    return [list(r.values()) for r in rows]


def mark() -> str:
    return f"mark-{next(_marks)}"


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


@pytest.mark.parametrize("bad", BROKEN, ids=lambda b: b[:60])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_broken_line_is_quarantined_and_its_neighbors_are_stored(
    server: Server, send: Send, bad: str, ending: str
) -> None:
    m = mark()
    good = [json.dumps({"tenant_id": 1, "note": m, "units": n}) for n in range(3)]
    row = quarantined(server, send(ending.join([good[0], "", good[1], bad, good[2]])), beside=3)
    assert (row["c__text"], row["c__row"]) == (bad, 2)
    assert [r[1] for r in stored(server, m)] == [0, 1, 2]
    assert delivered(server, m) == 3


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
def test_a_tenant_id_that_is_not_canonical(server: Server, send: Send, bad: str) -> None:
    m = mark()
    good = json.dumps({"tenant_id": 1, "note": m})
    before = tenants(server)
    for body, number in ((f"{good}\n{bad}\n{good}", 1), (bad, 0)):
        row = quarantined(server, send(body), beside=2 * number)
        assert (row["c__text"], row["c__row"]) == (bad, number)
        assert row["c__error_column"] in (["tenant_id"], [""])
        assert row["c__error_column"] == ["tenant_id"] or not is_json(bad)
    assert tenants(server) == before, "a row without a tenant reached a tenant"
    assert len(stored(server, m)) == delivered(server, m) == 2


def tenants(server: Server) -> list[Any]:
    return server.sql("SELECT tenant_id FROM events GROUP BY tenant_id ORDER BY tenant_id")


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


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
def test_a_duplicate_tenant_key_is_quarantined(server: Server, send: Send, bad: str) -> None:
    assert quarantined(server, send(bad))["c__text"] == bad


def test_keys_are_case_insensitive(server: Server, send: Send) -> None:
    """Keys are case-insensitive; the value follows the same rule."""
    m = mark()
    assert send(json.dumps({"TENANT_ID": 2, "note": m})).status_code == 200
    assert [r[0] for r in stored(server, m)] == [2]
    assert quarantined(server, send('{"TENANT_ID": "02"}'))["c__error_column"] == ["tenant_id"]


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
def test_text_tenants_follow_the_rules_for_tenant_ids(server: Server, send: Send, owner: str, fine: bool) -> None:
    response = send(json.dumps({"owner": owner, "text": "x"}), "notes")
    if fine:
        assert response.json()["successful_rows"] == 1
    else:
        assert quarantined(server, response, "notes")["c__error_column"] == ["owner"]


def test_text_tenants_are_utf8(server: Server, send: Send) -> None:
    row = quarantined(server, send(b'{"owner": "\xff", "text": "x"}', "notes"), "notes")
    assert row["c__text"] == '{"owner": "\ufffd", "text": "x"}'


def test_null_is_absent(server: Server, send: Send) -> None:
    m = mark()
    body = {"tenant_id": 1, "note": m, "units": None, "at": None, "kind": None, "page": {"path": None}}
    assert send(json.dumps(body)).status_code == 200
    assert stored(server, m, "units, kind, page, at") == [[1, "view", "-", "2026-01-01 00:00:00"]]


def test_times_are_not_clamped(server: Server, send: Send) -> None:
    for at in ('"2200-01-01 00:00:00"', '"1900-01-01 00:00:00"', "99999999999", "-5"):
        good = '{"tenant_id": 1}'
        row = quarantined(server, send(f'{good}\n{{"tenant_id": 1, "at": {at}}}\n{good}'), beside=2)
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


@pytest.mark.proves("D11")
def test_a_tenant_deep_in_the_event(server: Server, send: Send) -> None:
    for org in ("1", 1, 4294967295):
        assert send(json.dumps({"who": {"org": org}}), "clicks").status_code == 200
    for org in ('"01"', "1.0", "true", "null", "-1", "4294967296", "18446744073709551617", "[1]", '{"a": 1}', '""'):
        assert quarantined(server, send(f'{{"who": {{"org": {org}}}}}', "clicks"), "clicks")["c__row"] == 0
    for body in ("{}", '{"who": {}}', '{"org": 1}', '{"who": 1}', '{"who": {"org": 1, "org": 2}}', '{"who.org": 1}'):
        assert quarantined(server, send(body, "clicks"), "clicks")["c__text"] == body
    assert {r["org"] for r in server.sql("SELECT org FROM clicks")} <= {1, 77, 4294967295}


@pytest.mark.proves("D11")
@pytest.mark.parametrize("other", ["2", '"2"', "1.0", "true", "[1]", '{"a": 1}', '"01"'])
def test_a_tenant_of_a_wrong_type_is_not_treated_as_absent(server: Server, other: str) -> None:
    token = server.mint("DATASOURCES:APPEND:clicks", tenant="1")
    before = server.sql("SELECT count() AS n FROM clicks")
    answer = server.post("/v0/events?name=clicks", token, content=f'{{"who": {{"org": {other}}}}}')
    assert answer.status_code == 403 and answer.json()["code"] == "RK5003"
    assert server.sql("SELECT count() AS n FROM clicks") == before
    assert server.post("/v0/events?name=clicks", token, content='{"who": {"org": 1}}\n{"who": {}}').status_code == 202


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
        assert quarantined(server, row(**bad), "clicks")["c__error_column"] == list(bad)
    found = server.sql("SELECT big, toString(wide) AS wide, few, list FROM clicks WHERE org = 77")
    assert {r["big"] for r in found} == {1, 2**64 - 1}
    assert {r["few"] for r in found} == {None, -128}
    assert {r["wide"] for r in found} == {"1", str(-(2**255))}


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
def test_an_append_token_of_a_tenant_writes_only_for_it(server: Server, send: Send, kind: str) -> None:
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
    own = json.dumps({"note": f"beside a foreign row of {m}"})
    for foreign in ("1", '"1"', '"02"', "2.0", "true", '""', "-2", "4294967298", '{"a": 2}', '"2 "'):
        body = refused(send(f'{own}\n{{"tenant_id": {foreign}}}', token=token), 403, "RK5003")
        assert body["error"].startswith("row 2: ")
    refused(send('{"TENANT_ID": 1}', token=token), 403, "RK5003")
    assert stored(server, f"beside a foreign row of {m}") == []
    for twice in ('{"tenant_id": 2, "tenant_id": 1}', '{"tenant_id": 2, "TENANT_ID": 1}'):
        row = quarantined(server, send(twice, token=token))
        assert (row["c__text"], row["c__writer"]) == (twice, "2")
    bad = json.dumps({"tenant_id": 1, "units": "many", "note": m})
    assert quarantined(server, send(f"{bad}\n{own}", token=token), beside=1)["c__text"] == bad
    assert [r[0] for r in stored(server, m)] == [2, 2, 2, 2]


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
    found = refused(server.post("/v0/push", server.admin_token, json=body), 400, "RK1007")
    assert "datasources/pair.yaml" in found["error"] and "pipes/pair.yaml" in found["error"]
