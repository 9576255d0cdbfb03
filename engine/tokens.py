"""Signing and verifying tokens. The rest of the code only sees the result, `Claims`.

There are two kinds. **Static tokens** (`p.<payload>.<signature>`) are stored by name in the workspace. They are valid
until they are removed, and can be displayed again, because they are derived from the workspace's secret. **JWTs**
contain their own scopes and expire. Both are signed but not encrypted: their content is not secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt

from engine.errors import BAD_SCOPE, BAD_TOKEN, RookeryError

ALGORITHM = "HS256"
MIN_KEY_BYTES = 32
WORKSPACE_SCOPES = ("ADMIN", "DEPLOY", "TENANTS:MANAGE", "TOKENS:MINT", "METRICS:READ", "READ:ALL")
"""Scope types for the whole workspace. They name no resource."""
RESOURCE_SCOPES = ("PIPES:READ", "DATASOURCES:READ", "DATASOURCES:APPEND")
"""Scope types for one resource."""
SCOPE_TYPES = WORKSPACE_SCOPES + RESOURCE_SCOPES
JWT_SCOPES = frozenset({*RESOURCE_SCOPES, "METRICS:READ", "READ:ALL"})
"""Scope types that a JWT can have. Anyone with the signing key can sign JWTs, and a single JWT cannot be revoked, so
they cannot change files, tenants or tokens.
"""
RESOURCE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,119}")


@dataclass(frozen=True, slots=True)
class Scope:
    """A single permission."""

    type: str
    """One of SCOPE_TYPES."""
    resource: str = ""
    """The pipe or datasource that it permits; empty for WORKSPACE_SCOPES."""
    filter: str | None = None
    """An SQL condition on the rows of a datasource that its holder can read."""
    fixed_params: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of a pipe that its holder cannot change, with their values."""

    @staticmethod
    def parse(text: str) -> Scope:
        """Parse `TYPE:RESOURCE[:FILTER]`, where the type contains a colon itself. Raises RK4018."""
        if text in WORKSPACE_SCOPES:
            return Scope(text)
        # The filter may contain colons, so the scope is split from the left.
        kind, _, after_kind = text.partition(":")
        verb, _, after_verb = after_kind.partition(":")
        resource, _, row_filter = after_verb.partition(":")
        return Scope.of({"type": f"{kind}:{verb}", "resource": resource, "filter": row_filter.strip() or None})

    @staticmethod
    def of(body: Any) -> Scope:
        """Build a scope from plain data. Raises RK4018 if it is not valid or has unknown keys."""
        if not isinstance(body, dict) or set(body) - {"type", "resource", "filter", "fixed_params"}:
            message = "a scope must be an object with the keys type, resource, filter and fixed_params"
            raise RookeryError(BAD_SCOPE, message)
        kind, resource = body.get("type"), body.get("resource") or ""
        row_filter, fixed = body.get("filter"), body.get("fixed_params") or {}
        if kind not in SCOPE_TYPES:
            raise RookeryError(BAD_SCOPE, f"unknown scope type {kind!r}", hint="one of " + ", ".join(SCOPE_TYPES))
        if kind in WORKSPACE_SCOPES:
            if resource or row_filter or fixed:
                raise RookeryError(BAD_SCOPE, f"{kind} cannot have a resource, filter or fixed_params")
            return Scope(kind)
        if not isinstance(resource, str) or not RESOURCE.fullmatch(resource):
            raise RookeryError(BAD_SCOPE, f"{kind} needs the name of a resource", hint=f"{kind}:my_resource")
        if row_filter is not None and (not isinstance(row_filter, str) or kind != "DATASOURCES:READ"):
            raise RookeryError(BAD_SCOPE, "only DATASOURCES:READ can have a filter, which must be an SQL string")
        if not isinstance(fixed, dict) or (fixed and kind != "PIPES:READ"):
            raise RookeryError(BAD_SCOPE, "only PIPES:READ can have fixed_params, which must be an object")
        return Scope(kind, resource, row_filter or None, dict(fixed))

    def as_dict(self) -> dict[str, Any]:
        """The form in claims, in the registry and in responses."""
        body: dict[str, Any] = {"type": self.type}
        for key in ("resource", "filter", "fixed_params"):
            if getattr(self, key):
                body[key] = getattr(self, key)
        return body


