"""Tokens and signing keys never reach the log, whatever is done with them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest

from tests.support.server import Server, running_copy

ADMIN = "an admin token chosen by the operator"


@pytest.fixture(scope="module")
def logged(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that writes everything into its log. Its admin token does not look like one."""
    with running_copy(
        filled, tmp_path_factory.mktemp("secrecy"), ROOKERY_LOG_LEVEL="debug", ROOKERY_ADMIN_TOKEN=ADMIN
    ) as server:
        yield server


def forged(key: str, **changed: object) -> str:
    body = {"workspace_id": "main", "name": "forged", "exp": int(time.time()) + 60, "scopes": [], **changed}
    return jwt.encode(body, key, algorithm="HS256")


@pytest.mark.proves("A7")
def test_no_token_is_in_the_log(logged: Server) -> None:
    key = logged.admin_json("GET", "/v0/signing-key")["secret"]
    good = logged.mint("PIPES:READ:by_kind", "PIPES:READ:divided", "PIPES:READ:breaks", tenant="1")
    static = logged.static("static", "PIPES:READ:by_kind", "DATASOURCES:APPEND:events", tenant="1")
    bad = {
        "wrong key": forged("0" * 64),
        "expired": forged(key, exp=1),
        "unknown claim": forged(key, claim="x"),
        "no scopes": forged(key),
        "foreign": forged(key, workspace_id="other"),
        "cut": good[:-10],
        "long": good + "x" * 50,
        "broken static": static[:-5] + "AAAAA",
        "not a token": "some-secret-text-of-a-caller",
        "password": "p@ssw0rd!-of-somebody",
    }
    tokens = {"admin": logged.admin_token, "good": good, "static": static, **bad}
    paths = [
        "/v0/pipes/by_kind.json",
        "/v0/pipes/by_kind.json?from_day=x",
        "/v0/pipes/divided.json?by=0",
        "/v0/pipes/breaks.csv?rows=200000&bad=190000",
        "/v0/pipes/nonesuch.json",
        "/v0/pipes/by_kind.xml",
        "/v0/sql?q=SELECT+1+FROM",
        "/v0/sql?q=SELECT+throwIf(1)",
        "/v0/tokens",
        "/nonesuch",
    ]
    for token in tokens.values():
        for path in paths:
            for given in ({"params": {"token": token}}, {"headers": {"authorization": f"Bearer {token}"}}):
                address = path if "params" not in given else path + ("&" if "?" in path else "?")
                if "params" in given:
                    address += str(logged.http.build_request("GET", "/", **given).url.query, "ascii")
                    given = {}
                try:
                    logged.get(address, **given)
                except Exception as exc:  # an answer that breaks off after its beginning
                    assert "incomplete" in str(exc)
        logged.post("/v0/events?name=events", token, content='{"tenant_id": "x"}')
        logged.post("/v0/events", params={"name": "events", "token": token}, content="broken")
        logged.post("/v0/pipes/by_kind.json", params={"token": token}, content="{")
        logged.post("/v0/pipes/by_kind.json", token, json={"token": token, "from_day": token[:20]})
        logged.request("BREW", f"/v0/pipes/by_kind.json?token={token[:200]}")
        logged.admin("GET", "/v0/tokens/" + token[:300].replace("/", "%2F"))
    text = logged.log()
    assert "method=GET" in text, "the log is on"
    for what, token in {**tokens, "signing key": key}.items():
        for piece in pieces(token):
            assert piece not in text, what


def pieces(token: str) -> list[str]:
    """What gives a token away: its whole text, its signature, and for a JWT also its payload."""
    parts = token.split(".")
    if len(parts) != 3:
        return [token]
    return [token, parts[1], parts[2]]


def test_the_holder_of_a_token_can_read_its_payload(logged: Server) -> None:
    """Signed, not encrypted: nothing in it may be secret, and nothing in it is the key."""
    token = logged.mint("PIPES:READ:by_kind", tenant="1")
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["tenant"] == "1"
    assert logged.admin_json("GET", "/v0/signing-key")["secret"] not in str(claims)
