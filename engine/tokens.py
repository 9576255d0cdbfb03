"""Tokens and what the rest of the code sees of them: `Claims`.

Two kinds. **Static** tokens (`p.<payload>.<signature>`) are named rows of the workspace: they live until removed
and can be shown again, since their text is derived from the workspace's static secret. **JWTs** carry their own
scopes and expire. Both are signed, not encrypted: anybody who holds one can read what is in it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt

from engine.errors import BAD_SCOPE, BAD_TOKEN, SCOPE, RookeryError

ALGORITHM = "HS256"
MIN_KEY_BYTES = 32
SCOPE_TYPES = ("ADMIN", "PIPES:READ", "DATASOURCES:READ", "DATASOURCES:APPEND")
RESOURCE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,119}")


@dataclass(frozen=True, slots=True)
class Scope:
    """One permission: its type, the resource it names ('' for ADMIN), an optional row filter (SQL text)
    and fixed parameters of a pipe."""

    type: str
    resource: str = ""
    filter: str | None = None
    fixed_params: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def parse(text: str) -> Scope:
        """A scope from `TYPE:RESOURCE[:FILTER]`. Raises RK4018."""
        if text == "ADMIN":
            return Scope("ADMIN")
        kind, _, rest = text.partition(":")
        verb, _, rest = rest.partition(":")
        resource, _, row_filter = rest.partition(":")
        return Scope.of({"type": f"{kind}:{verb}", "resource": resource, "filter": row_filter.strip() or None})

    @staticmethod
    def of(body: Any) -> Scope:
        """A scope from plain data, closed over its keys. Raises RK4018."""
        if not isinstance(body, dict) or set(body) - {"type", "resource", "filter", "fixed_params"}:
            raise RookeryError(BAD_SCOPE, "a scope is an object of type, resource, filter and fixed_params")
        kind, resource = body.get("type"), body.get("resource") or ""
        row_filter, fixed = body.get("filter"), body.get("fixed_params") or {}
        if kind not in SCOPE_TYPES:
            raise RookeryError(BAD_SCOPE, f"unknown scope type {kind!r}", hint="one of " + ", ".join(SCOPE_TYPES))
        if kind == "ADMIN":
            if resource or row_filter or fixed:
                raise RookeryError(BAD_SCOPE, "ADMIN takes no resource, filter or fixed_params")
            return Scope("ADMIN")
        if not isinstance(resource, str) or not RESOURCE.fullmatch(resource):
            raise RookeryError(BAD_SCOPE, f"{kind} needs the name of one resource", hint=f"{kind}:my_resource")
        if row_filter is not None and (not isinstance(row_filter, str) or kind != "DATASOURCES:READ"):
            raise RookeryError(BAD_SCOPE, "only DATASOURCES:READ takes a filter, as SQL text")
        if not isinstance(fixed, dict) or (fixed and kind != "PIPES:READ"):
            raise RookeryError(BAD_SCOPE, "only PIPES:READ takes fixed_params, as an object")
        return Scope(kind, resource, row_filter or None, dict(fixed))

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"type": self.type}
        for key in ("resource", "filter", "fixed_params"):
            if getattr(self, key):
                found[key] = getattr(self, key)
        return found


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says. The tenant of a request comes from here and nowhere else.

    `subject` is the token's name (for logs and limits), `tenant` a canonical tenant id or None, `expires` Unix
    seconds or None, `rps` requests per second or None.
    """

    subject: str
    scopes: tuple[Scope, ...]
    tenant: str | None = None
    expires: int | None = None
    rps: int | None = None
    static_id: str | None = None

    @property
    def is_admin(self) -> bool:
        return any(s.type == "ADMIN" for s in self.scopes)

    def allowing(self, kind: str, resource: str) -> list[Scope]:
        return [s for s in self.scopes if s.type == kind and s.resource == resource]

    def require_admin(self) -> None:
        if not self.is_admin:
            raise RookeryError(SCOPE, "this needs the admin token")

    def fixed_params(self, pipe: str) -> dict[str, Any]:
        """Fixed parameters for a pipe. Two scopes that fix one parameter differently make the token unusable."""
        fixed: dict[str, Any] = {}
        for scope in self.allowing("PIPES:READ", pipe):
            for name, value in scope.fixed_params.items():
                if name in fixed and fixed[name] != value:
                    raise RookeryError(BAD_TOKEN, f"the token fixes `{name}` to two values")
                fixed[name] = value
        return fixed

    def filters(self, datasource: str) -> tuple[str, ...]:
        """Row filters for a datasource; all of them apply."""
        return tuple(sorted({s.filter for s in self.allowing("DATASOURCES:READ", datasource) if s.filter}))


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A workspace key: id, at least 256 bits as hex text, and when it stops verifying (Unix seconds, None: never)."""

    id: str
    secret: str
    retires: int | None = None

    @staticmethod
    def new() -> SigningKey:
        return SigningKey(secrets.token_hex(4), secrets.token_hex(MIN_KEY_BYTES))


def sign(claims: Claims, workspace: str, key: SigningKey) -> str:
    """A JWT for claims that expire. The name of the signing key goes into the header as `kid`."""
    if claims.expires is None:
        raise RookeryError(BAD_SCOPE, "a JWT needs an expiry")
    body: dict[str, Any] = {
        "workspace_id": workspace,
        "name": claims.subject,
        "exp": claims.expires,
        "scopes": [s.as_dict() for s in claims.scopes],
    }
    if claims.tenant is not None:
        body["tenant"] = claims.tenant
    if claims.rps:
        body["limits"] = {"rps": claims.rps}
    return jwt.encode(body, key.secret, algorithm=ALGORITHM, headers={"kid": key.id})


def usable_keys(keys: Iterable[SigningKey], now: float) -> list[SigningKey]:
    """The keys that verify at a moment."""
    return [k for k in keys if k.retires is None or k.retires > now]


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits on times in JWTs, in seconds: how far clocks may differ, and how far ahead `exp` may lie."""

    leeway: float = 60.0
    longest: float = 366 * 86_400.0


