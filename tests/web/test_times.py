"""Times in JWTs: clocks may differ a little, `exp` has a maximum, and the answer says what is wrong."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
import pytest

from engine.errors import RookeryError
from engine.tokens.jwts import Rules, SigningKey, verify
from tests.support.server import Server
from tests.web.responses import data, refused

NOW, DAY = 1_800_000_000.0, 86_400
KEY = SigningKey("0001", "a" * 64)
PIPE = {"type": "PIPES:READ", "resource": "by_kind"}


def made(key: str = KEY.secret, headers: dict[str, Any] | None = None, **changed: Any) -> str:
    body = {"workspace_id": "main", "name": "a", "exp": int(NOW) + 60, "scopes": [PIPE], **changed}
    return jwt.encode({k: v for k, v in body.items() if v is not None}, key, algorithm="HS256", headers=headers)


GOOD = (
    {"iat": NOW + 59},
    {"nbf": NOW + 59},
    {"iat": NOW - 10 * DAY, "nbf": NOW - 10 * DAY},
    {"exp": NOW + 1},
    {"exp": NOW + 366 * DAY},
    {"iat": None},
)
BAD = (
    ({"iat": NOW + 61}, "not valid yet: `iat` is 61 seconds ahead"),
    ({"nbf": NOW + 3600}, "not valid yet: `nbf` is 3600 seconds ahead"),
    ({"exp": NOW}, "expired"),
    ({"exp": NOW - 1, "iat": NOW + 3600}, "expired"),
    ({"exp": NOW + 367 * DAY}, "`exp` is more than"),
    ({"exp": 10**12}, "`exp` is more than"),
    ({"exp": 10**400}, "`exp` is not a number"),
    ({"exp": float("nan")}, "`exp` is not a number"),
    ({"exp": "soon"}, "`exp` is not a number"),
    ({"exp": None}, "no `exp`"),
    ({"iat": "now"}, "`iat` is not a number"),
    ({"nbf": True}, "`nbf` is not a number"),
    ({"key": "b" * 64}, "signature is not valid"),
    ({"key": "b" * 64, "headers": {"kid": "0002"}}, "a key that this workspace does not have"),
    ({"key": "b" * 64, "headers": {"kid": KEY.id}, "exp": 1}, "signature is not valid"),
)


@pytest.mark.parametrize("changed", GOOD, ids=str)
def test_small_clock_differences_are_tolerated(changed: dict[str, Any]) -> None:
    assert verify(made(**changed), "main", [KEY], NOW).subject == "a"


@pytest.mark.parametrize(("changed", "reason"), BAD, ids=str)
def test_the_error_names_the_reason(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(RookeryError) as caught:
        verify(made(**changed), "main", [KEY], NOW)
    assert caught.value.code.id == "RK4002" and reason in caught.value.message


def test_foreign_jwts_are_refused() -> None:
    signed = jwt.encode({"exp": NOW + 1}, "c" * 128, algorithm="HS512")
    for text, reason in (("a.b", "neither"), ("x" * 1000, "neither"), (signed, "HS256"), (made()[:-3], "signature")):
        with pytest.raises(RookeryError) as caught:
            verify(text, "main", [KEY], NOW)
        assert reason in caught.value.message


def test_the_limits_are_settings() -> None:
    rules = Rules(leeway=5, longest=100)
    assert verify(made(exp=NOW + 105, iat=NOW + 5), "main", [KEY], NOW, rules)
    for changed in ({"exp": NOW + 106}, {"iat": NOW + 6}):
        with pytest.raises(RookeryError):
            verify(made(**changed), "main", [KEY], NOW, rules)


def test_over_http(server: Server) -> None:
    key = server.admin_json("GET", "/v0/signing-key")["secret"]
    now = time.time()
    body = {"tenant": "1", "exp": int(now) + 600}
    assert data(server.get("/v0/pipes/by_kind.json", made(key, **body, iat=int(now) + 20, nbf=int(now) + 20)))
    for changed, reason in (
        ({"iat": int(now) + 3600}, "not valid yet"),
        ({"exp": int(now) - 5}, "expired"),
        ({"exp": int(now) + 800 * DAY}, "`exp`"),
    ):
        error = refused(server.get("/v0/pipes/by_kind.json", made(key, **{**body, **changed})), 403, "RK4002")
        assert reason in error["error"], json.dumps(error)
    refused(server.admin("POST", "/v0/tokens", json={"name": "a", "ttl": 400 * DAY, "scopes": [PIPE]}), 400, "RK4018")
