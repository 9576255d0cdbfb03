"""Endpoint calls: the four formats, parameters from query, form and JSON, and errors for wrong ones."""

from __future__ import annotations

import csv
import io
import json

import pyarrow.parquet as pq
import pytest

from tests.support.server import Server
from tests.web.responses import data, refused

EXPECTED = [{"kind": "sale", "events": 1, "units": 40}, {"kind": "view", "events": 2, "units": 3}]


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    names = "by_kind outer raw keyed typed echo declared through chosen picky picked_column divided edges priced"
    return server.mint(*(f"PIPES:READ:{n}" for n in [*names.split(), "reserved_words", "binary"]), tenant="1")


@pytest.mark.proves("A1", "A7", "B10")
def test_json(server: Server, token: str) -> None:
    response = server.get("/v0/pipes/by_kind.json", token)
    assert response.headers["content-type"].startswith("application/json")
    body = response.json()
    assert set(body) == {"meta", "data", "rows", "rows_before_limit_at_least", "statistics"}
    assert body["meta"][0] == {"name": "kind", "type": "LowCardinality(String)"}
    assert body["data"] == EXPECTED
    assert (body["rows"], body["rows_before_limit_at_least"]) == (2, 2)
    assert set(body["statistics"]) == {"elapsed", "rows_read", "bytes_read"}


def test_csv(server: Server, token: str) -> None:
    response = server.get("/v0/pipes/by_kind.csv", token)
    assert response.headers["content-type"].startswith("text/csv")
    assert list(csv.reader(io.StringIO(response.text))) == [
        ["kind", "events", "units"],
        ["sale", "1", "40"],
        ["view", "2", "3"],
    ]


def test_ndjson(server: Server, token: str) -> None:
    response = server.get("/v0/pipes/by_kind.ndjson", token)
    assert "ndjson" in response.headers["content-type"]
    assert [json.loads(line) for line in response.text.splitlines()] == EXPECTED


def test_parquet(server: Server, token: str) -> None:
    response = server.get("/v0/pipes/by_kind.parquet", token)
    assert pq.read_table(io.BytesIO(response.content)).to_pylist() == [
        {**r, "kind": r["kind"]} if isinstance(r["kind"], str) else r for r in EXPECTED
    ]


@pytest.mark.parametrize("format", ["json", "csv", "ndjson", "parquet"])
def test_an_empty_result_is_valid(server: Server, token: str, format: str) -> None:
    response = server.get(f"/v0/pipes/by_kind.{format}?kind=absent", token)
    assert response.status_code == 200
    if format == "json":
        assert (response.json()["data"], response.json()["rows"]) == ([], 0)
        assert [m["name"] for m in response.json()["meta"]] == ["kind", "events", "units"]
    elif format == "csv":
        assert response.text == '"kind","events","units"\n'
    elif format == "ndjson":
        assert response.text == ""
    else:
        assert pq.read_table(io.BytesIO(response.content)).column_names == ["kind", "events", "units"]


def test_statistics_of_a_scoped_token_count_returned_rows(server: Server, token: str) -> None:
    scoped = server.get("/v0/pipes/outer.json", server.mint("PIPES:READ:outer", tenant="2")).json()["statistics"]
    assert scoped["rows_read"] == 1
    raw = server.get("/v0/pipes/raw.json", server.admin_token).json()["statistics"]
    assert raw["rows_read"] >= 6
    assert server.get("/v0/pipes/raw.json", server.mint("PIPES:READ:raw", tenant="2")).json()["statistics"][
        "rows_read"
    ] == len(server.get("/v0/pipes/raw.json", server.mint("PIPES:READ:raw", tenant="2")).json()["data"])


def test_values_of_every_kind(server: Server, token: str) -> None:
    row = data(server.get("/v0/pipes/edges.json", token))[0]
    assert row == {
        "text": 'quote " comma , line\n',
        "nothing": None,
        "nan": None,
        "huge": 18446744073709551615,
        "list": [1, 2],
        "m": {"a": 1},
        "day": "2026-02-03",
    }
    assert next(csv.DictReader(io.StringIO(server.get("/v0/pipes/edges.csv", token).text)))["text"] == row["text"]


@pytest.mark.parametrize("rows", [1, 60_000])
def test_invalid_utf8_becomes_valid_json(server: Server, token: str, rows: int) -> None:
    body = server.get(f"/v0/pipes/binary.json?rows={rows}", token).content.decode()
    assert json.loads(body)["rows"] == rows
    lines = server.get(f"/v0/pipes/binary.ndjson?rows={rows}", token).content.decode().splitlines()
    assert len(lines) == rows and json.loads(lines[0])["text"].startswith("a")


