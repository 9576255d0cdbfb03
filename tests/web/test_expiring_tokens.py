"""Static tokens with a lifetime: they expire, no later than their minter, and keep their expiry."""

from __future__ import annotations

import time

import httpx
import pytest

from tests.support.server import Server
from tests.web.minters import MINT, RAW, mint
from tests.web.responses import refused

# --- static tokens that expire -------------------------------------------------------------------------------------


def create(server: Server, token: str, name: str, ttl: int | None, *scopes: str) -> httpx.Response:
    """A static token of tenant 1, for a caller."""
    body = {"name": name, "scopes": list(scopes), "tenant": "1", "ttl": ttl, "static": True}
    return server.post("/v0/tokens", token, json=body)


def test_a_static_token_expires(mints: Server) -> None:
    long = create(mints, mints.admin_token, "long lived", 3600, RAW).json()
    assert create(mints, mints.admin_token, "long lived", 60, RAW).json() == long, "it exists"
    refused(create(mints, mints.admin_token, "long lived", None, RAW), 409, "RK4016")
    before = int(time.time())
    created = create(mints, mints.admin_token, "short", 1, RAW).json()
    assert before + 1 <= created["expires"] <= time.time() + 1
    for _ in range(600):
        if mints.get("/v0/pipes/raw.json", created["token"]).status_code != 200:
            break
        time.sleep(0.1)
    assert "expired" in refused(mints.get("/v0/pipes/raw.json", created["token"]), 403, "RK4002")["error"]
    replaced = create(mints, mints.admin_token, "short", None, RAW).json()
    assert replaced["token"] != created["token"]
    assert replaced["expires"] is None
    assert [t["token"] for t in mints.admin_json("GET", "/v0/tokens")["tokens"] if t["name"] == "short"] == [
        replaced["token"]
    ]
    assert mints.get("/v0/pipes/raw.json", replaced["token"]).status_code == 200


def test_a_token_expires_no_later_than_its_minter(mints: Server) -> None:
    minter = create(mints, mints.admin_token, "expiring minter", 3600, MINT, RAW).json()["token"]
    assert create(mints, minter, "earlier", 3000, RAW).status_code == 200
    assert mint(mints, minter, [RAW], "1", ttl=3000).status_code == 200
    for ttl in (7200, None):
        refused(create(mints, minter, "later", ttl, RAW), 403, "RK4003")
    refused(mint(mints, minter, [RAW], "1", ttl=7200), 403, "RK4003")
    # An existing token with the same scopes that is valid for longer is not shown.
    create(mints, mints.admin_token, "long", 7200, RAW)
    refused(create(mints, minter, "long", 60, RAW), 403, "RK4003")
    assert {"earlier", "long"} & {t["name"] for t in mints.get("/v0/tokens", minter).json()["tokens"]} == {"earlier"}
    refused(mints.get("/v0/tokens/long", minter), 404, "RK4017")


def test_an_expired_minter_mints_nothing(mints: Server) -> None:
    created = create(mints, mints.admin_token, "expired minter", 1, MINT, RAW).json()
    while time.time() <= created["expires"]:
        time.sleep(0.1)
    refused(mint(mints, created["token"], [RAW], "1", ttl=1), 403, "RK4002")
    refused(mints.get("/v0/tokens", created["token"]), 403, "RK4002")


@pytest.mark.parametrize("ttl", [0, -1, 10**12, 10**30])
def test_impossible_lifetimes_are_refused(mints: Server, ttl: int) -> None:
    assert create(mints, mints.admin_token, "impossible", ttl, RAW).status_code == 400


def test_expiring_tokens_keep_their_expiry(mints: Server) -> None:
    created = create(mints, mints.admin_token, "kept", 3600, RAW).json()
    assert mints.admin_json("POST", "/v0/tokens/kept/refresh")["expires"] == created["expires"]
    assert mints.admin("DELETE", "/v0/tokens/kept").status_code == 200
    assert mints.admin("GET", "/v0/tokens/kept").status_code == 404
    mints.tenant("6")
    body = {"name": "of 6", "scopes": [RAW], "tenant": "6", "ttl": 60, "static": True}
    token = mints.admin_json("POST", "/v0/tokens", json=body)["token"]
    mints.admin("DELETE", "/v0/tenants/6")
    refused(mints.get("/v0/pipes/raw.json", token), 403, "RK4002")
