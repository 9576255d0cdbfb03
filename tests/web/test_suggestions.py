"""Suggested names: of everything for callers who read everything, and otherwise only of what the token names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from engine.errors import nearest
from tests.support.server import Server, running
from tests.web.responses import refused

pytestmark = pytest.mark.feature
FILES = {
    "datasources/events.yaml": """\
columns:
  - {name: tenant_id, type: UInt32}
  - {name: kind, type: String}
  - {name: salary, type: Float64}
engine: {sorting_key: [tenant_id]}
tenant: {column: tenant_id, landing: true}
""",
    "datasources/payroll.yaml": "columns: [{name: employee_secret_column, type: String}]\n",
    "endpoints/usage.yaml": "sql: SELECT count() AS n FROM events WHERE kind != {{ String(skip, 'x') }}\n",
    "endpoints/usage_secret.yaml": "sql: SELECT count() AS n FROM payroll\n",
    "endpoints/branch.yaml": "sql: SELECT 1 AS n {% if String(x, '') == 'other' and Int32(y, 0) == 77 %} FROM payrol {% end %}\n",
}
SECRET = ("payroll", "employee_secret_column", "salary", "usage_secret")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(
        tmp_path_factory.mktemp("names"), ROOKERY_STRICT_PARAMETERS="true", ROOKERY_MAX_SECONDS="1"
    ) as server:
        server.push(FILES)
        server.tenant("1")
        yield server


def failed(server: Server, method: str, path: str, token: str | None = None, **kwargs: Any) -> dict[str, Any]:
    response = server.request(method, path, token or server.admin_token, **kwargs)
    assert response.status_code >= 400
    return dict(response.json())


@pytest.mark.parametrize(
    "sql, code, meant",
    [
        ("SELECT * FROM evnts", "RK3007", "events"),
        ("SELECT * FROM Events", "RK3007", "events"),
        ("SELECT knd FROM events", "RK2007", "kind"),
        ("SELECT e.knd FROM events AS e", "RK2007", "kind"),
        ("SELECT cunt() FROM events", "RK2003", "count"),
        ("SELECT toUint32(kind) FROM events", "RK2007", "toUInt32"),
        ("SELEC 1", "RK2001", "SELECT"),
        ("SELECT kind FRM events", "RK2001", "FROM"),
        ("SELECT count()\nFROM events\nWEHRE kind = 'x'", "RK2001", "WHERE"),
    ],
)
def test_admins_get_the_similar_name(server: Server, sql: str, code: str, meant: str) -> None:
    body = failed(server, "POST", "/v0/sql", content=sql)
    assert body["code"] == code
    assert f"did you mean `{meant}`?" in body["hint"]


def test_a_missing_table_is_404_for_callers_who_read_everything(server: Server) -> None:
    refused(server.post("/v0/sql", server.admin_token, content="SELECT * FROM zzzz"), 404, "RK3007")
    refused(server.post("/v0/sql", server.admin_token, content="SELECT * FROM system.tables"), 403, "RK2004")


def test_limits_name_their_settings(server: Server) -> None:
    slow = "SELECT count() FROM numbers(100000000000) WHERE sipHash64(number) = 1"
    body = failed(server, "POST", "/v0/sql", content=slow)
    assert body["code"] == "RK4011" and "ROOKERY_MAX_SECONDS" in body["hint"]


@pytest.mark.parametrize(
    "method, path, meant",
    [
        ("GET", "/v0/pipes/usge.json", "usage"),
        ("GET", "/v0/pipes/usag", "usage"),
        ("DELETE", "/v0/datasources/evens", "events"),
        ("GET", "/v0/datasources/evens/quarantine", "events"),
        ("POST", "/v0/events?name=evens", "events"),
        ("GET", "/v0/pipes/usage.json?skp=1", "skip"),
        ("GET", "/v0/doctor?dep=1", "deep"),
    ],
)
def test_resources_and_parameters(server: Server, method: str, path: str, meant: str) -> None:
    body = failed(server, method, path, content=b"{}" if method == "POST" else None)
    assert f"did you mean `{meant}`?" in body["hint"]


@pytest.mark.guard
@pytest.mark.parametrize(
    "method, path, sql",
    [
        ("GET", "/v0/pipes/usage_secre.json", None),
        ("GET", "/v0/pipes/usage_secret.json", None),
        ("GET", "/v0/pipes/payrol.json", None),
        ("GET", "/v0/pipes/payrol", None),
        ("POST", "/v0/events?name=payrol", None),
        ("GET", "/v0/pipes/branch.json?x=other&y=77", None),
        ("POST", "/v0/sql", "SELECT * FROM payrol"),
        ("POST", "/v0/sql", "SELECT * FROM Payroll"),
        ("POST", "/v0/sql", "SELECT * FROM usage_secre"),
        ("POST", "/v0/sql", "SELECT employee_secret_colum FROM usage"),
        ("POST", "/v0/sql", "SELECT salry FROM usage"),
        ("POST", "/v0/sql", "SELECT n, (SELECT salry) FROM usage"),
        ("POST", "/v0/sql", "SELECT nn FROM usage"),
    ],
)
def test_no_suggestion_names_what_the_token_cannot_read(
    server: Server, method: str, path: str, sql: str | None
) -> None:
    for token in (
        server.mint("PIPES:READ:usage", "PIPES:READ:branch", tenant="1"),
        server.static("narrow", "PIPES:READ:usage", "DATASOURCES:APPEND:events", "PIPES:READ:branch", tenant="1"),
    ):
        body = failed(server, method, path, token, content=(sql or "{}") if method == "POST" else None)
        sent = f"{path} {sql}"
        hint = body.get("hint", "")
        assert not [s for s in SECRET if s in hint], body
        assert not [s for s in SECRET if s in body["error"] and s not in sent], body


def test_a_token_gets_suggestions_of_what_it_names(server: Server) -> None:
    token = server.mint("PIPES:READ:usage", "DATASOURCES:APPEND:events", tenant="1")
    assert failed(server, "GET", "/v0/pipes/usag.json", token)["hint"] == "did you mean `usage`?"
    assert failed(server, "POST", "/v0/events?name=evens", token, content=b"{}")["hint"] == "did you mean `events`?"
    assert failed(server, "POST", "/v0/sql", token, content="SELECT * FROM usag")["hint"] == "did you mean `usage`?"


def test_names_are_compared_in_bounded_work() -> None:
    many = [f"tenant_{n}" for n in range(200_000)]
    assert nearest("tenant_x", many) is not None
    assert nearest("x" * 1_000_000, many) is None
    assert nearest("Uint32", ["Int32", "UInt32", "UInt64"]) == "UInt32"
    assert nearest("UInt32", ["UInt32", "UInt64"]) is None


def test_an_endpoint_without_a_format_is_explained(server: Server) -> None:
    body = refused(server.get("/v0/pipes/usage", server.mint("PIPES:READ:usage", tenant="1")), 403, "RK4003")
    assert ".json" in body["hint"]