@pytest.mark.proves("A3")
def test_parameters_from_query_form_and_json(server: Server, token: str) -> None:
    path, expected = "/v0/pipes/by_kind.json", [EXPECTED[0]]
    assert data(server.get(f"{path}?kind=sale", token)) == expected
    assert data(server.post(path, token, data={"kind": "sale"})) == expected
    assert data(server.post(path, token, json={"kind": "sale"})) == expected
    assert data(server.post(f"{path}?kind=sale", token)) == expected
    assert data(server.post(f"{path}?kind=view", token, json={"kind": "sale"})) == expected, "the body wins"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream"])
def test_json_and_form_bodies_work_with_any_content_type(server: Server, token: str, kind: str) -> None:
    headers = {"content-type": kind}
    for body in ('{"kind": "sale"}', "kind=sale"):
        answer = server.post("/v0/pipes/by_kind.json", token, content=body, headers=headers)
        assert data(answer) == [EXPECTED[0]]


@pytest.mark.parametrize(
    "body", ["{", "[1]", "plain text", "a=1&b", "\x00", '"x"', "{'a': 1}", '{"a": NaN}', "a=%ff"]
)
def test_bodies_that_are_neither_json_nor_form(server: Server, token: str, body: str) -> None:
    refused(server.post("/v0/pipes/by_kind.json", token, content=body), 400, "RK4009")


def test_duplicated_parameters(server: Server, token: str) -> None:
    body = refused(server.get("/v0/pipes/by_kind.json?kind=sale&kind=view", token), 400, "RK4009")
    assert "UTF-8" in refused(server.get("/v0/pipes/by_kind.json?kind=%ff", token), 400, "RK4009")["error"]
    assert "`kind`" in body["error"]
    refused(server.post("/v0/pipes/by_kind.json", token, content="kind=a&kind=b"), 400, "RK4009")
    assert data(server.get("/v0/pipes/by_kind.json?kind=sale&kind=sale", token)) == [EXPECTED[0]]


@pytest.mark.parametrize("suffix", ["xml", "JSON", "json5", "", "prometheus", "json.gz"])
def test_unknown_format(server: Server, token: str, suffix: str) -> None:
    refused(server.get(f"/v0/pipes/by_kind.{suffix}", token), 404, "RK4014")


WRONG = [
    ("small", "300", "Int8"),
    ("small", "1.0", "Int8"),
    ("small", " 1", "Int8"),
    ("small", "", "Int8"),
    ("small", "1; DROP TABLE events", "Int8"),
    ("day", "2026-02-30", "Date"),
    ("day", "01/02/2026", "Date"),
    ("moment", "yesterday", "DateTime"),
    ("list", "1,x", "Array(Int32)"),
    ("list", "1,99999999999", "Array(Int32)"),
    ("ratio", "1e999", "Float64"),
    ("flag", "maybe", "Bool"),
    ("id", "123", "UUID"),
]


@pytest.mark.parametrize("name, value, kind", WRONG)
def test_wrong_parameters_name_parameter_and_type(
    server: Server, token: str, name: str, value: str, kind: str
) -> None:
    body = refused(server.get("/v0/pipes/typed.json", token, params={name: value}), 400, "RK4006")
    assert f"`{name}`" in body["error"] and kind in body["error"]


def test_valid_parameters(server: Server, token: str) -> None:
    given = {
        "small": -128,
        "day": "2026-02-28",
        "moment": "2026-02-28T12:00:00Z",
        "list": [3, 4],
        "ratio": 0.25,
        "flag": True,
        "id": "0B0E7C5A-1111-4222-8333-0123456789AB",
    }
    row = {**given, "moment": "2026-02-28 12:00:00", "id": str(given["id"]).lower()}
    assert data(server.post("/v0/pipes/typed.json", token, json=given)) == [row]
    texts = {**given, "list": "3,4", "flag": "true"}
    assert data(server.get("/v0/pipes/typed.json", token, params=texts)) == [row]


@pytest.mark.proves("A3")
@pytest.mark.parametrize(
    "text",
    ["it's", "' OR 1=1 --", "\\'; DROP TABLE x", "{p1:String}", "{{ 1 }}", "$$x$$", "ü\U0001f426", "a\nb\tc", "%"],
)
def test_values_never_change_the_statement(server: Server, token: str, text: str) -> None:
    assert data(server.get("/v0/pipes/echo.json", token, params={"text": text})) == [{"text": text}]
    assert data(server.post("/v0/pipes/echo.json", token, json={"text": text})) == [{"text": text}]


def test_required_enum_default_and_declared_parameters(server: Server, token: str) -> None:
    for pipe in ("declared", "through"):
        path = f"/v0/pipes/{pipe}.json"
        assert data(server.get(f"{path}?must=x", token)) == [{"size": "small", "n": 7, "must": "x"}]
        assert "`must`" in refused(server.get(path, token), 400, "RK4007")["error"]
        message = refused(server.get(f"{path}?must=x&size=huge", token), 400, "RK4006")["error"]
        assert "`size`" in message and "small" in message and "large" in message
        message = refused(server.get(f"{path}?must=x&count=many", token), 400, "RK4006")["error"]
        assert "`count`" in message and "Int32" in message
    assert "`text`" in refused(server.get("/v0/pipes/echo.json", token), 400, "RK4007")["error"]
    assert data(server.get("/v0/pipes/chosen.json?order=desc", token)) == [{"direction": "desc"}]
    assert "`order`" in refused(server.get("/v0/pipes/chosen.json?order=up", token), 400, "RK4006")["error"]