def verify(
    token: str, workspace: str, keys: Iterable[SigningKey], now: float | None = None, rules: Rules | None = None
) -> Claims:
    """Claims of a JWT. Algorithms are pinned; expiry, workspace and name are required. Raises RK4002, with why."""
    moment = time.time() if now is None else now
    known = usable_keys(keys, moment)
    kid = _kid(token)
    # Times are judged below: the library has one leeway for all of them.
    options: Any = {"require": ["exp"], "verify_exp": False, "verify_iat": False, "verify_nbf": False}
    for key in known:
        try:
            body = jwt.decode(token, key.secret, algorithms=[ALGORITHM], options=options)
        except jwt.InvalidSignatureError:
            continue
        except jwt.MissingRequiredClaimError as exc:
            raise RookeryError(BAD_TOKEN, f"the token has no `{exc.claim}`") from exc
        except jwt.InvalidAudienceError as exc:
            raise RookeryError(
                BAD_TOKEN, "the token has an `aud`, and is for another audience", hint="leave it out"
            ) from exc
        except (jwt.PyJWTError, ValueError, RecursionError) as exc:
            raise RookeryError(BAD_TOKEN, "the token is not a valid JWT", detail=str(exc)) from exc
        _check_times(body, moment, rules or Rules())
        return _claims(body, workspace)
    if kid is not None and kid not in {key.id for key in known}:
        raise RookeryError(
            BAD_TOKEN,
            "the token is signed with a key that this workspace does not have",
            hint="the key may have been rotated: rookery token key",
        )
    raise RookeryError(BAD_TOKEN, "the token's signature is not valid", hint="the signing key: rookery token key")


def _kid(token: str) -> object:
    """The key that a JWT's header names. Raises RK4002 for what is no JWT, or one of another algorithm."""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError) as exc:
        raise RookeryError(BAD_TOKEN, "the token is neither a static token nor a JWT", detail=str(exc)) from exc
    if header.get("alg") != ALGORITHM:
        raise RookeryError(BAD_TOKEN, f"the token is not signed with {ALGORITHM}")
    return header.get("kid")


def _check_times(body: Mapping[str, Any], now: float, rules: Rules) -> None:
    expires = _seconds(body, "exp")
    if expires is None or expires <= now:
        raise RookeryError(BAD_TOKEN, "the token has expired")
    if expires > now + rules.longest + rules.leeway:
        raise RookeryError(
            BAD_TOKEN,
            f"the token's `exp` lies more than {rules.longest:.0f} seconds ahead",
            hint="mint it for a shorter time; the limit is ROOKERY_MAX_TOKEN_SECONDS",
        )
    for name in ("nbf", "iat"):
        moment = _seconds(body, name)
        if moment is not None and moment > now + rules.leeway:
            ahead = f"`{name}` is {moment - now:.0f} seconds ahead of the server's clock"
            raise RookeryError(
                BAD_TOKEN,
                f"the token is not valid yet: {ahead}",
                hint=f"clocks may differ by {rules.leeway:g} seconds (ROOKERY_TOKEN_LEEWAY)",
            )


