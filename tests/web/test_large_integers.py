"""Integers beyond 2^53 in JSON: text on request, at any depth, without a change of the computed values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.server import Server, running

pytestmark = pytest.mark.feature
QUOTE = "output_format_json_quote_64bit_integers"
BIG = 2**53 + 1
FILES = {
    "datasources/events.yaml": """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt64}
  - {name: small, type: UInt32, default: "7"}
  - {name: signed, type: Int64, default: "-9223372036854775808"}
  - {name: wide, type: UInt256, default: "5"}
  - {name: many, type: Array(UInt64), default: "[id, 1]"}
  - {name: pairs, type: "Map(String, Nullable(UInt64))", default: "map('a', id, 'b', NULL)"}
  - {name: tree, type: "Tuple(n UInt64, s Array(Tuple(x Int64, y String)))", default: "tuple(id, [(id, 'z')])"}
  - {name: low, type: "LowCardinality(Nullable(String))"}
  - {name: payload, type: JSON}
engine: {sorting_key: [tenant_id, id]}
""",
    "endpoints/rows.yaml": """
sql: |
  SELECT *, count() OVER () AS n, sum(id) OVER () AS total, toUInt32(small * 2) AS twice, toString(payload) AS text,
    dynamicType(payload.n) AS kind, toJSONString(many) AS listed FROM events ORDER BY id
""",
    "endpoints/numbers.yaml": """
sql: SELECT id, payload FROM events
endpoint: {quote_64bit_integers: false}
""",
}
NUMBERS: dict[str, Any] = {
    "tenant_id": 1,
    "id": BIG,
    "small": 7,
    "signed": -(2**63),
    "wide": 5,
    "many": [BIG, 1],
    "pairs": {"a": BIG, "b": None},
    "tree": {"n": BIG, "s": [{"x": BIG, "y": "z"}]},
    "low": None,
    "payload": {"deep": {"list": [BIG]}, "n": BIG, "text": "1"},
    "n": 1,
    "total": BIG,
    "twice": 14,
}
COMPUTED = {
    "text": f'{{"deep":{{"list":[{BIG}]}},"n":{BIG},"text":"1"}}',
    "kind": "Int64",
    "listed": f"[{BIG},1]",
}
SMALL = {"tenant_id", "small", "twice"}
"""Columns whose integers have fewer bits."""


def text(value: Any) -> Any:
    """A value with all its integers as text."""
    if isinstance(value, dict):
        return {k: text(v) for k, v in value.items()}
    if isinstance(value, list):
        return [text(v) for v in value]
    return str(value) if isinstance(value, int) else value


QUOTED = {k: v if k in SMALL else text(v) for k, v in NUMBERS.items()}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose default is text."""
    with running(tmp_path_factory.mktemp("large"), ROOKERY_QUOTE_64BIT_INTEGERS="true") as server:
        server.push(FILES)
        server.tenant("1", "pooled")
        server.events("events", [{"tenant_id": 1, "id": BIG, "payload": NUMBERS["payload"]}])
        yield server


def rows(server: Server, path: str, token: str, **params: Any) -> dict[str, Any]:
    response = server.get(path, token, params=params)
    assert response.status_code == 200, response.text
    row: dict[str, Any] = json.loads(response.text.split("\n")[0]) if "ndjson" in path else response.json()["data"][0]
    return row


@pytest.mark.parametrize("format", ["json", "ndjson"])
def test_the_request_wins_over_the_endpoint_and_the_setting(filled: Server, format: str) -> None:
    for token in (filled.admin_token, filled.mint("PIPES:READ:rows", "PIPES:READ:numbers", tenant="1")):
        all_columns, plain = f"/v0/pipes/rows.{format}", f"/v0/pipes/numbers.{format}"
        assert rows(filled, all_columns, token) == QUOTED | COMPUTED
        for yes in ("1", "true"):
            assert rows(filled, all_columns, token, **{QUOTE: yes}) == QUOTED | COMPUTED
        for no in ("0", "false"):
            assert rows(filled, all_columns, token, **{QUOTE: no}) == NUMBERS | COMPUTED
        assert rows(filled, plain, token)["id"] == BIG
        assert rows(filled, plain, token, **{QUOTE: "1"}) == {"id": str(BIG), "payload": text(NUMBERS["payload"])}


