"""What the response to an append contains besides counts; no input is ignored silently."""

from __future__ import annotations

import gzip
import io
import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.server import Server, running
from tests.support.soak import paired
from tests.web.responses import refused

COLUMNS = """\
  - {name: tenant_id, type: UInt32}
  - {name: event, type: String}
  - {name: units, type: UInt32}
  - {name: path, type: String, json: $.page.path}
  - {name: city, type: String, json: $.page.geo.city}
  - {name: meta, type: JSON}
  - {name: tags, type: Array(String), json: "$.tags[:]"}
"""
FILES = {
    "datasources/events.yaml": f"tenant: {{column: tenant_id}}\ncolumns:\n{COLUMNS}engine: {{sorting_key: [tenant_id]}}\n",
    "datasources/exact.yaml": f"strict: true\ntenant: {{column: tenant_id}}\ncolumns:\n{COLUMNS}"
    "engine: {sorting_key: [tenant_id]}\n",
}
ROOM = 12
_ids = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("warned"), ROOKERY_QUARANTINE_ROWS=ROOM) as server:
        server.push({k: v for k, v in FILES.items() if "exact" not in k})
        for tenant in ("1", "2"):
            server.tenant(tenant)
        yield server


@pytest.fixture(scope="module")
def strict(server: Server) -> Server:
    """The same server with a strict datasource."""
    server.push({k: v for k, v in FILES.items() if "exact" in k})
    return server


@pytest.fixture(autouse=True)
def empty(server: Server) -> None:
    server.admin_json("DELETE", "/v0/datasources/events/quarantine", json={"all": True})


def event(**values: Any) -> dict[str, Any]:
    return {"tenant_id": 1, "event": f"e{next(_ids)}", "units": 1, **values}


