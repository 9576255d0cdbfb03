"""JWTs: signing and verifying them, and the keys that do both."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from engine.errors import BAD_SCOPE, BAD_TOKEN, RookeryError
from engine.tokens.claims import JWT_SCOPES, Claims, Scope, check_combination

ALGORITHM = "HS256"
MIN_KEY_BYTES = 32

_FEWEST_MILLISECONDS = 1e11
"""A time above this is meant in milliseconds: as seconds, it is after the year 5000."""
_CLAIMS = frozenset({"workspace_id", "name", "exp", "iat", "nbf", "jti", "scopes", "tenant", "limits"})


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
