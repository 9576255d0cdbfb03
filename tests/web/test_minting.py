"""Tokens with TOKENS:MINT: what they may mint, show and remove, and that minted tokens see no more than they do."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support.server import Server
from tests.support.soak import paired
from tests.web.minters import EVENTS, MINT, RAW, SALES, VIEWS, Scopes, error, mint, minter, numbers
from tests.web.responses import refused

pytestmark = pytest.mark.feature
SALES_OF_A_DAY = {**SALES, "fixed_params": {"kind": "sale", "from_day": "2026-01-02"}}
NUMBER = {"type": "PIPES:READ", "resource": "divided", "fixed_params": {"by": 1}}
TRUTH = {"type": "PIPES:READ", "resource": "divided", "fixed_params": {"by": True}}
TEXT = {"type": "PIPES:READ", "resource": "divided", "fixed_params": {"by": "1"}}


# The scopes and the tenant of a minter, and those of a token that it may mint.
NARROWER: list[tuple[Scopes, str | None, Scopes, str | None]] = [
    ([RAW], "1", [RAW], "1"),
    ([RAW], None, [RAW], "1"),
    ([RAW], None, [RAW], None),
    ([RAW, EVENTS], "1", [EVENTS], "1"),
    ([EVENTS], "1", [f"{EVENTS}:units < 9"], "1"),
    ([f"{EVENTS}:units < 9"], "1", [f"{EVENTS}:units < 9"], "1"),
    ([f"{EVENTS}:units < 9"], "1", [f"{EVENTS}:units < 9", f"{EVENTS}:kind = 'view'"], "1"),
    ([RAW, f"{EVENTS}:units < 9"], "1", [RAW, f"{EVENTS}:units < 9"], "1"),
    ([f"{EVENTS}:units < 9", "DATASOURCES:READ:notes"], "1", ["DATASOURCES:READ:notes"], "1"),
    ([f"{EVENTS}:units < 9", "DATASOURCES:APPEND:events"], "1", ["DATASOURCES:APPEND:events"], "1"),
    ([SALES], "1", [SALES], "1"),
    ([SALES], None, [SALES], "2"),
    ([SALES], "1", [SALES_OF_A_DAY], "1"),
    (["PIPES:READ:by_kind"], "1", [SALES], "1"),
    ([NUMBER], None, [NUMBER], None),
    (["READ:ALL"], None, ["READ:ALL"], None),
    (["READ:ALL"], None, [RAW, EVENTS, SALES], "2"),
    (["METRICS:READ"], None, ["METRICS:READ"], None),
    (
        ["PIPES:READ:keyed"],
        None,
        [{"type": "PIPES:READ", "resource": "keyed", "fixed_params": {"customer": 1}}],
        None,
    ),
]
WIDER: list[tuple[Scopes, str | None, Scopes, str | None]] = [
    ([], None, ["ADMIN"], None),
    ([], None, ["DEPLOY"], None),
    ([], None, ["TENANTS:MANAGE"], None),
    ([], None, ["METRICS:READ"], None),
    ([], None, ["READ:ALL"], None),
    ([], None, [RAW], "1"),
    ([RAW], "1", [RAW], "2"),
    ([RAW], "1", [RAW], None),
    ([RAW], "1", [RAW], "4711"),
    ([RAW], "1", [RAW, EVENTS], "1"),
    ([RAW], "1", ["PIPES:READ:by_kind"], "1"),
    ([RAW], "1", ["PIPES:READ:no_such_pipe"], "1"),
    ([RAW], "1", ["DATASOURCES:READ:raw"], "1"),
    ([EVENTS], "1", ["DATASOURCES:APPEND:events"], "1"),
    (["DATASOURCES:APPEND:events"], "1", [EVENTS], "1"),
    (["DATASOURCES:APPEND:events"], "1", ["DATASOURCES:APPEND:events"], None),
    ([f"{EVENTS}:units < 9"], "1", [EVENTS], "1"),
    ([f"{EVENTS}:units < 9"], "1", [f"{EVENTS}:units < 99"], "1"),
    ([f"{EVENTS}:units < 9"], "1", [f"{EVENTS}:units < 9 OR 1 = 1"], "1"),
    ([f"{EVENTS}:units < 9", f"{EVENTS}:kind = 'view'"], "1", [f"{EVENTS}:units < 9"], "1"),
    ([RAW, f"{EVENTS}:units < 9"], "1", [RAW], "1"),
    ([RAW, f"{EVENTS}:units < 9"], "1", [RAW, EVENTS], "1"),
    ([SALES], "1", ["PIPES:READ:by_kind"], "1"),
    ([SALES], "1", [VIEWS], "1"),
    ([SALES_OF_A_DAY], "1", [SALES], "1"),
    ([NUMBER], None, [TRUTH], None),
    ([NUMBER], None, [TEXT], None),
    (["READ:ALL"], None, ["METRICS:READ"], None),
    (["READ:ALL"], None, ["DATASOURCES:APPEND:events"], None),
]


def _ids(cases: list[tuple[Scopes, str | None, Scopes, str | None]]) -> list[str]:
    return [str(i) for i in range(len(cases))]


@pytest.mark.parametrize(("number", "ttl"), paired(range(len(NARROWER)), [600, None]))
def test_narrower_tokens_are_minted(mints: Server, number: int, ttl: int | None) -> None:
    own, own_tenant, expected, tenant = NARROWER[number]
    response = mint(mints, minter(mints, own, own_tenant), expected, tenant, ttl=ttl)
    assert response.status_code == 200, response.text
    body = mints.get("/v0/pipes/openapi.json", response.json()["token"])
    assert body.status_code == (403 if expected == ["METRICS:READ"] else 200)


@pytest.mark.parametrize("case", WIDER, ids=_ids(WIDER))
def test_wider_tokens_are_refused(mints: Server, case: Any) -> None:
    own, own_tenant, expected, tenant = case
    token = minter(mints, own, own_tenant)
    refused(mint(mints, token, expected, tenant, ttl=None), 403, "RK4003")
    jwt = mint(mints, token, expected, tenant)
    assert jwt.status_code in (400, 403), jwt.text
    assert mints.get("/v0/tokens", token).status_code == 200


@pytest.mark.parametrize(
    "scopes",
    [
        [f"{EVENTS}:tenant_id = 1", "DATASOURCES:READ:daily"],
        [f"{EVENTS}:units < 9 AND tenant_id = 1"],
        [{"type": "PIPES:READ", "resource": "keyed", "fixed_params": {"customer": 1}}, EVENTS],
    ],
    ids=["filter", "and", "key"],
)
def test_a_minter_selects_its_tenant_only_by_its_claim(mints: Server, scopes: Scopes) -> None:
    body = {"name": f"minter {next(numbers)}", "scopes": [MINT, *scopes]}
    response = mints.admin("POST", "/v0/tokens", json=body)
    assert refused(response, 400, "RK4018")["hint"]


def test_a_refusal_does_not_say_what_exists(mints: Server) -> None:
    token = minter(mints, [RAW], "1")
    errors = {error(mint(mints, token, [f"PIPES:READ:{pipe}"], "1"), pipe) for pipe in ("by_kind", "missing")}
    assert len(errors) == 1
    errors = {error(mint(mints, token, [RAW], tenant)) for tenant in ("2", "3", "4711", "x")}
    assert len(errors) == 1
    mints.static("somebody else's", "PIPES:READ:by_kind", tenant="2")
    for method, end in (("GET", ""), ("DELETE", ""), ("POST", "/refresh")):
        errors = {
            error(mints.request(method, f"/v0/tokens/{name}{end}", token), name)
            for name in ("somebody else's", "admin token", "missing")
        }
        assert len(errors) == 1, errors
        assert "RK4017" in errors.pop()
    assert mints.admin("GET", "/v0/tokens/somebody else's").status_code == 200


def test_a_minter_lists_only_tokens_that_it_could_mint(mints: Server) -> None:
    mints.static("raw of 1", RAW, tenant="1")
    mints.static("raw of 2", RAW, tenant="2")
    mints.static("raw and more", RAW, EVENTS, tenant="1")
    token = minter(mints, [RAW], "1")
    listed = mints.get("/v0/tokens", token).json()["tokens"]
    assert "raw of 1" in {t["name"] for t in listed}
    assert all(t["tenant"] == "1" and {s["type"] for s in t["scopes"]} <= {"PIPES:READ", MINT} for t in listed)
    assert not {"raw of 2", "raw and more", "admin token", "ingest"} & {t["name"] for t in listed}


def test_a_minter_refreshes_and_removes_its_tokens(mints: Server) -> None:
    token = minter(mints, [RAW], "1")
    old = mint(mints, token, [RAW], "1", ttl=None).json()
    new = mints.post(f"/v0/tokens/{old['name']}/refresh", token).json()
    refused(mints.get("/v0/pipes/raw.json", old["token"]), 403, "RK4002")
    assert mints.get("/v0/pipes/raw.json", new["token"]).status_code == 200
    assert mints.request("DELETE", f"/v0/tokens/{old['name']}", token).status_code == 200
    refused(mints.get("/v0/pipes/raw.json", new["token"]), 403, "RK4002")


def test_a_name_in_use_is_refused(mints: Server) -> None:
    mints.static("taken", "PIPES:READ:by_kind", tenant="2")
    token = minter(mints, [RAW], "1")
    body = {"name": "taken", "scopes": [RAW], "tenant": "1"}
    text = refused(mints.post("/v0/tokens", token, json=body), 409, "RK4016")
    assert "by_kind" not in str(text)


def test_a_removed_minter_mints_nothing(mints: Server) -> None:
    token = minter(mints, [RAW], "1")
    child = mint(mints, token, [RAW], "1").json()["token"]
    name = next(t["name"] for t in mints.admin_json("GET", "/v0/tokens")["tokens"] if t["token"] == token)
    mints.admin("DELETE", f"/v0/tokens/{name}")
    refused(mint(mints, token, [RAW], "1"), 403, "RK4002")
    refused(mints.get("/v0/tokens", token), 403, "RK4002")
    assert mints.get("/v0/pipes/raw.json", child).status_code == 200, "it is valid until it expires"


def test_a_minter_of_a_removed_tenant_is_refused(mints: Server) -> None:
    mints.tenant("5")
    token = minter(mints, [RAW], "5")
    assert mint(mints, token, [RAW], "5").status_code == 200
    assert mints.admin("DELETE", "/v0/tenants/5").status_code == 204
    refused(mint(mints, token, [RAW], "5"), 403, "RK4002")


@pytest.mark.parametrize("scope", ["ADMIN", "DEPLOY", "TENANTS:MANAGE", "TOKENS:MINT"])
def test_a_jwt_cannot_change_the_workspace(mints: Server, scope: str) -> None:
    import jwt

    body = {"name": "x", "scopes": [scope], "ttl": 60}
    refused(mints.admin("POST", "/v0/tokens", json=body), 400, "RK4018")
    key = mints.admin_json("GET", "/v0/signing-key")["secret"]
    claims = {"workspace_id": "main", "name": "x", "exp": int(time.time()) + 60, "scopes": [{"type": scope}]}
    forged = jwt.encode(claims, key, algorithm="HS256")
    for path in ("/v0/tokens", "/v0/tenants", "/v0/pipes", "/metrics"):
        refused(mints.get(path, forged), 403, "RK4002")


@pytest.mark.parametrize(
    ("scopes", "tenant"),
    [
        (["DEPLOY"], "1"),
        (["TENANTS:MANAGE"], "1"),
        (["METRICS:READ"], "1"),
        (["READ:ALL"], "1"),
        (["READ:ALL", f"{EVENTS}:units < 9"], None),
        (["READ:ALL", SALES], None),
        (["READ:ALL:events"], None),
        (["METRICS:READ:x"], None),
        (["TOKENS:MINT:x"], None),
        ([{"type": "DEPLOY", "fixed_params": {"a": 1}}], None),
        ([{"type": "READ:ALL", "filter": "units < 9"}], None),
        (["read:all"], None),
        (["READ:ALL "], None),
        (["TOKENS:*"], None),
    ],
    ids=str,
)
def test_contradicting_scopes_are_refused(mints: Server, scopes: Scopes, tenant: str | None) -> None:
    for ttl in (None, 60):
        body = {"name": "contradiction", "scopes": scopes, "tenant": tenant, "ttl": ttl}
        refused(mints.admin("POST", "/v0/tokens", json=body), 400, "RK4018")