def _seconds(body: Mapping[str, Any], name: str) -> float | None:
    """A claim that is a moment. Raises RK4002 for one that is none."""
    value = body.get(name)
    if name not in body:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e15:
        raise RookeryError(BAD_TOKEN, f"the token's `{name}` is not a number of seconds")
    return float(value)


_CLAIMS = frozenset({"workspace_id", "name", "exp", "iat", "nbf", "jti", "scopes", "tenant", "limits"})


def _claims(body: Mapping[str, Any], workspace: str) -> Claims:
    unknown = set(body) - _CLAIMS
    if unknown:
        raise RookeryError(BAD_TOKEN, f"the token has an unknown claim `{min(unknown)[:40]}`")
    if body.get("workspace_id") != workspace:
        raise RookeryError(BAD_TOKEN, "the token is for another workspace")
    name, tenant, scopes, expires = body.get("name"), body.get("tenant"), body.get("scopes"), body["exp"]
    if not isinstance(name, str) or not 0 < len(name) <= 200:
        raise RookeryError(BAD_TOKEN, "the token has no name")
    if "tenant" in body and not isinstance(tenant, str):
        raise RookeryError(BAD_TOKEN, "the token's tenant is not text")
    if not isinstance(scopes, list) or not scopes or len(scopes) > 500:
        raise RookeryError(BAD_TOKEN, "the token has no scopes")
    try:
        parsed = tuple(Scope.of(s) for s in scopes)
    except RookeryError as exc:
        raise RookeryError(BAD_TOKEN, f"the token's scopes: {exc.message}") from exc
    if any(s.type == "ADMIN" for s in parsed):
        raise RookeryError(BAD_TOKEN, "a JWT cannot be an admin token")
    return Claims(name, parsed, tenant, int(expires), _rps(body))


def _rps(body: Mapping[str, Any]) -> int | None:
    """Requests per second. A limit that is not understood is refused, so that none is believed that is not there."""
    limits = body.get("limits", {})
    rps = limits.get("rps") if isinstance(limits, dict) else 0
    if rps is None and not limits:
        return None
    if not isinstance(rps, int) or isinstance(rps, bool) or rps < 1 or set(limits) - {"rps"}:
        raise RookeryError(BAD_TOKEN, "the token's limits are not understood", hint="rps is a whole number from 1")
    return rps


# --- static tokens -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StaticToken:
    """A named token of the workspace, as stored. `nonce` changes when it is refreshed."""

    name: str
    scopes: tuple[Scope, ...]
    tenant: str | None
    nonce: str
    origin: str = "user"

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "scopes": [s.as_dict() for s in self.scopes],
            "tenant": self.tenant,
            "nonce": self.nonce,
            "origin": self.origin,
        }

    @staticmethod
    def of(body: Mapping[str, Any]) -> StaticToken:
        scopes = tuple(Scope.of(s) for s in body["scopes"])
        return StaticToken(body["name"], scopes, body.get("tenant"), body["nonce"], body.get("origin", "user"))

    def claims(self) -> Claims:
        return Claims(self.name, self.scopes, self.tenant, static_id=self.nonce)


def static_text(token: StaticToken, workspace: str, host: str, secret: str) -> str:
    """The text of a static token: `p.`, its readable payload, and a signature."""
    payload = json.dumps({"u": workspace, "id": token.nonce, "host": host}, separators=(",", ":"))
    body = base64.urlsafe_b64encode(payload.encode()).decode().rstrip("=")
    return f"p.{body}.{_seal(body, secret)}"


def static_id(text: str, workspace: str, secret: str) -> str | None:
    """The id (nonce) in a static token whose signature holds, else None."""
    parts = text.split(".")
    if (
        len(parts) != 3
        or parts[0] != "p"
        or not hmac.compare_digest(parts[2].encode(), _seal(parts[1], secret).encode())
    ):
        return None
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    if not isinstance(payload, dict) or payload.get("u") != workspace:
        return None
    return str(payload.get("id"))


def _seal(body: str, secret: str) -> str:
    digest = hmac.new(secret.encode(), body.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def new_secret() -> str:
    """A fresh 256-bit secret or id, as hex text."""
    return secrets.token_hex(MIN_KEY_BYTES)