@dataclass(frozen=True, slots=True)
class Claims:
    """The contents of a verified token. They are the only source of a request's tenant."""

    subject: str
    """The token's name, for logs and limits."""
    scopes: tuple[Scope, ...]
    tenant: str | None = None
    """A canonical tenant id; None for a token that is not limited to a tenant."""
    expires: int | None = None
    """When the token expires, in Unix seconds; None for a static token without an expiry."""
    rps: int | None = None
    """Maximum number of requests per second; None for no limit."""
    static_id: str | None = None
    """The nonce of a static token; None for a JWT."""

    @property
    def identity(self) -> tuple[str, str | None, str | None]:
        """Whose requests count together for limits. A JWT can have the name of a static token, but is another."""
        return self.subject, self.static_id, self.tenant

    @property
    def is_admin(self) -> bool:
        return "ADMIN" in self.types

    @property
    def reads_all(self) -> bool:
        """Whether the token reads the rows of all tenants."""
        return not self.types.isdisjoint(("ADMIN", "READ:ALL"))

    @property
    def types(self) -> frozenset[str]:
        """The types of the scopes."""
        return frozenset(s.type for s in self.scopes)

    def allowing(self, kind: str, resource: str) -> list[Scope]:
        """The scopes of this type for this resource."""
        return [s for s in self.scopes if s.type == kind and s.resource == resource]

    def fixed_params(self, pipe: str) -> dict[str, Any]:
        """The fixed parameters for a pipe. Raises RK4002 if two scopes fix a parameter to different values."""
        fixed: dict[str, Any] = {}
        for scope in self.allowing("PIPES:READ", pipe):
            for name, value in scope.fixed_params.items():
                if name in fixed and fixed[name] != value:
                    raise RookeryError(BAD_TOKEN, f"the token fixes `{name}` to two different values")
                fixed[name] = value
        return fixed

    def filters(self, datasource: str) -> tuple[str, ...]:
        """Row filters for a datasource; all of them apply."""
        return tuple(sorted({s.filter for s in self.allowing("DATASOURCES:READ", datasource) if s.filter}))


def check_combination(scopes: Sequence[Scope], tenant: str | None) -> None:
    """Refuse scopes that contradict one another or the tenant. Raises RK4018."""
    kinds = {s.type for s in scopes}
    if tenant is not None:
        # TOKENS:MINT is the exception: it mints tokens of this tenant only.
        unbound = next((k for k in WORKSPACE_SCOPES if k in kinds and k != "TOKENS:MINT"), None)
        if unbound is not None:
            raise RookeryError(BAD_SCOPE, f"a token with {unbound} cannot have a tenant")
    if "READ:ALL" in kinds and any(s.filter or s.fixed_params for s in scopes):
        raise RookeryError(BAD_SCOPE, "a token with READ:ALL cannot have filters or fixed_params")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs and verifies the JWTs of a workspace."""

    id: str
    """The `kid` in the header of the JWTs that it signs."""
    secret: str
    """At least 256 bits, as hexadecimal text."""
    retires: int | None = None
    """When the key stops verifying tokens, in Unix seconds; None means never."""

    @staticmethod
    def new() -> SigningKey:
        return SigningKey(secrets.token_hex(4), secrets.token_hex(MIN_KEY_BYTES))


def sign(claims: Claims, workspace: str, key: SigningKey) -> str:
    """Sign claims as a JWT whose header names the signing key. Raises RK4018 if the claims do not expire."""
    if claims.expires is None:
        raise RookeryError(BAD_SCOPE, "a JWT needs an expiry time")
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
    """The keys that verify tokens at a time, given in Unix seconds."""
    return [k for k in keys if k.retires is None or k.retires > now]


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits on the times in JWTs."""

    leeway: float = 60.0
    """Tolerated difference between clocks, in seconds."""
    longest: float = 366 * 86_400.0
    """How far in the future `exp` can be, in seconds."""