def lines(*rows: dict[str, Any]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def send(server: Server, body: bytes, name: str = "events", token: str | None = None, **headers: str) -> Any:
    answer = server.post(
        "/v0/events",
        token or server.admin_token,
        params={"name": name, "wait": "true"},
        content=body,
        headers={k.replace("_", "-"): v for k, v in headers.items()},
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


UNKNOWN: dict[str, tuple[dict[str, Any], list[str]]] = {
    "misspelled": ({"evnt": "x"}, ["evnt"]),
    "several": ({"b": 1, "a": {"c": 2}}, ["b", "a"]),
    "below": ({"page": {"path": "/", "pth": "/"}}, ["page.pth"]),
    "further below": ({"page": {"geo": {"city": "x", "town": "y"}}}, ["page.geo.town"]),
    "above": ({"geo": {"city": "x"}}, ["geo"]),
    "another case below": ({"page": {"Path": "/"}}, ["page.Path"]),
}
KNOWN: dict[str, dict[str, Any]] = {
    "all": {"page": {"path": "/", "geo": {"city": "x"}}, "meta": {"anything": {"below": 1}}, "tags": ["a"]},
    "another case": {"UNITS": 2, "Page": {"path": "/"}},
    "null": {"page": None, "meta": None},
    "nothing": {},
}


@pytest.mark.parametrize(("name", "form"), paired(UNKNOWN, ["lines", "list", "large"]))
def test_unknown_keys_are_named(server: Server, name: str, form: str) -> None:
    extra, names = UNKNOWN[name]
    rows = [event(), event(**extra), event()]
    body = lines(*rows)
    if form == "list":
        body = json.dumps(rows).encode()
    elif form == "large":
        body = lines(*(event(meta={"fill": "x" * 500}) for _ in range(50)), *[event(**extra)] * 100, *rows)
        assert len(body) > 2 * 16_384
        body += b"\n" + lines(*(event(meta={"fill": "x" * 500}) for _ in range(100)))
    answer = send(server, body)
    assert (answer["quarantined_rows"], answer["unknown_keys"]) == (0, {"count": len(names), "names": names})


@pytest.mark.parametrize("name", KNOWN)
def test_known_keys_are_not_named(server: Server, name: str) -> None:
    rows = [event(), {"tenant_id": 1, **KNOWN[name]}]
    assert "unknown_keys" not in send(server, lines(*rows))
    assert send(server, lines(*rows, event(evnt=1)))["unknown_keys"] == {"count": 1, "names": ["evnt"]}


def test_the_first_unknown_keys_are_named_and_all_are_counted(server: Server) -> None:
    unknown_keys = send(server, lines(event(**{f"k{n}": 1 for n in range(30)}), event(**{"x" * 500: 1})))[
        "unknown_keys"
    ]
    assert unknown_keys["count"] == 31
    assert unknown_keys["names"] == [f"k{n}" for n in range(10)]


def test_the_first_error_is_returned_with_its_row(server: Server) -> None:
    answer = send(server, lines(event(), event(), event(units="many"), event(units="few")))
    assert (answer["successful_rows"], answer["quarantined_rows"]) == (2, 2)
    assert answer["first_bad_row"] == {"row": 3, "columns": ["units"], "reason": '`"many"` is not of type UInt32'}
    torn = send(server, lines(event()) + b'\n{"tenant_id": 1')["first_bad_row"]
    assert (torn["row"], torn["columns"]) == (2, [])
    assert "truncated" in torn["reason"]


def test_each_response_covers_only_its_own_rows(server: Server) -> None:
    """Requests that wait at the same time are stored as one batch, no matter who sent them."""
    tokens = [server.static(f"own {n}", "DATASOURCES:APPEND:events") for n in range(4)]
    bodies = [lines(event(**{f"only_{n}": 1})) for n in range(24)]
    with ThreadPoolExecutor(12) as callers:
        answers = list(callers.map(lambda n: send(server, bodies[n], token=tokens[n % 4]), range(24)))
    assert [a["unknown_keys"]["names"] for a in answers] == [[f"only_{n}"] for n in range(24)]


def test_a_repeated_request_gets_the_same_response(server: Server) -> None:
    body = lines(event(units="x"), event(evnt=1))
    first = send(server, body, idempotency_key="warned")
    assert {"first_bad_row", "unknown_keys"} <= first.keys()
    assert send(server, body, idempotency_key="warned") == {**first, "repeated": True}


def upload(server: Server, status: int = 200, **more: Any) -> Any:
    params = {"name": "events", "mode": "append", **more.pop("params", {})}
    answer = server.post("/v0/datasources", server.admin_token, params=params, **more)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_the_response_to_a_file_names_keys_and_the_row_number(server: Server) -> None:
    """The file is stored in several batches."""
    fill = {"meta": {"fill": "x" * 1000}}
    body = lines(*(event(**fill) for _ in range(4500)), event(units="many", **fill), *[event(evnt=1)] * 5)
    assert len(body) > 4 << 20
    answer = upload(server, params={"format": "ndjson"}, content=body)
    assert (answer["rows"], answer["quarantine_rows"]) == (4505, 1)
    assert answer["first_bad_row"]["row"] == 4501
    assert answer["unknown_keys"] == {"count": 1, "names": ["evnt"]}


@pytest.mark.feature
@pytest.mark.parametrize("name", UNKNOWN)
def test_a_strict_datasource_quarantines_rows_with_unknown_keys(strict: Server, name: str) -> None:
    extra, names = UNKNOWN[name]
    strict.admin_json("DELETE", "/v0/datasources/exact/quarantine", json={"all": True})
    answer = send(strict, lines(event(), event(**extra), event(**KNOWN["all"])), "exact")
    assert (answer["successful_rows"], answer["quarantined_rows"]) == (2, 1)
    shown = ", ".join(f"`{n}`" for n in names)
    assert answer["first_bad_row"] == {"row": 2, "columns": [], "reason": f"unknown key {shown}"}


@pytest.mark.feature
def test_a_strict_datasource_is_exact_for_large_requests(strict: Server) -> None:
    rows = [event(meta={"fill": "x" * 200}) for _ in range(3000)]
    rows[1733] |= {"evnt": "hidden among many"}
    for body in (lines(*rows), json.dumps(rows).encode()):
        answer = send(strict, body, "exact")
        assert (answer["successful_rows"], answer["quarantined_rows"]) == (2999, 1)
        assert answer["first_bad_row"]["row"] == 1734
    assert send(strict, lines(*(event() for _ in range(3000))), "exact")["quarantined_rows"] == 0


@pytest.mark.feature
def test_a_strict_datasource_refuses_files_with_other_columns(strict: Server) -> None:
    params = {"name": "exact", "format": "csv"}
    body = upload(strict, 400, params=params, content=b"tenant_id,evnt\n1,x\n")
    assert body["code"] == "RK5018"
    assert "`evnt`" in body["error"]
    assert upload(strict, params=params, content=b"tenant_id,path\n1,x\n")["rows"] == 1


@pytest.mark.feature
def test_a_full_quarantine_refuses_bad_rows_and_stores_good_ones(server: Server) -> None:
    token = server.static(f"full {next(_ids)}", "DATASOURCES:APPEND:events")
    bad = [event(units="x") for _ in range(ROOM + 2)]
    answer = send(server, lines(*bad, event()), token=token)
    assert (answer["successful_rows"], answer["quarantined_rows"], answer["refused_rows"]) == (1, ROOM, 2)
    response = server.post("/v0/events", token, params={"name": "events"}, content=lines(*bad))
    body = refused(response, 429, "RK5017")
    assert response.headers["retry-after"]
    assert f"{ROOM + 2} rows" in body["error"]
    response = upload(server, params={"format": "ndjson"}, content=lines(event(units="x"), event()))
    assert (response["rows"], response["quarantine_rows"], "refused_rows" in response) == (1, 1, False), (
        "another writer's"
    )
    again = server.post(
        "/v0/datasources", token, params={"name": "events", "format": "ndjson"}, content=lines(bad[0])
    )
    refused(again, 429, "RK5017")
    server.admin_json("DELETE", "/v0/datasources/events/quarantine", json={"all": True})
    assert send(server, lines(bad[0]), token=token)["quarantined_rows"] == 1


ROUTES = {
    "events": ("POST", "/v0/events"),
    "file": ("POST", "/v0/datasources"),
    "receipt": ("GET", "/v0/events/some-key"),
    "quarantine": ("GET", "/v0/datasources/events/quarantine"),
    "drop": ("DELETE", "/v0/datasources/events/quarantine"),
    "replay": ("POST", "/v0/datasources/events/quarantine/replay"),
}


def ask(server: Server, route: str, **params: str) -> httpx.Response:
    method, path = ROUTES[route]
    body = {"DELETE": b'{"all": true}'}.get(method, b"" if route == "replay" else lines(event()))
    given = {"name": "events", "format": "ndjson"} if route in ("events", "file") else {}
    return server.admin(method, path, params={**given, **params}, **({} if method == "GET" else {"content": body}))


@pytest.mark.parametrize("route", ROUTES)
def test_an_unknown_parameter_is_refused(server: Server, route: str) -> None:
    before = server.sql("SELECT count() AS n FROM events")
    for name in ("nmae", "url", "waitt", "Name", "_tb_", "q"):
        body = refused(ask(server, route, **{name: "https://example.com/rows.csv"}), 400, "RK4009")
        assert f"`{name}`" in body["error"], body
        assert body["hint"]
        assert name != "url" or "download" in body["hint"]
    assert server.sql("SELECT count() AS n FROM events") == before
    usual = {"from": "ts-sdk", "cli_version": "6.5.5", "__tb__semver": "1.0.0", "token": server.admin_token}
    assert ask(server, route, **usual).status_code in ((404,) if route == "receipt" else (200, 202))


def test_events_refuse_mode_and_format(server: Server) -> None:
    assert ask(server, "events", mode="append", format="json").status_code == 202
    for given in ({"mode": "replace"}, {"format": "csv"}, {"format": "parquet"}):
        refused(ask(server, "events", **given), 400, "RK4009")


def parquet(*rows: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    return sink.getvalue()


def plain(**more: Any) -> dict[str, Any]:
    return {"tenant_id": 1, "event": f"form {next(_ids)}", "units": 3, **more}


FORMS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "ndjson": lambda rows: lines(*rows),
    "csv": lambda rows: b"tenant_id,event,units\n" + b"".join(b"1,%s,3\n" % r["event"].encode() for r in rows),
    "parquet": lambda rows: parquet(*rows),
}


@pytest.mark.parametrize(("sent", "field"), paired(product(FORMS, [False, True]), ["csv", "ndjson", "file"]))
def test_only_the_file_of_a_form_is_stored(server: Server, sent: tuple[str, bool], field: str) -> None:
    format, packed = sent
    rows = [plain() for _ in range(3)]
    body = FORMS[format](rows)
    file = {field: ("rows", gzip.compress(body) if packed else body)}
    answer = upload(server, params={"format": format}, files=file)
    assert (answer["rows"], answer["quarantine_rows"]) == (3, 0), answer
    events = ", ".join(f"'{r['event']}'" for r in rows)
    assert server.sql(f"SELECT count() AS n, sum(units) AS u FROM events WHERE event IN ({events})") == [
        {"n": 3, "u": 9}
    ]


def test_events_in_a_form(server: Server) -> None:
    params = {"name": "events", "wait": "true"}
    answer = server.post("/v0/events", server.admin_token, params=params, files={"f": lines(plain(), plain())})
    assert (answer.status_code, answer.json()) == (200, {"successful_rows": 2, "quarantined_rows": 0})


def test_a_large_form_is_read_in_chunks(server: Server) -> None:
    body = lines(*(plain(meta={"fill": "\r\n--x" * 100}) for _ in range(12_000)))
    answer = upload(server, params={"format": "ndjson"}, files={"ndjson": body})
    assert (answer["rows"], answer["quarantine_rows"]) == (12_000, 0)


def form(body: bytes, type: str = "multipart/form-data; boundary=b", **headers: str) -> dict[str, Any]:
    return {
        "content": body,
        "headers": {"content-type": type, **headers},
        "params": {"name": "events", "format": "ndjson"},
    }


PART = b'--b\r\ncontent-disposition: form-data; name="f"\r\n\r\n%s\r\n'


@pytest.mark.parametrize("path", ["/v0/events", "/v0/datasources"])
def test_an_unreadable_form_is_refused(server: Server, path: str) -> None:
    row = lines(plain())
    encoded = PART.replace(b"\r\n\r\n", b"\r\ncontent-transfer-encoding: base64\r\n\r\n")
    cases = [
        (form(PART % row * 2 + b"--b--\r\n"), 415, "RK5019"),
        (form(PART % row + b"--b--\r\n", "multipart/form-data"), 415, "RK5019"),
        (form(PART % row + b"--b--\r\n", "multipart/mixed; boundary=b"), 415, "RK5019"),
        (form(encoded % row + b"--b--\r\n"), 415, "RK5019"),
        (form(gzip.compress(PART % row + b"--b--\r\n"), **{"content-encoding": "gzip"}), 415, "RK5019"),
        (form(PART % row), 400, "RK5007"),
        (form(b"--b--\r\n"), 415, "RK5019"),
        (form(row), 400, "RK5007"),
        (form(b""), 400, "RK5007"),
        (form(b"--b\r\n" + b"x: y\r\n" * 10_000 + b"\r\n" + row + b"\r\n--b--\r\n"), 400, "RK5007"),
    ]
    for request, status, code in cases:
        refused(server.admin("POST", path, **request), status, code)


def test_a_content_type_without_rows_is_refused(server: Server) -> None:
    for type in ("application/xml", "image/png", "application/msgpack", "application/x-protobuf", "nonsense"):
        for path in ("/v0/events", "/v0/datasources"):
            refused(server.admin("POST", path, **form(lines(plain()), type)), 415, "RK5019")
    for type in ("text/csv", "application/vnd.apache.parquet"):
        refused(server.admin("POST", "/v0/events", **form(lines(plain()), type)), 415, "RK5019")
    for type in (
        "application/json",
        "application/x-ndjson; charset=utf-8",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "application/octet-stream",
    ):
        for path in ("/v0/events", "/v0/datasources"):
            assert server.admin("POST", path, **form(lines(plain()), type)).status_code in (200, 202)
    # Without a format, the type says it.
    answer = upload(server, content=lines(plain()), headers={"content-type": "application/x-ndjson"})
    assert (answer["rows"], answer["quarantine_rows"]) == (1, 0)


def test_rows_in_a_declared_encoding_other_than_utf_8_are_refused(server: Server) -> None:
    for route, type in (("events", "application/json"), ("events", "text/plain"), ("datasources", "text/csv")):
        for charset in ("iso-8859-1", '"Windows-1252"', "utf-16"):
            headers = {"content-type": f"{type}; charset={charset}"}
            answer = server.admin("POST", f"/v0/{route}?name=events", content=lines(event()), headers=headers)
            assert "charset" in refused(answer, 415, "RK5019")["error"]
    assert send(server, lines(event()), content_type="application/json; charset=UTF-8")["successful_rows"] == 1
