"""Isolation over HTTP: a real server, real tokens, and every part of a response."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.isolation.two_tenants import statements
from tests.support.server import Server, running

TENANTS = {"ant": "pooled", "bee": "tables", "cat": "pooled"}
FILES = {
    "datasources/events.yaml": """
tenant: tenant
columns:
  - {name: tenant, type: String}
  - {name: word, type: LowCardinality(String)}
  - {name: k, type: Int64}
  - {name: j, type: JSON}
engine: {sorting_key: [tenant, k], settings: {index_granularity: 8}}
""",
    "datasources/payroll.yaml": """
columns:
  - {name: employee_column, type: String}
engine: {sorting_key: [employee_column]}
""",
    "pipes/words.yaml": "sql: SELECT word, k FROM events WHERE k >= {{ Int64(low, 0) }} ORDER BY k\n",
    "pipes/keyed.yaml": """
sql: SELECT word FROM events WHERE tenant = {{ String(customer) }}
parameters: [{name: customer, type: String, tenant_key: true}]
""",
    "pipes/breaks.yaml": "sql: SELECT toInt64(word) AS n FROM events\n",
    "pipes/payroll_of_omega.yaml": "sql: SELECT employee_column FROM payroll\n",
    "pipes/large.yaml": "sql: SELECT word, n.number AS n FROM events CROSS JOIN numbers(4000) AS n\n",
}
SECRETS = (
    "payroll",
    "employee_column",
    "main_nest",
    "_rk_pool",
    "main.events",
    "main_empty",
    "In scope",
    "DB::Exception",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("http"), ROOKERY_READERS=2, ROOKERY_LOG_LEVEL="debug") as server:
        server.push(FILES)
        for tenant, placement in TENANTS.items():
            server.tenant(tenant, placement)
        for n, tenant in enumerate(TENANTS):
            words = [f"{tenant}-word-{k}" for k in range(30)]
            server.events(
                "events",
                [
                    {"tenant": tenant, "word": w, "k": k - 10 * n, "j": {f"{tenant}_path": w}}
                    for k, w in enumerate(words)
                ],
            )
        server.events("payroll", [{"employee_column": "salary of cat-word"}])
        yield server


def token_of(server: Server, tenant: str) -> str:
    scopes = [f"PIPES:READ:{p}" for p in ("words", "keyed", "breaks", "large")]
    return server.mint(*scopes, "DATASOURCES:READ:events", tenant=tenant)


def leaked(response: httpx.Response, tenant: str, sent_text: str = "") -> list[str]:
    """What stands in an answer, its headers among it, that the tenant should not know."""
    text = f"{response.headers.multi_items()!r} {response.content.decode('latin-1')}".replace(sent_text, "")
    others = [w for t in TENANTS if t != tenant for w in (f"{t}-word", f"{t}_path")]
    return [s for s in (*others, *SECRETS) if s in text and s not in sent_text]


@pytest.mark.proves("A1", "A7", "B3")
@pytest.mark.parametrize("tenant", TENANTS)
def test_every_call_shows_only_the_rows_of_its_tenant(server: Server, tenant: str) -> None:
    token = token_of(server, tenant)
    paths: list[tuple[str, str, dict[str, Any]]] = []
    for suffix in ("json", "csv", "ndjson", "parquet", "xml", "json.json"):
        paths += [("GET", f"/v0/pipes/{p}.{suffix}", {}) for p in ("words", "keyed", "breaks", "large", "nothing")]
    paths += [
        ("GET", "/v0/pipes/words.json", {"params": {"low": "' OR 1=1 --"}}),
        ("GET", "/v0/pipes/words.json", {"params": {"tenant": "cat", "customer": "cat", "eyes": "cat"}}),
        ("GET", "/v0/pipes/keyed.json", {"params": {"customer": "cat"}}),
        ("POST", "/v0/pipes/keyed.json", {"json": {"customer": "cat"}}),
        ("GET", "/v0/pipes/words.json", {"headers": {"x-rookery-tenant": "cat"}}),
        ("GET", "/v0/pipes/payroll_of_omega.json", {}),
        ("GET", "/v0/pipes/openapi.json", {}),
        ("GET", "/v0/pipes", {}),
        ("GET", "/v0/pipes/payroll_of_omega", {}),
        ("GET", "/v0/datasources", {}),
        ("GET", "/v0/datasources/payroll", {}),
        ("DELETE", "/v0/datasources/events", {}),
        ("GET", "/v0/tenants", {}),
        ("GET", "/v0/tenants/cat", {}),
        ("GET", "/v0/tokens", {}),
        ("GET", "/v0/workspace", {}),
        ("GET", "/v0/signing-key", {}),
        ("POST", "/v0/push", {"json": {"files": []}}),
        ("POST", "/v0/events?name=events", {"content": '{"tenant": "cat", "word": "x", "k": 1}'}),
        ("POST", "/v0/events?name=payroll", {"content": '{"employee_column": "x"}'}),
        ("POST", "/v0/sql", {"content": "SELECT * FROM events FORMAT Native"}),
        ("POST", "/v0/sql", {"content": "SELECT * FROM events FORMAT Parquet"}),
        ("POST", "/v0/sql", {"json": {"q": "SELECT * FROM payroll"}}),
        ("GET", "/v0/sql", {"params": {"q": "SELECT * FROM events", "tenant": "cat", "token": token}}),
        ("OPTIONS", "/v0/pipes/words.json", {}),
        ("PUT", "/v0/pipes/words.json", {}),
        ("GET", "/v0/nothing", {}),
    ]
    for method, path, more in paths:
        response = server.request(method, path, token, **more)
        calls_made = path.rpartition("=" if "=" in path else "/")[2].partition(".")[0]
        sent_text = "payroll" if "payroll" in str(more) else calls_made if response.status_code >= 400 else ""
        assert leaked(response, tenant, sent_text or "\0") == [], (method, path, response.text[:300])
        assert response.status_code < 500, (method, path, response.text)
        if response.status_code == 200 and "words.json" in path and method == "GET":
            assert response.json()["rows"] == 30 - 10 * list(TENANTS).index(tenant)


@pytest.mark.proves("A2", "A11", "B3")
def test_attacks_are_refused_over_http(server: Server) -> None:
    token = token_of(server, "ant")
    attacks = [sql for _, sql in statements("attacks.sql")] + [
        "SELECT * FROM payroll", "SELECT * FROM payrol", "SELECT employee_column FROM events", "SELECT toInt64(word) FROM events",
        "SELECT count() FROM events WHERE throwIf(word LIKE 'cat%') = 0", "SELECT count() FROM events WHERE intDiv(1, k + 5) < 9",
        "SELECT * FROM main.events", "SELECT * FROM main_nest_bee.events", "SELECT j FROM events", "SELECT word FROM events LIMIT 1",
    ]  # fmt: skip
    for sql in attacks:
        response = server.post("/v0/sql", token, content=sql.encode("utf-8", "replace"))
        assert leaked(response, "ant", sql) == [], (sql, response.text[:300])
        assert response.status_code < 500, (sql, response.text)


@pytest.mark.proves("A6")
def test_a_modified_token_is_refused(server: Server) -> None:
    token = token_of(server, "ant")
    head, body, seal = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))

    def packed(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    other = packed({**claims, "tenant": "cat"})
    unsigned = packed({"alg": "none", "typ": "JWT"})
    forged = [
        f"{head}.{other}.{seal}", f"{unsigned}.{other}.", f"{unsigned}.{other}.{seal}", f"{head}.{body}.", f"{head}.{body}",
        f"{head}.{body}.{seal[:-2]}", token[:-1], token + "x", f"{packed({'alg': 'HS256', 'kid': '../../x'})}.{other}.{seal}",
        f"{packed({'alg': 'RS256'})}.{body}.{seal}", "p." + body + "." + seal, "", " ", "null",
    ]  # fmt: skip
    for text in forged:
        response = server.get("/v0/pipes/words.json", None, params={"token": text})
        assert response.status_code in (401, 403), text
        assert leaked(response, "nobody") == []


@pytest.mark.proves("A7")
def test_no_token_is_logged(server: Server) -> None:
    token = token_of(server, "ant")
    static = server.static("a reader", "PIPES:READ:words", tenant="ant")
    for given in (token, static):
        server.get("/v0/pipes/words.json", given)
        server.get("/v0/pipes/words.json", None, params={"token": given})
        server.get("/v0/pipes/breaks.json", None, params={"token": given})
        server.get("/v0/pipes/words.json", None, params={"token": given[:-4] + "wxyz"})
        server.post("/v0/sql", None, params={"token": given, "q": "SELECT toInt64(word) FROM events"})
    written = server.log()
    assert "query failed" in written
    for given in (token, static, server.admin_token):
        assert given not in written
        assert given[:-4] not in written
