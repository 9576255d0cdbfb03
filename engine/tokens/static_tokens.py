"""Static tokens: as they are stored, and the text that is derived from them and from the workspace's secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.tokens.claims import Claims, Scope

TOKEN_KINDS = ("token", "expiring_token")
"""Kinds of records in the registry. Programs that do not know that static tokens can expire only read the first, and
refuse the others.
"""


@dataclass(frozen=True, slots=True)
class StaticToken:
    """A named token as it is stored in the workspace."""

    name: str
    scopes: tuple[Scope, ...]
    tenant: str | None
    nonce: str
    """A random id in the token. Refreshing the token changes it, which invalidates the old token."""
    origin: str = "user"
    """What created the token: `user`, `file` (a declaration in a pushed file) or `admin` (the admin token)."""
    expires: int | None = None
    """When the token expires, in Unix seconds; None for a token that is valid until it is removed."""

    @property
    def kind(self) -> str:
        """The kind of its record in the registry, one of TOKEN_KINDS."""
        return TOKEN_KINDS[0] if self.expires is None else TOKEN_KINDS[1]

    def as_dict(self) -> dict[str, Any]:
        """The form in the registry, whose keys must not change. Earlier versions know no `expires`."""
        return {
            "name": self.name,
            "scopes": [s.as_dict() for s in self.scopes],
            "tenant": self.tenant,
            "nonce": self.nonce,
            "origin": self.origin,
            **({"expires": self.expires} if self.expires is not None else {}),
        }

    @staticmethod
    def of(body: Mapping[str, Any]) -> StaticToken:
        scopes = tuple(Scope.of(s) for s in body["scopes"])
        origin, expires = body.get("origin", "user"), body.get("expires")
        return StaticToken(body["name"], scopes, body.get("tenant"), body["nonce"], origin, expires)

    def claims(self) -> Claims:
        return Claims(self.name, self.scopes, self.tenant, self.expires, static_id=self.nonce)


def static_text(token: StaticToken, workspace: str, host: str, secret: str) -> str:
    """Compute a static token: `p.`, its readable payload and a signature."""
    payload = json.dumps({"u": workspace, "id": token.nonce, "host": host}, separators=(",", ":"))
    body = base64.urlsafe_b64encode(payload.encode()).decode().rstrip("=")
    return f"p.{body}.{_signature(body, secret)}"


def static_id(text: str, workspace: str, secret: str) -> str | None:
    """The nonce in a static token, or None if its signature is invalid or it is for another workspace."""
    parts = text.split(".")
    if (
        len(parts) != 3
        or parts[0] != "p"
        or not hmac.compare_digest(parts[2].encode(), _signature(parts[1], secret).encode())
    ):
        return None
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    if not isinstance(payload, dict) or payload.get("u") != workspace:
        return None
    return str(payload.get("id"))


def _signature(body: str, secret: str) -> str:
    digest = hmac.new(secret.encode(), body.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def new_secret() -> str:
    """A random 256-bit secret or id, as hexadecimal text."""
    return secrets.token_hex(32)