def test_sql_and_json_bodies_accept_the_option(filled: Server) -> None:
    query = "SELECT kind, id FROM rows"
    token = filled.mint("PIPES:READ:rows", tenant="1")
    for expected, value in ((str(BIG), 1), (BIG, 0)):
        rows = filled.get("/v0/sql", token, params={"q": query, QUOTE: value}).json()["data"]
        assert rows == [{"kind": "Int64", "id": expected}]
        posted = filled.post("/v0/sql", token, json={"q": query, QUOTE: bool(value)}).json()["data"]
        assert posted == [{"kind": "Int64", "id": expected}]
        called = filled.post("/v0/pipes/numbers.json", filled.admin_token, json={QUOTE: value}).json()["data"]
        assert called[0]["id"] == expected


def test_large_and_ordered_results_are_quoted(filled: Server) -> None:
    query = "SELECT number AS a, number + 1 AS b FROM numbers(60000) ORDER BY number DESC"
    rows = filled.get("/v0/sql", filled.admin_token, params={"q": query}).json()["data"]
    assert rows == [{"a": str(n), "b": str(n + 1)} for n in range(59999, -1, -1)]


def test_csv_and_parquet_are_unchanged(filled: Server) -> None:
    for format in ("csv", "parquet"):
        with_it, without = (
            filled.get(f"/v0/pipes/rows.{format}", filled.admin_token, params={QUOTE: value}) for value in ("1", "0")
        )
        assert with_it.status_code == 200
        if format == "csv":
            assert with_it.content == without.content
            assert f'""n"":{BIG}' in with_it.text


def test_type_names_are_unchanged(filled: Server) -> None:
    with_it, without = (
        filled.get("/v0/pipes/rows.json", filled.admin_token, params={QUOTE: v}).json()["meta"] for v in (1, 0)
    )
    assert with_it == without


@pytest.mark.parametrize("value", ["2", "yes", "", "1, max_threads = 1", "1 SETTINGS readonly = 0", ["1", "0"]])
def test_other_values_are_refused(filled: Server, value: Any) -> None:
    response = filled.get("/v0/pipes/rows.json", filled.admin_token, params={QUOTE: value})
    assert response.status_code == 400, response.text
    assert response.json()["code"] in {"RK4006", "RK4009"}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("output_format_json_quote_decimals", "1"),
        ("max_result_rows", "1"),
        ("max_execution_time", "0.0001"),
        ("output_format_json_quote_64bit_integers ", "0"),
        ("OUTPUT_FORMAT_JSON_QUOTE_64BIT_INTEGERS", "0"),
        ("settings", "output_format_json_quote_64bit_integers = 0"),
        ("limit", "0"),
    ],
)
def test_other_settings_have_no_effect(filled: Server, setting: str, value: str) -> None:
    response = filled.get("/v0/pipes/rows.json", filled.admin_token, params={setting: value})
    assert response.status_code == 400 or response.json()["data"] == [QUOTED | COMPUTED]


def test_no_pipe_can_declare_the_parameter(filled: Server) -> None:
    taken = f"sql: SELECT 1 AS a\nparameters:\n  - {{name: {QUOTE}}}\n"
    body = {"files": [{"name": "taken", "file": "endpoints/taken.yaml", "text": taken}]}
    response = filled.admin("POST", "/v0/push", json=body)
    assert response.status_code == 400 and response.json()["code"] == "RK1006"


def test_openapi_lists_the_parameter(filled: Server) -> None:
    operation = filled.admin_json("GET", "/v0/pipes/openapi.json")["paths"]["/v0/pipes/rows.json"]["get"]
    assert QUOTE in {p["name"] for p in operation["parameters"]}
    columns = operation["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["data"]["items"]
    assert columns["properties"]["id"]["type"] == ["integer", "string"]
    assert columns["properties"]["small"]["type"] == "integer"
    assert columns["properties"]["many"]["items"]["type"] == ["integer", "string"]
