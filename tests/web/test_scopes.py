"""Each scope is tried against every route and method of the application."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from engine.settings import Settings
from engine.web import access
from engine.web.app import create_app
from tests.support.server import Server, running_copy
from tests.support.soak import sampled
from tests.web.responses import refused

pytestmark = pytest.mark.feature

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
PUBLIC = {"GET /live", "GET /ready", "GET /docs/errors", "GET /docs/errors/{code}"}
DOCUMENT = "GET /v0/pipes/openapi.json"
WORKSPACE = "GET /v0/workspace"
CALLS = {f"{m} /v0/pipes/{{name}}.{f}" for m in ("GET", "POST") for f in ("{format}", "")}
SQL = {"GET /v0/sql", "POST /v0/sql"}
ALLOWED: dict[str, set[str]] = {
    "DEPLOY": {
        DOCUMENT,
        WORKSPACE,
        "POST /v0/push",
        "POST /v0/materialize",
        "GET /v0/pipes",
        "GET /v0/pipes/{name}",
        "DELETE /v0/pipes/{name}",
        "GET /v0/datasources",
        "GET /v0/datasources/{name}",
        "DELETE /v0/datasources/{name}",
    },
    "TENANTS:MANAGE": {
        DOCUMENT,
        WORKSPACE,
        "GET /v0/tenants",
        "POST /v0/tenants",
        "GET /v0/tenants/{id}",
        "DELETE /v0/tenants/{id}",
    },
    "TOKENS:MINT": {
        DOCUMENT,
        WORKSPACE,
        "GET /v0/tokens",
        "POST /v0/tokens",
        "GET /v0/tokens/{name}",
        "DELETE /v0/tokens/{name}",
        "POST /v0/tokens/{name}/refresh",
    },
    "METRICS:READ": {"GET /metrics"},
    "READ:ALL": {DOCUMENT, *CALLS, *SQL},
    "PIPES:READ:by_kind": {DOCUMENT, *CALLS, *SQL},
    "DATASOURCES:READ:events": {DOCUMENT, *SQL},
    "DATASOURCES:APPEND:events": {DOCUMENT, "POST /v0/events", "GET /v0/events/{key}", "POST /v0/datasources"},
}
"""Routes by scope, apart from those that need no token."""
NAMES = {"pipes": "by_kind", "datasources": "events", "tenants": "nobody", "tokens": "nothing"}
BODIES: dict[str, Any] = {
    "POST /v0/push": {"files": [], "dry_run": True},
    "POST /v0/signing-key": {"overlap": -1},
    "POST /v0/tenants": {"id": ""},
    "POST /v0/tokens": {"name": "x", "scopes": []},
}
"""Bodies that change nothing where the request is allowed."""


def operations() -> list[tuple[str, frozenset[str]]]:
    """Each path of the router, with its methods."""
    app = create_app(SimpleNamespace(settings=Settings()))  # type: ignore[arg-type]
    operations_by_path: dict[str, set[str]] = {}
    for route in app.routes:
        assert isinstance(route, Route)
        operations_by_path.setdefault(route.path_format.rstrip("/"), set()).update(route.methods or ())
    return [(path, frozenset(methods)) for path, methods in sorted(operations_by_path.items())]


OPERATIONS = operations()


@pytest.fixture(scope="module")
def scratch(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_copy(filled, tmp_path_factory.mktemp("scopes")) as server:
        yield server


@pytest.fixture(scope="module")
def tokens(scratch: Server) -> dict[str, str]:
    """A static token for each scope, and JWTs where they are possible."""
    tenants = {"PIPES:READ:by_kind": "1", "DATASOURCES:READ:events": "1"}
    response = {s: scratch.static(f"only {s}", s, tenant=tenants.get(s)) for s in ALLOWED}
    for scope in ("METRICS:READ", "READ:ALL", "PIPES:READ:by_kind"):
        response[f"JWT {scope}"] = scratch.mint(scope, tenant=tenants.get(scope))
    return response


def call(server: Server, method: str, path: str, token: str | None) -> httpx.Response:
    """A request that changes nothing, even if it is allowed."""
    operation = f"{method} {path}"
    kind = path.split("/")[2] if path.count("/") > 1 else ""
    url = path.format(name=NAMES.get(kind, "x"), id="nobody", key="k", format="json", code="RK4006")
    params = {"dry_run": "true"} if method == "DELETE" and kind in ("pipes", "datasources") else {}
    if path.startswith(("/v0/events", "/v0/datasources")) and method == "POST":
        params = {"name": "events"}
    if path == "/v0/sql":
        params = {"q": "SELECT 1"}
    if "quarantine" in path:
        params = {}
    return server.request(method, url, token, params=params, json=BODIES.get(operation))


def is_refused(response: httpx.Response) -> bool:
    return response.status_code == 403


@pytest.mark.parametrize(
    "who",
    [
        *ALLOWED,
        *(pytest.param(f"JWT {s}", marks=pytest.mark.soak_only) for s in ("METRICS:READ", "READ:ALL")),
        "JWT PIPES:READ:by_kind",
    ],
)
def test_a_scope_allows_its_routes_and_nothing_else(scratch: Server, tokens: dict[str, str], who: str) -> None:
    allowed = ALLOWED[who.removeprefix("JWT ")] | PUBLIC
    wrong = []
    for (path, methods), method in itertools.product(OPERATIONS, METHODS):
        response = call(scratch, method, path, tokens[who])
        if method not in methods:
            # Another route may match the same path with this method.
            expected = response.status_code in (403, 404, 405)
        elif f"{method.replace('HEAD', 'GET')} {path}" in allowed:
            expected = response.status_code not in (401, 403, 500)
        else:
            expected = is_refused(response)
            if method != "HEAD":
                refused(response, 403, "RK4003")
        if not expected:
            wrong.append((method, path, response.status_code, response.text[:100]))
    assert not wrong


@pytest.mark.parametrize("token", [None, "wrong"])
def test_without_a_token_only_health_answers(scratch: Server, token: str | None) -> None:
    for path, methods in OPERATIONS:
        for method in methods - {"HEAD"}:
            response = call(scratch, method, path, token)
            if f"{method} {path}" in PUBLIC:
                assert response.status_code == 200
            else:
                refused(response, 403, "RK4002" if token else "RK4001")


def test_an_admin_may_call_every_route(scratch: Server) -> None:
    for path, methods in OPERATIONS:
        for method in methods:
            response = call(scratch, method, path, scratch.admin_token)
            assert response.status_code not in (403, 405, 500), (method, path, response.text)


@pytest.mark.parametrize("scopes", sampled(((pair,) for pair in itertools.combinations(ALLOWED, 2)), 7), ids="+".join)
def test_two_scopes_allow_what_either_allows(scratch: Server, scopes: tuple[str, str]) -> None:
    token = scratch.static("both " + "+".join(scopes), *scopes)
    allowed = ALLOWED[scopes[0]] | ALLOWED[scopes[1]] | PUBLIC
    for path, methods in OPERATIONS:
        for method in sorted(methods - {"HEAD"}):
            if f"{method} {path}" not in allowed:
                refused(call(scratch, method, path, token), 403, "RK4003")
            elif path not in ("/v0/sql", "/v0/pipes/{name}.{format}"):
                assert not is_refused(call(scratch, method, path, token)), (method, path)


def test_a_route_without_an_entry_stops_the_start() -> None:
    async def forgotten(_request: Any) -> None: ...

    routes = [Route("/v0/forgotten", forgotten, methods=["GET"])]
    with pytest.raises(ValueError, match="/v0/forgotten"):
        access.guarded(routes)


def test_what_needs_an_admin_within_an_allowed_route(scratch: Server, tokens: dict[str, str]) -> None:
    scratch.tenant("77")
    purge = scratch.request("DELETE", "/v0/tenants/77?purge=true", tokens["TENANTS:MANAGE"])
    body = refused(purge, 403, "RK4003")
    assert "admin" in body["error"]
    replace = scratch.post("/v0/datasources?name=events&mode=replace", tokens["DATASOURCES:APPEND:events"])
    refused(replace, 403, "RK4003")
    assert scratch.request("DELETE", "/v0/tenants/77", tokens["TENANTS:MANAGE"]).status_code == 204


def test_a_document_lists_what_the_token_may_call(scratch: Server, tokens: dict[str, str]) -> None:
    paths = scratch.get("/v0/pipes/openapi.json", tokens["TENANTS:MANAGE"]).json()["paths"]
    assert set(paths) == {
        "/live",
        "/ready",
        "/docs/errors",
        "/docs/errors/{code}",
        "/v0/pipes/openapi.json",
        "/v0/workspace",
        "/v0/tenants",
        "/v0/tenants/{id}",
    }
    assert paths["/v0/tenants"]["post"]["security"] == [
        {"bearer": ["ADMIN"]}, {"token": ["ADMIN"]}, {"bearer": ["TENANTS:MANAGE"]}, {"token": ["TENANTS:MANAGE"]}
    ]  # fmt: skip
    reader = scratch.get("/v0/pipes/openapi.json", tokens["READ:ALL"]).json()["paths"]
    assert {"/v0/pipes/by_kind.json", "/v0/pipes/raw.json", "/v0/sql"} < set(reader)
    assert "/v0/push" not in reader