def test_each_item_of_a_declared_array_must_be_in_its_enum(server: Server) -> None:
    token = server.admin_token
    for query, sizes in (("sizes=small,large", ["small", "large"]), ("sizes=large&sizes=small", ["large", "small"])):
        assert data(server.get(f"/v0/pipes/sized.json?{query}&level=02", token)) == [{"sizes": sizes, "level": 2}]
    for query in ("sizes=small,huge", "sizes=", "level=3"):
        refused(server.get(f"/v0/pipes/sized.json?{query}", token), 400, "RK4006")


def test_parameters_can_have_any_name(server: Server, token: str) -> None:
    assert data(server.get("/v0/pipes/reserved_words.json?from=x&tag=y", token)) == [{"a": "x", "b": "y"}]


def test_template_errors(server: Server, token: str) -> None:
    body = server.get("/v0/pipes/picky.json?days=91", token)
    assert (body.status_code, body.json()["error"]) == (400, "at most 90 days")
    teapot = server.get("/v0/pipes/picky.json?teapot=1", token)
    assert (teapot.status_code, teapot.json()) == (418, {"error": "no tea", "code": 7})
    assert data(server.get("/v0/pipes/picky.json?days=90", token)) == [{"days": 90}]


@pytest.mark.parametrize("by", ["nope", "kind) FROM notes --", "employee_secret", "*", "kind, kind", ""])
def test_identifiers_come_only_from_the_datasource(server: Server, token: str, by: str) -> None:
    assert data(server.get("/v0/pipes/picked_column.json?by=price", token))
    refused(server.get("/v0/pipes/picked_column.json", token, params={"by": by}), 400, "RK2012")


def test_an_engine_error_before_the_first_byte(server: Server, token: str) -> None:
    refused(server.get("/v0/pipes/divided.json?by=0", token), 400, "RK4013")
    assert data(server.get("/v0/pipes/divided.json?by=5", token)) == [{"result": 2}]


def test_parameters_reach_inner_pipes(server: Server, token: str) -> None:
    assert data(server.get("/v0/pipes/outer.json", token)) == [{"kinds": 2, "units": 43, "label": "none"}]
    rows = data(server.get("/v0/pipes/outer.json?kind=sale&label=x&from_day=2026-01-02", token))
    assert rows == [{"kinds": 1, "units": 40, "label": "x"}]
    refused(server.get("/v0/pipes/outer.json?from_day=x", token), 400, "RK4006")


def test_final(server: Server, token: str) -> None:
    assert [(r["kind"], r["price"]) for r in data(server.get("/v0/pipes/priced.json", token))] == [
        ("sale", 2),
        ("view", 0.75),
    ]
    assert data(server.get("/v0/pipes/priced.json", token))[0]["big"] == 9007199254740993


def test_unknown_and_forbidden_pipes_look_alike(server: Server, token: str) -> None:
    answers = []
    for name in ("nonesuch", "notes_of", "fill_daily", "payroll", "events"):
        response = server.get(f"/v0/pipes/{name}.json", token)
        refused(server.get("/v0/pipes/nonesuch.json", token), 403, "RK4003")
        kept = {k: v for k, v in response.headers.items() if k not in ("date", "content-length", "x-request-id")}
        body = {k: v for k, v in response.json().items() if k != "request_id"}
        answers.append((response.status_code, kept, str(body).replace(name, "?")))
    assert len({repr(a) for a in answers}) == 1, answers
    refused(server.get("/v0/pipes/nonesuch.json", server.admin_token), 404, "RK4008")
    refused(server.get("/v0/pipes/fill_daily.json", server.admin_token), 404, "RK4008")


def test_an_admin_calls_an_endpoint_as_a_tenant(server: Server) -> None:
    path = "/v0/pipes/by_kind.json"
    for tenant, units in (("1", 43), ("2", 6500)):
        rows = data(server.admin("GET", path, headers={"x-rookery-tenant": tenant}))
        assert sum(r["units"] for r in rows) == units
    refused(server.admin("GET", path, headers={"x-rookery-tenant": "3"}), 404, "RK3004")
    refused(server.admin("GET", path, headers={"x-rookery-tenant": "01"}), 404, "RK3004")
    token = server.mint("PIPES:READ:by_kind", tenant="1")
    for tenant in ("1", "2", ""):
        refused(server.get(path, token, headers={"x-rookery-tenant": tenant}), 403, "RK4005")
