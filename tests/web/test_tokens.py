"""Authentication: every kind of refused token, and the accepted ones."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest

from engine.web.access import ACCESS, PUBLIC
from tests.support.server import Server
from tests.web.project import FOREIGN, TOTALS
from tests.web.responses import data, refused
from tests.web.signing import PATH, SCOPES, claims, signed


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


@pytest.mark.proves("A1", "A5", "A7")
@pytest.mark.parametrize("tenant", ["1", "2"])
def test_each_tenant_sees_its_own_rows(server: Server, secret: str, tenant: str) -> None:
    token = signed(secret, tenant=tenant)
    by_header, by_query = server.get(PATH, token), server.get(PATH, params={"token": token})
    for response in (by_header, by_query):
        assert {r["kind"]: r["units"] for r in data(response)} == TOTALS[tenant]
        assert not [t for t in FOREIGN[tenant] if t in str(data(response))]
    assert data(server.get(PATH, headers={"authorization": f"bearer  {token}"})), "the scheme in any case"


def test_a_missing_token_is_refused(server: Server) -> None:
    for headers in ({}, {"authorization": ""}, {"authorization": "Basic eDp5"}, {"authorization": "Bearer"}):
        refused(server.get(PATH, headers=headers), 403, "RK4001")
    refused(server.get(f"{PATH}?token="), 403, "RK4001")


@pytest.mark.parametrize(
    "token",
    ["x", " ", "p.", "p.a.b", "p.a.b.c", "a.b.c", "...", "ey", "ü.ü.ü", "null", "Bearer", "a" * 5000, "\u2028"],
)
def test_a_malformed_token_is_refused(server: Server, token: str) -> None:
    refused(server.get(PATH, params={"token": token}), 403, "RK4002")


def test_different_tokens_in_header_and_query_are_refused(server: Server, secret: str) -> None:
    good = signed(secret)
    refused(server.get(PATH, good, params={"token": server.admin_token}), 400, "RK4009")
    assert server.get(f"{PATH}?token={good}&token=other").status_code in (400, 403)
    assert server.get(f"{PATH}?token=other&token={good}").status_code in (400, 403)
    assert data(server.get(PATH, good, params={"token": good}))


@pytest.mark.proves("A6")
def test_every_flipped_byte_is_refused(server: Server, secret: str) -> None:
    header, payload, signature = signed(secret).split(".")
    raw = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    for position in range(0, len(raw), 3):
        changed = bytearray(raw)
        changed[position] ^= 1
        refused(server.get(PATH, f"{header}.{encoded(bytes(changed))}.{signature}"), 403, "RK4002")
    for tenant in ("2", "3"):
        forged = encoded(json.dumps(claims(tenant=tenant)).encode())
        refused(server.get(PATH, f"{header}.{forged}.{signature}"), 403, "RK4002")
    for wrong in (signature[:-4], signature[::-1], "", signature + "AAAA", "!" + signature):
        refused(server.get(PATH, f"{header}.{payload}.{wrong}"), 403, "RK4002")
    static = server.static("flipped", "PIPES:READ:by_kind", tenant="1")
    _, body, seal = static.split(".")
    for position in range(0, len(body), 5):
        other = "A" if body[position] != "A" else "B"
        refused(server.get(PATH, f"p.{body[:position]}{other}{body[position + 1 :]}.{seal}"), 403, "RK4002")


@pytest.mark.proves("A6")
def test_algorithms_are_pinned(server: Server, secret: str) -> None:
    for algorithm in ("HS384", "HS512"):
        refused(server.get(PATH, jwt.encode(claims(), secret * 2, algorithm=algorithm)), 403, "RK4002")
        refused(server.get(PATH, jwt.encode(claims(), secret, algorithm=algorithm)), 403, "RK4002")
    payload = encoded(json.dumps(claims()).encode())
    for name in ("none", "None", "NONE", "nOnE", "", "RS256", "ES256"):
        header = encoded(json.dumps({"alg": name, "typ": "JWT"}).encode())
        text = f"{header}.{payload}"
        honest = encoded(hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest())
        for signature in ("", honest):
            refused(server.get(PATH, f"{text}.{signature}"), 403, "RK4002")


@pytest.mark.proves("A6")
def test_a_public_key_is_not_accepted_as_a_secret(server: Server, secret: str) -> None:
    """What is known in public (a certificate, the workspace's name, the id of the key) verifies nothing."""
    kid = str(server.admin_json("GET", "/v0/signing-key")["kid"])
    public = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"
    for key in (public, kid, "main", "", server.admin_token, secret.upper(), bytes.fromhex(secret).hex()[:-1] + "z"):
        header = encoded(json.dumps({"alg": "HS256", "typ": "JWT", "kid": kid}).encode())
        text = f"{header}.{encoded(json.dumps(claims()).encode())}"
        seal = encoded(hmac.new(key.encode(), text.encode(), hashlib.sha256).digest())
        refused(server.get(PATH, f"{text}.{seal}"), 403, "RK4002")


REFUSED: list[dict[str, Any]] = [
    {"exp": ...},
    {"exp": 0},
    {"exp": -1},
    {"exp": "soon"},
    {"exp": str(int(time.time()) + 600)},
    {"exp": None},
    {"exp": True},
    {"exp": float("inf")},
    {"exp": float("nan")},
    {"exp": []},
    {"nbf": int(time.time()) + 6000},
    {"nbf": float("inf")},
    {"iat": "x"},
    {"workspace_id": ...},
    {"workspace_id": "other"},
    {"workspace_id": ["main"]},
    {"name": ...},
    {"name": ""},
    {"name": 5},
    {"name": "x" * 201},
    {"scopes": ...},
    {"scopes": []},
    {"scopes": "PIPES:READ:by_kind"},
    {"scopes": [[]]},
    {"scopes": [{"type": "ADMIN"}]},
    {"scopes": [*SCOPES, {"type": "ADMIN"}]},
    {"scopes": [{"type": "PIPES:READ"}]},
    {"scopes": [{"type": "PIPES:READ", "resource": "*"}]},
    {"scopes": [{"type": "PIPES:READ", "resource": ["by_kind"]}]},
    {"scopes": [{"type": ["PIPES:READ"], "resource": "by_kind"}]},
    {"scopes": [{"type": "PIPES:READ", "resource": "by_kind", "filter": "1"}]},
    {"scopes": [{"type": "PIPES:READ", "resource": "by_kind", "fixed_params": ["a"]}]},
    {"scopes": [{"type": "PIPES:READ", "resource": "by_kind", "fixed_parameters": {}}]},
    {"scopes": [{**SCOPES[0], "fixed_params": {"kind": "a"}}, {**SCOPES[0], "fixed_params": {"kind": "b"}}]},
    {"scopes": [{**SCOPES[0], "fixed_params": {"knid": "a"}}]},
    {"tenant": None},
    {"tenant": 1},
    {"tenant": "01"},
    {"tenant": "1 "},
    {"tenant": ""},
    {"tenant": "3"},
    {"tenant": "9"},
    {"tenant": "1' OR '1'='1"},
    {"tenant": "1\x00"},
    {"limits": 5},
    {"limits": {"rps": "5"}},
    {"limits": {"rps": 0}},
    {"limits": {"rps": -1}},
    {"limits": {"rpm": 5}},
    {"role": "admin"},
    {"aud": "x"},
    {"sub": "x"},
    {"filters": []},
]


@pytest.mark.proves("A5", "D10")
@pytest.mark.parametrize("changed", REFUSED, ids=[f"{i}-{'-'.join(c)}" for i, c in enumerate(REFUSED)])
def test_invalid_claims_are_refused(server: Server, secret: str, changed: dict[str, Any]) -> None:
    refused(server.get(PATH, signed(secret, **changed)), 403, "RK4002")
    refused(server.get("/v0/sql?q=SELECT+1", signed(secret, **changed)), 403)


def test_an_expiry_in_milliseconds_is_explained(server: Server, secret: str) -> None:
    body = refused(server.get(PATH, signed(secret, exp=int(time.time() + 600) * 1000)), 403, "RK4002")
    assert "milliseconds" in body["hint"]
    body = refused(server.get(PATH, signed(secret, exp=int(time.time()) + 40_000_000)), 403, "RK4002")
    assert "shorter" in body["hint"]


@pytest.mark.parametrize("claims", [{"sub": 17}, {"sub": "17"}, {"iss": "me"}])
def test_the_error_for_an_unknown_claim_names_it(server: Server, secret: str, claims: dict[str, Any]) -> None:
    body = refused(server.get(PATH, signed(secret, **claims)), 403, "RK4002")
    assert f"`{next(iter(claims))}`" in body["error"]


def test_the_error_for_a_wrong_audience_says_so(server: Server, secret: str) -> None:
    body = refused(server.get(PATH, signed(secret, aud="elsewhere")), 403, "RK4002")
    assert "`aud`" in body["error"]


def test_valid_claims_are_accepted(server: Server, secret: str) -> None:
    for changed in (
        {"iat": 1},
        {"nbf": 1},
        {"jti": "a"},
        {"jti": 5},
        {"limits": {"rps": 1000}},
        {"exp": time.time() + 9.5},
    ):
        assert data(server.get(PATH, signed(secret, **changed)))


@pytest.mark.proves("A5")
def test_a_cached_token_expires(server: Server, secret: str) -> None:
    for seconds in (2, 8, 32):
        expires = int(time.time()) + seconds
        token = signed(secret, exp=expires)
        # On a slow machine it may have expired already; then use a longer one.
        if server.get(PATH, token).status_code == 200:
            break
    else:
        raise AssertionError("it never held")
    time.sleep(max(0.0, expires + 0.1 - time.time()))
    refused(server.get(PATH, token), 403, "RK4002")


def test_static_tokens(server: Server) -> None:
    with_tenant = server.static("static with tenant", "PIPES:READ:by_kind", tenant="2")
    assert {r["kind"]: r["units"] for r in data(server.get(PATH, with_tenant))} == TOTALS["2"]
    without = server.static("static without tenant", "PIPES:READ:by_kind", "PIPES:READ:priced")
    refused(server.get(PATH, without), 403, "RK4004")
    assert data(server.get("/v0/pipes/priced.json", without))
    readable = json.loads(base64.urlsafe_b64decode(without.split(".")[1] + "=="))
    assert set(readable) == {"u", "id", "host"}


@pytest.mark.parametrize(
    "limits", [{"rps": 0}, {"rps": -1}, {"rps": "5"}, {"rps": 0.5}, {"rpm": 5}, 5, {"rps": True}]
)
def test_a_token_with_an_unenforceable_limit_is_refused(server: Server, limits: object) -> None:
    body = {"name": "x", "scopes": [{"type": "PIPES:READ", "resource": "by_kind"}], "ttl": 60, "limits": limits}
    error = refused(server.admin("POST", "/v0/tokens", json=body), 400, "RK4009")
    assert "rps" in error["error"]


HALF_A_PAIR = "\ud800"


@pytest.mark.parametrize(
    "changed",
    [
        {"name": HALF_A_PAIR},
        {"tenant": HALF_A_PAIR},
        {"jti": HALF_A_PAIR},
        {"scopes": [{**SCOPES[0], "fixed_params": {"kind": [{HALF_A_PAIR: 1}]}}]},
        {"scopes": [{"type": "DATASOURCES:READ", "resource": "events", "filter": f"kind = '{HALF_A_PAIR}'"}]},
        {"scopes": [{"type": "DATASOURCES:APPEND", "resource": "events"}], "name": f"x{HALF_A_PAIR}"},
    ],
    ids=range(6),
)
def test_claims_that_no_text_can_have_are_refused(server: Server, secret: str, changed: dict[str, Any]) -> None:
    token = signed(secret, **changed)
    for response in (server.get(PATH, token), server.post("/v0/events?name=events", token, content="{}")):
        refused(response, 403, "RK4002")


@pytest.mark.proves("D10")
def test_no_route_accepts_a_token_of_a_tenant_that_does_not_exist(server: Server, secret: str) -> None:
    scopes = [*SCOPES, {"type": "DATASOURCES:APPEND", "resource": "events"}]
    token = signed(secret, tenant="404", scopes=scopes)
    for path, methods in ACCESS.items():
        for method in (m for m, allowed in methods.items() if allowed is not PUBLIC):
            url = path.format(name="by_kind", format="json", id="1", key="k", code="")
            refused(server.request(method, url, token), 403, "RK4002")


def test_a_token_cannot_have_the_id_of_another_as_its_name(server: Server) -> None:
    tokens = server.admin_json("GET", "/v0/tokens")["tokens"]
    id = next(t["id"] for t in tokens if t["name"] == "admin token")
    refused(server.admin("POST", "/v0/tokens", json={"name": id, "scopes": ["METRICS:READ"]}), 409, "RK4016")
