"""Row filters in tokens: checked by the engine, applied on every path, or the token is refused."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from tests.support.server import Server
from tests.web.responses import data, refused


@pytest.fixture(scope="module")
def secret(server: Server) -> str:
    return str(server.admin_json("GET", "/v0/signing-key")["secret"])


def token(secret: str, *filters: str | None, tenant: str | None = None, source: str = "events") -> str:
    """A token that reads a datasource through filters, and the endpoint over it."""
    scopes: list[dict[str, Any]] = [{"type": "PIPES:READ", "resource": "raw"}]
    scopes += [{"type": "DATASOURCES:READ", "resource": source, **({"filter": f} if f else {})} for f in filters]
    body = {"workspace_id": "main", "name": "filtered", "exp": int(time.time()) + 600, "scopes": scopes}
    return jwt.encode({**body, **({"tenant": tenant} if tenant else {})}, secret, algorithm="HS256")


def notes(server: Server, text: str) -> tuple[list[str], list[str]]:
    """What the endpoint and ad-hoc SQL show."""
    rows = data(server.get("/v0/pipes/raw.json", text))
    return [r["note"] for r in rows], [r["note"] for r in server.sql("SELECT note FROM events ORDER BY note", text)]


@pytest.mark.proves("A2", "A5", "B12")
@pytest.mark.parametrize(
    "filters, tenant, expected",
    [
        (["tenant_id = 1"], None, ["one-a", "one-b", "one-c"]),
        (["tenant_id = '2'"], None, ["two-a", "two-b"]),
        (["2 = tenant_id"], None, ["two-a", "two-b"]),
        (["tenant_id = 1 AND kind = 'sale'"], None, ["one-c"]),
        (["kind = 'sale' AND (tenant_id = 1)"], None, ["one-c"]),
        (["kind = 'view'"], "1", ["one-a", "one-b"]),
        (["kind = 'view'", "units > 1"], "1", ["one-b"]),
        (["tenant_id = 1", "kind = 'view'", "units IN (1, 40)"], None, ["one-a"]),
        (["kind = 'view' OR tenant_id = 2"], "1", ["one-a", "one-b"]),
        (["1 = 1 OR tenant_id = 2"], "1", ["one-a", "one-b", "one-c"]),
        (["kind = 'nothing'"], "1", []),
        (["note LIKE '%b' -- a comment"], "1", ["one-b"]),
        (["tenant_id = 1", "tenant_id = 1"], "1", ["one-a", "one-b", "one-c"]),
        (["kind = 'OR 1=1 --'"], "1", []),
        ([None, "kind = 'sale'"], "1", ["one-c"]),
    ],
)
def test_filters_are_applied_everywhere(
    server: Server, secret: str, filters: list[str | None], tenant: str | None, expected: list[str]
) -> None:
    assert notes(server, token(secret, *filters, tenant=tenant)) == (expected, expected)


@pytest.mark.proves("A2")
def test_no_query_bypasses_the_filter(server: Server, secret: str) -> None:
    text = token(secret, "tenant_id = 1 AND kind = 'view'")
    for sql in (
        "SELECT count() AS n FROM events AS a JOIN events AS b ON a.note = b.note",
        "SELECT count() AS n FROM (SELECT * FROM events UNION DISTINCT SELECT * FROM events)",
        "WITH x AS (SELECT * FROM events) SELECT count() AS n FROM x WHERE 1 OR tenant_id = 2",
        "SELECT count() AS n FROM events WHERE tenant_id IN (1, 2, 3) OR 1 = 1",
        "SELECT count() AS n FROM events WHERE note IN (SELECT note FROM events)",
        "SELECT (SELECT count() FROM events) AS n",
        "SELECT n FROM (SELECT count() AS n FROM events) AS a CROSS JOIN (SELECT max(units) FROM events) AS b",
    ):
        assert server.sql(sql, text) == [{"n": 2}], sql


REFUSED = [
    "1",
    "1 = 1",
    "1 OR 1=1",
    "tenant_id = 1 OR 1=1",
    "tenant_id = 1 OR tenant_id = 2",
    "tenant_id IN (1, 2)",
    "tenant_id > 0",
    "NOT tenant_id = 1",
    "kind = 'view'",
    "tenant_id = tenant_id",
    "tenant_id = 1 AND tenant_id = 2",
    "tenant_id = 3",
    "tenant_id = '01'",
    "tenant_id = 1.0",
    "tenant_id = -1",
    "tenant_id = 4294967297",
    "tenant_id = NULL",
    "events.tenant_id = 1",
    "equals(tenant_id)",
    "equals()",
    "equals(tenant_id, 1, 1)",
    "and()",
]


@pytest.mark.proves("A2", "A11")
@pytest.mark.parametrize("text", REFUSED)
def test_filters_that_select_no_tenant(server: Server, secret: str, text: str) -> None:
    refused(server.get("/v0/pipes/raw.json", token(secret, text)), 403)
    refused(server.post("/v0/sql", token(secret, text), content="SELECT note FROM events"), 403)


HOSTILE = [
    "tenant_id = 1 AND note IN (SELECT employee_secret_column FROM payroll)",
    "(SELECT 1)",
    "tenant_id = (SELECT 2)",
    "EXISTS (SELECT 1 FROM payroll)",
    "tenant_id = 1) OR (1 = 1",
    "tenant_id = 1) UNION ALL (SELECT * FROM payroll",
    "1) UNION ALL SELECT * FROM payroll --",
    "tenant_id = 1 UNION ALL SELECT 1",
    "tenant_id = 1; DROP TABLE events",
    "tenant_id = 1 FROM payroll",
    "tenant_id = 1 AS x",
    "tenant_id = 1, kind = 'view'",
    "tenant_id = 1 LIMIT 10",
    "tenant_id = 1 SETTINGS max_threads = 1",
    "tenant_id = 1 FORMAT JSON",
    "tenant_id = 1 AND sleep(3)",
    "tenant_id = 1 AND throwIf(units > 1)",
    "tenant_id = 1 AND dictGet('d', 'a', 1)",
    "tenant_id = 1 AND file('x') = ''",
    "tenant_id = 1 AND currentUser() = ''",
    "tenant_id = 1 AND arrayExists(x -> 1, [1])",
    "tenant_id = 1 AND employee_secret_column = ''",
    "tenant_id = 1 AND _rk_t.kind = ''",
    "tenant_id = 1 AND main.events.kind = ''",
    "tenant_id = 1 AND kind = {p:String}",
    "tenant_id = 1 AND kind = $$a$$ OR 1",
    "*",
    "",
    " ",
    "'",
    "(((",
    "/* tenant_id = 1",
    "tenant_id = 1 -- ",
    "tenant_id = 'x'",
    "units = 'not a number' AND tenant_id = 1",
    "units LIKE 5 AND tenant_id = 1",
    "tenant_id = 1 AND " + "(" * 200 + "1" + ")" * 200,
    "tenant_id = 1 AND kind = '" + "x" * 5000 + "'",
    "\x00",
    "tenant_id = 1 AND kind = '\ud7ff'",
]


@pytest.mark.proves("A2", "A11")
@pytest.mark.parametrize("text", HOSTILE, ids=lambda t: t[:40])
def test_hostile_filters(server: Server, secret: str, text: str) -> None:
    """Refused with 403; where the filter is harmless after all, what it shows is tenant 1's."""
    used = token(secret, text)
    for answer in (
        server.get("/v0/pipes/raw.json", used),
        server.post("/v0/sql", used, content="SELECT note FROM events"),
    ):
        if answer.status_code == 200:
            assert all(r["note"].startswith("one-") for r in data(answer))
        else:
            assert answer.status_code == 403
            assert set(answer.json()) >= {"error", "code", "documentation"}
        assert not [s for s in ("two-", "three-", "salary") if s in answer.text]


def test_filters_of_another_datasource_select_the_tenant(server: Server, secret: str) -> None:
    """One token has one tenant, whatever it reads."""
    clash = token(secret, "owner = '2'", tenant="1", source="notes")
    refused(server.get("/v0/pipes/raw.json", clash), 403, "RK4002")
    agreed = token(secret, "owner = '1'", tenant="1", source="notes")
    assert len(data(server.get("/v0/pipes/raw.json", agreed))) == 3


def test_the_error_for_a_refused_filter_does_not_contain_the_filter(server: Server, secret: str) -> None:
    body = refused(server.get("/v0/pipes/raw.json", token(secret, "tenant_id = 1 AND kind > [1]")), 403, "RK4015")
    assert "main" not in body["error"] and "DESCRIBE" not in body["error"]


def test_a_filter_for_an_unknown_datasource(server: Server, secret: str) -> None:
    used = token(secret, "tenant_id = 1", source="nonesuch")
    assert server.get("/v0/pipes/raw.json", used).status_code == 403