def verify(
    token: str, workspace: str, keys: Iterable[SigningKey], now: float | None = None, rules: Rules | None = None
) -> Claims:
    """Verify a JWT and return its claims. Raises RK4002 with the reason if it is invalid.

    Only one algorithm is accepted. Expiry, workspace and name are required. `now` is in Unix seconds.
    """
    moment = time.time() if now is None else now
    known = usable_keys(keys, moment)
    kid = _kid(token)
    # The library would apply the same leeway to all times, so `_check_times` checks them instead; a `jti` of any type
    # is valid, and `_claims` names claims that are not supported.
    unchecked = ("exp", "iat", "nbf", "jti", "sub")
    options: Any = {"require": ["exp"], **dict.fromkeys((f"verify_{c}" for c in unchecked), False)}
    for key in known:
        try:
            body = jwt.decode(token, key.secret, algorithms=[ALGORITHM], options=options)
        except jwt.InvalidSignatureError:
            continue
        except jwt.MissingRequiredClaimError as exc:
            raise RookeryError(BAD_TOKEN, f"the token has no `{exc.claim}`") from exc
        except jwt.InvalidAudienceError as exc:
            raise RookeryError(
                BAD_TOKEN, "the token has the claim `aud`, which is not supported", hint="sign it without `aud`"
            ) from exc
        except (jwt.PyJWTError, ValueError, RecursionError) as exc:
            raise RookeryError(BAD_TOKEN, "the token is not a valid JWT", detail=str(exc)) from exc
        _require_text(body)
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
    """The key id in a JWT's header. Raises RK4002 if the string is not a JWT or has another algorithm."""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError) as exc:
        raise RookeryError(BAD_TOKEN, "the token is neither a static token nor a JWT", detail=str(exc)) from exc
    if header.get("alg") != ALGORITHM:
        raise RookeryError(BAD_TOKEN, f"the token is not signed with {ALGORITHM}")
    return header.get("kid")


def _require_text(body: Mapping[str, Any]) -> None:
    """Raise RK4002 for half of a surrogate pair: JSON can contain it, but no encoding of text can."""
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as exc:
        raise RookeryError(BAD_TOKEN, "the token's claims are not valid Unicode", detail=str(exc)) from exc


_FEWEST_MILLISECONDS = 1e11
"""A time above this is meant in milliseconds: as seconds, it is after the year 5000."""


def _check_times(body: Mapping[str, Any], now: float, rules: Rules) -> None:
    expires = _seconds(body, "exp")
    if expires is None or expires <= now:
        raise RookeryError(BAD_TOKEN, "the token has expired")
    if expires > now + rules.longest + rules.leeway:
        shorter = "sign it for a shorter time; the limit is ROOKERY_MAX_TOKEN_SECONDS"
        raise RookeryError(
            BAD_TOKEN,
            f"the token's `exp` is more than {rules.longest:.0f} seconds in the future",
            hint="write seconds since 1970, not milliseconds" if expires > _FEWEST_MILLISECONDS else shorter,
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
    """A claim that is a time in Unix seconds, or None if it is absent. Raises RK4002 if it is not a number."""
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
        raise RookeryError(BAD_TOKEN, "the token's name is missing or longer than 200 characters")
    if "tenant" in body and not isinstance(tenant, str):
        raise RookeryError(BAD_TOKEN, "the token's tenant is not a string")
    if not isinstance(scopes, list) or not scopes or len(scopes) > 500:
        raise RookeryError(BAD_TOKEN, "the token has no scopes, or more than 500")
    try:
        parsed = tuple(Scope.of(s) for s in scopes)
        check_combination(parsed, tenant)
    except RookeryError as exc:
        raise RookeryError(BAD_TOKEN, f"the token has an invalid scope: {exc.message}") from exc
    refused = next((s.type for s in parsed if s.type not in JWT_SCOPES), None)
    if refused is not None:
        raise RookeryError(BAD_TOKEN, f"a JWT cannot have the scope {refused}")
    return Claims(name, parsed, tenant, int(expires), _rps(body))


def _rps(body: Mapping[str, Any]) -> int | None:
    """The limit on requests per second. Raises RK4002 for unknown limits: ignoring them would be less safe."""
    limits = body.get("limits", {})
    rps = limits.get("rps") if isinstance(limits, dict) else 0
    if rps is None and not limits:
        return None
    if not isinstance(rps, int) or isinstance(rps, bool) or rps < 1 or set(limits) - {"rps"}:
        hint = "`limits` can only contain `rps`, a positive whole number"
        raise RookeryError(BAD_TOKEN, "the token's limits are not valid", hint=hint)
    return rps


# --- static tokens -----------------------------------------------------------------------------------------------


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
    return secrets.token_hex(MIN_KEY_BYTES)
