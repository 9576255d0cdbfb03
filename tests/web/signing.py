"""Tokens that a test signs with the workspace's key."""

from __future__ import annotations

import time
from typing import Any

import jwt

PATH = "/v0/pipes/by_kind.json"
SCOPES = [{"type": "PIPES:READ", "resource": "by_kind"}]


def claims(**changed: Any) -> dict[str, Any]:
    """Claims of a good token, changed; `...` takes one away."""
    body = {"workspace_id": "main", "name": "x", "exp": int(time.time()) + 600, "scopes": SCOPES, "tenant": "1"}
    return {k: v for k, v in {**body, **changed}.items() if v is not ...}


def signed(secret: str, **changed: Any) -> str:
    return jwt.encode(claims(**changed), secret, algorithm="HS256")
