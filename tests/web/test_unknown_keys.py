"""No input is ignored silently: control routes refuse unknown keys and content types, queries name them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.routing import Route

from engine.settings import Settings
from engine.web.app import create_app
from tests.support.server import Server, running
from tests.web.responses import data, refused

IGNORED = "x-rookery-ignored-parameters"
FILES = {
    "pipes/arrays.yaml": """
nodes:
  - name: arrays_node
    sql: |
      %
      SELECT {{Array(numbers, 'Int32', '1')}} AS numbers, {{Array(texts, 'String', 'a')}} AS texts,
        {{String(plain, 'p')}} AS plain
endpoint: {}
""",
    "pipes/regional.yaml": "nodes: [{name: regional_node, sql: \"% SELECT {{String(region, 'all')}} AS x\"}]\nendpoint: {}\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("known")) as server:
        server.push(FILES)
        yield server


class _Nothing:
    settings = Settings()


CONTROL = sorted(
    (method, route.path)
    for route in create_app(_Nothing()).routes  # type: ignore[arg-type]
    if isinstance(route, Route)
    for method in (route.methods or ())
    if (method, route.path) != ("POST", "/v0/events")
    and route.path not in {"/live", "/ready", "/v0/sql"}
    and not route.path.startswith(("/v0/pipes/{name}.", "/v0/pipes/{name}/explain", "/docs/errors"))
    and method != "HEAD"
)
"""Every route but the probes, pages, queries and events, which have rules of their own."""
TAKES_BODY = [(m, p) for m, p in CONTROL if m in {"POST", "DELETE"} and p != "/v0/datasources"]


def filled(path: str) -> str:
    return (
        path.replace("{name:path}", "x").replace("{id:path}", "1").replace("{key:path}", "k").replace("{name}", "x")
    )


@pytest.mark.parametrize(("method", "path"), CONTROL)
def test_control_routes_refuse_unknown_parameters(server: Server, method: str, path: str) -> None:
    body = refused(server.admin(method, filled(path) + "?nonesuch=1"), 400)
    assert body["code"] in {"RK4009", "RK4029"} and "`nonesuch`" in body["error"] and body["hint"]
    # What clients always send changes nothing.
    known = server.admin(method, filled(path) + "?from=ui&cli_version=1&__tb__semver=2")
    assert "unknown" not in known.text or known.status_code != 400, known.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v0/datasources/x?dry_run={}"),
        ("DELETE", "/v0/pipes/x?force={}"),
        ("DELETE", "/v0/tenants/1?purge={}"),
        ("GET", "/v0/doctor?deep={}"),
        ("POST", "/v0/tokens?name={}"),
    ],
)
def test_control_routes_refuse_parameters_with_two_values(server: Server, method: str, path: str) -> None:
    values, name = path.format("true"), path.partition("?")[2][:-3]
    for other in (f"&{name}=false", f"&{name}=true&{name}=false"):
        assert f"`{name}`" in refused(server.admin(method, values + other), 400, "RK4009")["error"]
    assert "two values" not in server.admin(method, f"{values}&{name}=true").text


@pytest.mark.parametrize(("method", "path"), TAKES_BODY)
def test_control_routes_refuse_unknown_keys(server: Server, method: str, path: str) -> None:
    body = refused(server.admin(method, filled(path), json={"nonesuch": 1}), 400, "RK4029")
    assert "`nonesuch`" in body["error"] and body["hint"]


@pytest.mark.parametrize(("method", "path"), TAKES_BODY)
def test_control_routes_refuse_other_content_types(server: Server, method: str, path: str) -> None:
    for kind in (
        "application/xml",
        "multipart/form-data; boundary=x",
        "image/png",
        "application/json; charset=utf-16",
    ):
        refused(server.admin(method, filled(path), content=b"{}", headers={"content-type": kind}), 415, "RK4028")


@pytest.mark.guard
@pytest.mark.parametrize(
    "kind", ["application/json", "application/vnd.a+json", "application/json; charset=UTF-8", "text/plain", "", None]
)
def test_usual_content_types_are_accepted(server: Server, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    for path in ("/v0/sql", "/v0/pipes/regional.json"):
        answer = server.admin(
            "POST",
            path,
            content=b'{"q": "SELECT 1 AS x"}'.replace(b"q", b"q" if "sql" in path else b"region"),
            headers=headers,
        )
        assert answer.status_code == 200, answer.text


def test_sql_and_endpoints_refuse_other_content_types(server: Server) -> None:
    for path in ("/v0/sql", "/v0/pipes/regional.json"):
        for kind in ("application/xml", "application/x-protobuf", "text/plain; charset=latin-1"):
            answer = server.admin("POST", path, content=b"SELECT 1 AS x", headers={"content-type": kind})
            refused(answer, 415, "RK4028")
    for kind in ("application/sql", "text/plain", "application/x-www-form-urlencoded"):
        answer = server.admin("POST", "/v0/sql", content=b"SELECT 1 AS x", headers={"content-type": kind})
        assert data(answer) == [{"x": 1}]


# --- tokens --------------------------------------------------------------------------------------------------------
SCOPES = ["PIPES:READ:regional"]


def test_a_token_expires_when_its_body_says_so(server: Server) -> None:
    until = int(time.time()) + 600
    made = server.admin_json("POST", "/v0/tokens", json={"name": "a", "scopes": SCOPES, "expiration_time": until})
    assert abs(made["expires"] - until) <= 2 and made["token"].startswith("ey")
    again = server.admin_json("POST", f"/v0/tokens?expiration_time={until}&name=a&scope=PIPES:READ:regional")
    assert abs(again["expires"] - until) <= 2
    assert [t["name"] for t in server.admin_json("GET", "/v0/tokens")["tokens"]] == ["admin token"], (
        "none is for ever"
    )


@pytest.mark.parametrize(
    "body",
    [
        {"expiration_time": "soon"},
        {"expiration_time": 1.5},
        {"expiration_time": True},
        {"expiration_time": -1},
        {"expiration_time": 10**30},
        {"expiration_time": 2_000_000_000, "ttl": 60},
        {"expires": 2_000_000_000},
        {"limits": {"rps": 3}},
    ],
    ids=str,
)
def test_a_misspelled_expiry_is_refused(server: Server, body: dict[str, Any]) -> None:
    refused(server.admin("POST", "/v0/tokens", json={"name": "b", "scopes": SCOPES, **body}), 400)
    refused(server.admin("GET", "/v0/tokens/b"), 404)


def test_a_name_given_twice_is_refused(server: Server) -> None:
    refused(server.admin("POST", "/v0/tokens?name=a", json={"name": "b", "scopes": SCOPES}), 400, "RK4009")
    refused(server.admin("POST", "/v0/tenants", json={"id": "1", "ids": ["2"]}), 400, "RK4009")


# --- queries -------------------------------------------------------------------------------------------------------
def test_endpoints_name_ignored_parameters(server: Server) -> None:
    assert IGNORED not in server.admin("GET", "/v0/pipes/regional.json?region=a&from=ui&__tb__semver=1").headers
    for method, given in (("GET", {"params": {"region": "a", "regoin": "b"}}), ("POST", {"data": {"regoin": "b"}})):
        answer = server.admin(method, "/v0/pipes/regional.json", **given)
        assert answer.status_code == 200 and answer.headers[IGNORED] == "regoin"
    assert server.admin("GET", "/v0/pipes/regional.json?format=csv").headers[IGNORED] == "format"
    assert server.admin("GET", "/v0/pipes/regional.json?=3").headers[IGNORED] == '""'
    assert server.admin("GET", "/v0/sql?q=SELECT+1+AS+x&=3&y=4").headers[IGNORED] == '"", y'
    sql = server.admin("GET", "/v0/sql?q=SELECT+x+FROM+regional&regoin=b&region=c")
    assert data(sql) == [{"x": "c"}] and sql.headers[IGNORED] == "regoin"


def test_the_header_is_bounded_and_safe(server: Server) -> None:
    names = ["a\r\nset-cookie: x", "ü,ß", "x" * 5000, *(f"p{n:03}" for n in range(100))]
    response = server.admin("GET", "/v0/pipes/regional.json?" + urlencode(dict.fromkeys(names, "1"))).headers
    assert "set-cookie" not in response
    *shown, more = response[IGNORED].split(", ")
    assert len(response[IGNORED]) < 2000 and len(shown) == 10 and more == "+93"
    assert shown[0] == "a%0D%0Aset-cookie%3A%20x"


def test_fixed_parameters_win_and_the_header_names_the_ignored_value(server: Server) -> None:
    scope = {"type": "PIPES:READ", "resource": "regional", "fixed_params": {"region": "eu"}}
    token = server.mint(scope)
    other = server.get("/v0/pipes/regional.json?region=us", token)
    assert data(other) == [{"x": "eu"}] and other.headers[IGNORED] == "region"
    alike = server.get("/v0/pipes/regional.json?region=eu", token)
    assert data(alike) == [{"x": "eu"}] and IGNORED not in alike.headers


def test_endpoints_refuse_sql(server: Server) -> None:
    assert "/v0/sql" in refused(server.admin("GET", "/v0/pipes/regional.json?q=SELECT+1"), 400, "RK4009")["hint"]
    refused(server.admin("POST", "/v0/pipes/regional.json", json={"q": "SELECT 1"}), 400, "RK4009")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v0/pipes/regional.json", b'{"region": "a", "region": "b"}'),
        ("/v0/sql", b'{"q": "SELECT 1", "q": "SELECT 2"}'),
        ("/v0/tenants", b'{"id": "1", "id": "2"}'),
        ("/v0/push", b'{"files": [{"name": "x", "name": "y", "file": "pipes/x.yaml", "text": ""}]}'),
        ("/v0/tokens", b'{"name": "t", "tenant": "1", "scopes": ["PIPES:READ:regional"], "tenant": "2"}'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_body_with_a_repeated_key_is_refused(server: Server, path: str, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    error = refused(server.admin("POST", path, content=body, headers=headers), 400, "RK4009")
    assert "more than once" in error["error"]


def test_a_body_nested_too_deep_for_one_of_the_parsers_is_refused(server: Server) -> None:
    body = b'{"region": ' + b"[" * 1010 + b"]" * 1010 + b"}"
    refused(server.admin("POST", "/v0/pipes/regional.json", content=body), 400)


def test_different_sql_in_the_url_and_the_body_is_refused(server: Server) -> None:
    for body in (b"SELECT 2", b"q=SELECT+2", b'{"q": "SELECT 2"}'):
        answer = server.admin("POST", "/v0/sql?q=SELECT+1", content=body)
        assert "different SQL" in refused(answer, 400, "RK4009")["error"]
    assert data(server.admin("POST", "/v0/sql?q=SELECT+1+AS+x", content=b"region=eu")) == [{"x": 1}]
    assert data(server.admin("POST", "/v0/sql?q=SELECT+1+AS+x", content=b"SELECT 1 AS x")) == [{"x": 1}]


def test_a_format_clause_selects_the_format(server: Server) -> None:
    for format, text in (("CSV", "1\n"), ("CSVWithNames", '"x"\n1\n'), ("JSONEachRow", '{"x":1}\n')):
        assert server.admin("GET", "/v0/sql", params={"q": f"SELECT 1 AS x FORMAT {format}"}).text == text
    many = server.admin("GET", "/v0/sql", params={"q": "SELECT number FROM numbers(100000) FORMAT CSV"}).text
    assert many.splitlines() == [str(n) for n in range(100_000)]
    refused(server.admin("GET", "/v0/sql", params={"q": "SELECT 1 FORMAT TSV"}), 400)


# --- arrays --------------------------------------------------------------------------------------------------------
def test_arrays_are_repeated_or_comma_separated(server: Server) -> None:
    path, row = "/v0/pipes/arrays.json", {"numbers": [1], "texts": ["a"], "plain": "p"}
    for query, changed in (
        ("numbers=1&numbers=2&numbers=2", {"numbers": [1, 2, 2]}),
        ("numbers=1,2,2", {"numbers": [1, 2, 2]}),
        ("numbers=7", {"numbers": [7]}),
        ("texts=x,y&numbers=3&numbers=4", {"texts": ["x", "y"], "numbers": [3, 4]}),
        ("texts=x,y&texts=z", {"texts": ["x,y", "z"]}),
        ("plain=a&plain=a", {"plain": "a"}),
    ):
        assert data(server.admin("GET", f"{path}?{query}")) == [row | changed], query
        headers = {"content-type": "application/x-www-form-urlencoded"}
        assert data(server.admin("POST", path, content=query, headers=headers)) == [row | changed], query
    refused(server.admin("GET", f"{path}?plain=a&plain=b"), 400, "RK4009")
    refused(server.admin("GET", f"{path}?numbers=1&numbers=x"), 400, "RK4006")
    parameters = server.admin_json("GET", "/v0/pipes/openapi.json")["paths"][path]["get"]["parameters"]
    declared = next(p for p in parameters if p["name"] == "numbers")
    assert (declared["style"], declared["explode"]) == ("form", True)


# --- browsers ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_cors_allows_the_headers_of_clients(server: Server, method: str) -> None:
    sent = "authorization,content-encoding,content-type,idempotency-key,traceparent,x-request-id,x-rookery-tenant"
    preflight = {"origin": "https://page.example", "access-control-request-method": method}
    answer = server.request("OPTIONS", "/v0/events", headers={**preflight, "access-control-request-headers": sent})
    assert answer.status_code == 200, answer.text
    allowed = {h.strip().lower() for h in answer.headers["access-control-allow-headers"].split(",")}
    assert set(sent.split(",")) <= allowed
    real = server.admin("GET", "/v0/pipes/regional.json", headers={"origin": "https://page.example"})
    exposed = {h.strip().lower() for h in real.headers["access-control-expose-headers"].split(",")}
    assert {"server-timing", "retry-after", "x-ratelimit-limit", IGNORED} <= exposed


@pytest.mark.feature
def test_unknown_parameters_are_refused_where_the_settings_say_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(tmp_path_factory.mktemp("strict"), ROOKERY_STRICT_PARAMETERS="true") as server:
        server.push(FILES)
        for path in ("/v0/pipes/regional.json?regoin=b", "/v0/sql?q=SELECT+1+AS+x&regoin=b"):
            assert "`regoin`" in refused(server.admin("GET", path), 400, "RK4029")["error"]
        assert data(server.admin("GET", "/v0/pipes/regional.json?region=b&from=ui&__tb__x=1")) == [{"x": "b"}]
