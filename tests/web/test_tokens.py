"""Authentication: every kind of refused token, and the accepted ones."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.support.server import Server, running
from tests.web.project import FOREIGN, TOTALS, fill
from tests.web.responses import data, refused

PATH = "/v0/pipes/by_kind.json"
SCOPES = [{"type": "PIPES:READ", "resource": "by_kind"}]


def claims(**changed: Any) -> dict[str, Any]:
    """Claims of a good token, changed; `...` takes one away."""
    body = {"workspace_id": "main", "name": "x", "exp": int(time.time()) + 600, "scopes": SCOPES, "tenant": "1"}
    return {k: v for k, v in {**body, **changed}.items() if v is not ...}


@pytest.fixture(scope="module")
def secret(server: Server) -> str:
    return str(server.admin_json("GET", "/v0/signing-key")["secret"])


def signed(secret: str, **changed: Any) -> str:
    return jwt.encode(claims(**changed), secret, algorithm="HS256")


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


def test_the_error_for_a_wrong_audience_says_so(server: Server, secret: str) -> None:
    body = refused(server.get(PATH, signed(secret, aud="elsewhere")), 403, "RK4002")
    assert "`aud`" in body["error"]


def test_valid_claims_are_accepted(server: Server, secret: str) -> None:
    for changed in ({"iat": 1}, {"nbf": 1}, {"jti": "a"}, {"limits": {"rps": 1000}}, {"exp": time.time() + 9.5}):
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


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose keys and tenants these tests may change, with an admin token from the environment."""
    path: Path = tmp_path_factory.mktemp("keys")
    with running(path, ROOKERY_ADMIN_TOKEN="chosen by the operator", ROOKERY_WORKSPACE="other") as found:
        fill(found)
        yield found


def test_the_admin_token_of_the_environment(other: Server) -> None:
    assert other.admin_json("GET", "/v0/workspace")["name"] == "other"
    for wrong in ("chosen by the operatoR", "chosen by the operator!", "chosen by the operato"):
        refused(other.get("/v0/workspace", wrong), 403, "RK4002")
    assert not (other.directory / ".rookery" / "admin_token").exists()


@pytest.mark.proves("A6")
def test_tokens_of_another_workspace(server: Server, secret: str, other: Server) -> None:
    refused(other.get(PATH, signed(secret)), 403, "RK4002")
    refused(other.get(PATH, signed(secret, workspace_id="other")), 403, "RK4002")
    refused(other.get("/v0/tokens", server.admin_token), 403, "RK4002")
    key = other.admin_json("GET", "/v0/signing-key")["secret"]
    assert data(other.get(PATH, signed(key, workspace_id="other")))
    refused(other.get(PATH, signed(key, workspace_id="main")), 403, "RK4002")


@pytest.mark.proves("A6")
def test_keys_rotate_with_an_overlap(other: Server) -> None:
    old = other.admin_json("GET", "/v0/signing-key")
    assert len(bytes.fromhex(old["secret"])) * 8 >= 256
    token = signed(old["secret"], workspace_id="other")
    assert data(other.get(PATH, token))
    new = other.admin_json("POST", "/v0/signing-key", json={"overlap": 2})
    assert new["secret"] != old["secret"]
    assert data(other.get(PATH, token)), "within the overlap"
    assert data(other.get(PATH, signed(new["secret"], workspace_id="other")))
    time.sleep(2.2)
    refused(other.get(PATH, token), 403, "RK4002")
    refused(other.get(PATH, signed(old["secret"], workspace_id="other", name="y")), 403, "RK4002")
    now = other.admin_json("POST", "/v0/signing-key", json={"overlap": 0})
    refused(other.get(PATH, signed(new["secret"], workspace_id="other")), 403, "RK4002")
    assert data(other.get(PATH, signed(now["secret"], workspace_id="other")))
    for overlap in (-1, "x", True, 10**12):
        refused(other.admin("POST", "/v0/signing-key", json={"overlap": overlap}), 400)


@pytest.mark.proves("D10", "B15")
def test_a_removed_tenant_is_refused(other: Server) -> None:
    other.tenant("7", "tables")
    token, static = (
        other.mint("PIPES:READ:by_kind", tenant="7"),
        other.static("of 7", "PIPES:READ:by_kind", tenant="7"),
    )
    append = other.static("append 7", "DATASOURCES:APPEND:events", tenant="7")
    assert other.post("/v0/events?name=events", append, content='{"units":7}').status_code == 202
    assert data(other.get(PATH, token)) == data(other.get(PATH, static)) != []
    assert other.admin("DELETE", "/v0/tenants/7").status_code == 204
    refused(other.get(PATH, token), 403, "RK4002")
    refused(other.get(PATH, static), 403, "RK4002")
    refused(other.post("/v0/events?name=events", append, content='{"units":7}'), 403, "RK4002")
    refused(
        other.post("/v0/sql", other.admin_token, content="SELECT 1", headers={"x-rookery-tenant": "7"}), 404, "RK3004"
    )


@pytest.mark.parametrize(
    "limits", [{"rps": 0}, {"rps": -1}, {"rps": "5"}, {"rps": 0.5}, {"rpm": 5}, 5, {"rps": True}]
)
def test_a_token_with_an_unenforceable_limit_is_refused(server: Server, limits: object) -> None:
    body = {"name": "x", "scopes": [{"type": "PIPES:READ", "resource": "by_kind"}], "ttl": 60, "limits": limits}
    error = refused(server.admin("POST", "/v0/tokens", json=body), 400, "RK4009")
    assert "rps" in error["error"]
