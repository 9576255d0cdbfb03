"""What a valid token allows: scopes, fixed parameters, and management for admin tokens only."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.server import Server
from tests.web.responses import data, refused
from tests.web.signing import PATH, SCOPES, signed


@pytest.mark.proves("B12", "B13")
def test_scopes_allow_only_what_they_name(server: Server) -> None:
    one = server.mint("DATASOURCES:READ:prices", tenant="1")
    assert server.sql("SELECT count() AS n FROM prices", one)[0]["n"] == 3
    refused(server.get("/v0/pipes/priced.json", one), 403, "RK4003")
    other = server.mint("PIPES:READ:priced", tenant="1")
    assert data(server.get("/v0/pipes/priced.json", other))
    refused(server.post("/v0/sql", other, content="SELECT * FROM prices"), 403)
    assert len(server.sql("SELECT * FROM priced", other)) == 2


@pytest.mark.proves("A5", "C8")
def test_fixed_parameters_override_the_request(server: Server, secret: str) -> None:
    scopes = [{**SCOPES[0], "fixed_params": {"kind": "sale"}}]
    token = signed(secret, scopes=scopes)
    for answer in (
        server.get(PATH, token),
        server.get(f"{PATH}?kind=view", token),
        server.post(PATH, token, json={"kind": "view"}),
        server.post(PATH, token, content="kind=view"),
    ):
        assert data(answer) == [{"kind": "sale", "events": 1, "units": 40}]


@pytest.mark.proves("A5", "C8")
@pytest.mark.parametrize("value", [None, [], {}, ["sale"]])
def test_a_fixed_value_of_a_wrong_type_is_refused(server: Server, secret: str, value: Any) -> None:
    """A template takes null for an absent parameter, so the condition that it stands in would be gone."""
    token = signed(secret, scopes=[{**SCOPES[0], "fixed_params": {"kind": value}}])
    for query in ("", "?kind=sale", "?kind=view"):
        refused(server.get(PATH + query, token), 403, "RK4002")
    refused(server.post("/v0/sql", token, content="SELECT * FROM by_kind"), 403, "RK4002")


def test_a_parameter_that_the_pipe_lacks_is_not_fixed(server: Server) -> None:
    """The signer of the token expected it to restrict the rows."""
    scope = {**SCOPES[0], "fixed_params": {"knid": "sale"}}
    body = {"name": "misspelt", "scopes": [scope]}
    made = server.post("/v0/tokens", server.admin_token, json=body)
    minted = server.post("/v0/tokens", server.admin_token, json=body | {"ttl": 60})
    for answer in (minted, made):
        refused(answer, 400, "RK4018")
    assert "`by_kind` has no parameter `knid`" in made.json()["error"]


@pytest.mark.proves("A4", "A5", "C8")
def test_the_tenant_key_comes_from_tokens_only(server: Server, secret: str) -> None:
    for pipe in ("keyed", "outer_keyed"):
        path, scope = f"/v0/pipes/{pipe}.json", {"type": "PIPES:READ", "resource": pipe}
        open_token = signed(secret, tenant=..., scopes=[scope])
        for answer in (
            server.get(f"{path}?customer=1", open_token),
            server.post(path, open_token, json={"customer": 1}),
            server.post(path, open_token, content="customer=1"),
        ):
            refused(answer, 403, "RK4005")
        refused(server.get(path, open_token), 403, "RK4004")
        fixed = signed(secret, tenant=..., scopes=[{**scope, "fixed_params": {"customer": "2"}}])
        for query in ("", "?customer=1", "?customer=2"):
            assert data(server.get(path + query, fixed)) == [{"events": 2, "note": "two-a"}]
        assert data(server.get(path, signed(secret, scopes=[scope]))) == [{"events": 3, "note": "one-a"}]
        for value in ("3", "01", "1.0", "1 OR 1=1", None, True, 1.0, {}, [], "", 10**30):
            wrong = signed(secret, tenant=..., scopes=[{**scope, "fixed_params": {"customer": value}}])
            assert server.get(path, wrong).status_code in (400, 403)
        clash = signed(secret, scopes=[{**scope, "fixed_params": {"customer": "2"}}])
        refused(server.get(path, clash), 403, "RK4002")
    admin = server.get("/v0/pipes/keyed.json?customer=2", server.admin_token)
    assert data(admin) == [{"events": 2, "note": "two-a"}]


MANAGEMENT = [
    ("GET", "/v0/workspace"),
    ("GET", "/v0/tokens"),
    ("POST", "/v0/tokens"),
    ("GET", "/v0/tokens/admin%20token"),
    ("DELETE", "/v0/tokens/ingest"),
    ("POST", "/v0/tokens/ingest/refresh"),
    ("GET", "/v0/signing-key"),
    ("POST", "/v0/signing-key"),
    ("HEAD", "/v0/signing-key"),
    ("GET", "/v0/tenants"),
    ("POST", "/v0/tenants"),
    ("GET", "/v0/tenants/1"),
    ("DELETE", "/v0/tenants/1"),
    ("GET", "/v0/datasources"),
    ("GET", "/v0/datasources/events"),
    ("DELETE", "/v0/datasources/events"),
    ("GET", "/v0/datasources/events/quarantine"),
    ("DELETE", "/v0/datasources/events/quarantine"),
    ("POST", "/v0/datasources/events/quarantine/replay"),
    ("GET", "/v0/pipes"),
    ("GET", "/v0/pipes/by_kind"),
    ("DELETE", "/v0/pipes/by_kind"),
    ("POST", "/v0/push"),
    ("POST", "/v0/materialize"),
]


@pytest.mark.proves("D12")
@pytest.mark.parametrize("method, path", MANAGEMENT)
def test_management_needs_an_admin_token(server: Server, secret: str, method: str, path: str) -> None:
    everything = signed(secret, scopes=[{"type": "DATASOURCES:READ", "resource": "events"}, *SCOPES])
    for token in (everything, server.static("curious", "PIPES:READ:by_kind"), None, "garbage"):
        response = server.request(method, path, token)
        assert response.status_code == 403
        if method != "HEAD":
            refused(response, 403)


def test_head_requests_change_nothing(server: Server) -> None:
    """HEAD is allowed wherever GET is, and must not have the effect of POST or DELETE."""
    before = [server.admin_json("GET", p) for p in ("/v0/signing-key", "/v0/tokens", "/v0/tenants", "/v0/pipes")]
    for _, path in MANAGEMENT:
        assert not server.admin("HEAD", f"{path}?name=x&scope=ADMIN").content
    assert [
        server.admin_json("GET", p) for p in ("/v0/signing-key", "/v0/tokens", "/v0/tenants", "/v0/pipes")
    ] == before


def test_refresh_and_removal_take_effect_at_once(server: Server) -> None:
    old = server.static("short lived", "PIPES:READ:by_kind", tenant="1")
    assert data(server.get(PATH, old))
    new = server.admin_json("POST", "/v0/tokens/short%20lived/refresh")["token"]
    refused(server.get(PATH, old), 403, "RK4002")
    assert data(server.get(PATH, new))
    server.admin_json("DELETE", "/v0/tokens/short%20lived")
    refused(server.get(PATH, new), 403, "RK4002")
    refused(server.admin("GET", "/v0/tokens/short%20lived"), 404, "RK4017")
    refused(server.admin("DELETE", "/v0/tokens/admin%20token"), 403)


def test_a_token_names_only_existing_resources(server: Server) -> None:
    for body in (
        {"name": "t", "scopes": []},
        {"name": "t"},
        {"name": "", "scopes": ["PIPES:READ:by_kind"]},
        {"name": "t\n", "scopes": ["PIPES:READ:by_kind"]},
        {"name": "t", "scopes": ["PIPES:READ:nonesuch"]},
        {"name": "t", "scopes": ["PIPES:READ:fill_daily"]},
        {"name": "t", "scopes": ["PIPES:READ:fill_daily"], "ttl": 60},
        {"name": "t", "scopes": ["DATASOURCES:APPEND:daily"]},
        {"name": "t", "scopes": ["PIPES:WRITE:by_kind"]},
        {"name": "t", "scopes": ["PIPES:READ"]},
        {"name": "t", "scopes": "ADMIN"},
        {"name": "t", "scopes": ["ADMIN"], "tenant": "1"},
        {"name": "t", "scopes": ["ADMIN"], "ttl": 60},
        {"name": "t", "scopes": ["PIPES:READ:by_kind"], "ttl": 0},
        {"name": "t", "scopes": ["PIPES:READ:by_kind"], "ttl": "1"},
        {"name": "t", "scopes": ["PIPES:READ:by_kind"], "ttl": 10**12},
        {"name": "t", "scopes": ["PIPES:READ:by_kind"], "tenant": "01"},
    ):
        refused(server.admin("POST", "/v0/tokens", json=body), 400)
    refused(server.admin("POST", "/v0/tokens", json={"name": "t", "scopes": SCOPES, "tenant": "9"}), 404, "RK3004")
    refused(server.admin("POST", "/v0/tokens?name=t&expiration_time=x", json={"scopes": SCOPES}), 400)
