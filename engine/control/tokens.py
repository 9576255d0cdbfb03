"""Tokens: creating, showing, refreshing and removing static tokens, and minting JWTs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.control.attenuation import excess, require_no_excess
from engine.control.token_scopes import check_scopes, minting_rights
from engine.errors import (
    BAD_SCOPE,
    SCOPE,
    TOKEN_EXISTS,
    UNKNOWN_TOKEN,
    RookeryError,
)
from engine.observe import events
from engine.private_files import private_file, read_small
from engine.project.model import Project
from engine.tokens.claims import JWT_SCOPES, Claims, Scope
from engine.tokens.jwts import sign
from engine.tokens.static_tokens import TOKEN_KINDS, StaticToken, static_text
from engine.workspace.snapshot import Snapshot
from engine.workspace.workspace import Workspace

ADMIN_TOKEN_NAME = "admin token"
DAY_SECONDS = 86_400
MIN_ADMIN_TOKEN_LENGTH = 16
MAX_NAME_LENGTH = 200
MAX_STATIC_SECONDS = 100 * 366 * DAY_SECONDS
"""Maximum lifetime of a static token that expires."""


@dataclass(frozen=True, slots=True)
class StaticRequest:
    """What a static token should allow."""

    name: str
    scopes: Sequence[Scope]
    tenant: str | None = None
    lifetime_seconds: int | None = None
    """None for a token that is valid until it is removed."""


@dataclass(frozen=True, slots=True)
class JwtRequest:
    """What a JWT should allow."""

    name: str
    scopes: tuple[Scope, ...]
    tenant: str | None
    """The only tenant whose rows it reads and appends; None for any."""
    lifetime_seconds: int
    rps: int | None = None
    """Maximum requests per second; None for no separate limit."""


def admin_text(workspace: Workspace, file: Path) -> str:
    """The admin token: from the settings, or created on first use and written to a private file."""
    configured = workspace.settings.admin_token
    if configured is not None:
        if len(configured.get_secret_value()) < MIN_ADMIN_TOKEN_LENGTH:
            message = f"ROOKERY_ADMIN_TOKEN must have at least {MIN_ADMIN_TOKEN_LENGTH} characters"
            raise RookeryError(BAD_SCOPE, message)
        return configured.get_secret_value()
    with workspace.changes:
        token = next((t for t in workspace.refresh().tokens.values() if t.origin == "admin"), None)
        if token is None:
            token = StaticToken(ADMIN_TOKEN_NAME, (Scope("ADMIN"),), None, secrets.token_hex(12), "admin")
            _store(workspace, token)
    text = text_of(workspace, token)
    # The token depends on the server's address, which may have changed since the file was written.
    stored = None
    with suppress(OSError):
        stored = read_small(file).strip()
    if stored != text:
        private_file(file, text + "\n")
    return text


def text_of(workspace: Workspace, token: StaticToken) -> str:
    """The token itself."""
    settings = workspace.settings
    host = settings.public_url or f"http://{settings.host}:{settings.port}"
    return static_text(token, workspace.name, host, workspace.current.secret)


def create(workspace: Workspace, caller: Claims, request: StaticRequest) -> dict[str, Any]:
    """Create a static token, or show the existing one with the same name. An expired one is replaced.

    Raises RK4003 for rights that the caller does not have, and RK4016 if the existing token has other scopes.
    """
    name, scopes, tenant, lifetime = request.name, request.scopes, request.tenant, request.lifetime_seconds
    if not 0 < len(name) <= MAX_NAME_LENGTH or any(ord(c) < 32 for c in name):
        raise RookeryError(BAD_SCOPE, f"a token needs a name of 1 to {MAX_NAME_LENGTH} characters")
    if not scopes:
        raise RookeryError(BAD_SCOPE, "a token needs at least one scope", hint="--scope PIPES:READ:my_endpoint")
    if lifetime is not None and not 0 < lifetime <= MAX_STATIC_SECONDS:
        raise RookeryError(BAD_SCOPE, f"the lifetime of a static token is between 1 and {MAX_STATIC_SECONDS} seconds")
    now = int(time.time())
    expires = None if lifetime is None else now + lifetime
    with workspace.changes:
        snapshot = workspace.refresh()
        minter = minting_rights(workspace, snapshot, caller)
        require_no_excess(minter, Claims(name, tuple(scopes), tenant, expires))
        check_scopes(workspace, snapshot, scopes, tenant)
        known = _by_name(snapshot, name)
        if known is None and name in snapshot.tokens:
            raise RookeryError(TOKEN_EXISTS, f"`{name}` is the id of another token", hint="choose another name")
        if known is not None and known.expires is not None and known.expires <= now:
            known = None
        token = StaticToken(name, tuple(scopes), tenant, secrets.token_hex(12), expires=expires)
        if known is None:
            _store(workspace, token)
            events.note("token created", name=name, scopes=_kinds(scopes), tenant=tenant)
            return describe(workspace, token)
        if _rights(known) != _rights(token):
            raise RookeryError(
                TOKEN_EXISTS,
                f"token `{name}` exists with other scopes",
                hint=f"rookery token rm '{name}', or choose another name",
            )
        # It may expire later than the caller.
        require_no_excess(minter, known.claims())
        return describe(workspace, known)


def _rights(token: StaticToken) -> object:
    """What must be equal for `create` to show an existing token."""
    return {_key(s) for s in token.scopes}, token.tenant, token.expires is None


def _kinds(scopes: Iterable[Scope]) -> list[str]:
    """The types of scopes with their resources, for the log."""
    return sorted({f"{scope.type}:{scope.resource}" if scope.resource else scope.type for scope in scopes})


def _key(scope: Scope) -> tuple[str, str, str, str]:
    """A hashable value that is equal for equal scopes."""
    return (scope.type, scope.resource, scope.filter or "", repr(sorted(scope.fixed_params.items())))


def describe(workspace: Workspace, token: StaticToken) -> dict[str, Any]:
    """A static token as JSON, including the token itself; only for callers who have its rights."""
    body = {"id": token.nonce, "name": token.name, "token": text_of(workspace, token), "origin": token.origin}
    return {**body, "tenant": token.tenant, "expires": token.expires, "scopes": [s.as_dict() for s in token.scopes]}


def listing(workspace: Workspace, caller: Claims) -> list[dict[str, Any]]:
    """The static tokens whose rights the caller has, as JSON, including the tokens themselves."""
    snapshot = workspace.refresh()
    caller = minting_rights(workspace, snapshot, caller)
    tokens = sorted(snapshot.tokens.values(), key=lambda t: t.name)
    return [describe(workspace, t) for t in tokens if excess(caller, t.claims()) is None]


def find(workspace: Workspace, caller: Claims, name: str) -> StaticToken:
    """A static token by name or id. Raises RK4017 if there is none, or if it has rights that the caller does not
    have.
    """
    snapshot = workspace.refresh()
    caller = minting_rights(workspace, snapshot, caller)
    token = _by_name(snapshot, name) or snapshot.tokens.get(name)
    if token is None or excess(caller, token.claims()) is not None:
        raise RookeryError(UNKNOWN_TOKEN, f"there is no token `{name}`", hint="rookery token ls")
    return token


def _by_name(snapshot: Snapshot, name: str) -> StaticToken | None:
    """The token with a name; None if there is no such token."""
    return next((t for t in snapshot.tokens.values() if t.name == name), None)


def remove(workspace: Workspace, caller: Claims, name: str) -> None:
    """Remove a static token, which is refused from then on. The admin token can only be refreshed."""
    with workspace.changes:
        token = find(workspace, caller, name)
        if token.origin == "admin":
            raise RookeryError(SCOPE, "the admin token cannot be removed", hint="refresh it instead")
        workspace.registry.remove(token.kind, [token.name])
        workspace.refresh()
        events.note("token removed", name=name)


def refresh(workspace: Workspace, caller: Claims, name: str) -> dict[str, Any]:
    """Replace a static token with a new one of the same name. The old one is refused from then on."""
    with workspace.changes:
        old = find(workspace, caller, name)
        # The nonce is part of the token, so the old token is no longer valid.
        token = replace(old, nonce=secrets.token_hex(12))
        _store(workspace, token)
        if old.origin == "admin" and workspace.settings.admin_token is None:
            admin_text(workspace, workspace.settings.admin_file)
        events.note("token refreshed", name=name)
        return describe(workspace, token)


def _store(workspace: Workspace, token: StaticToken) -> None:
    """Write a token, which is accepted from now on."""
    # Written before the other kind is removed: after a kill, a token may have two records, but never none.
    workspace.registry.write(token.kind, {token.name: token.as_dict()})
    for kind in TOKEN_KINDS:
        if kind != token.kind:
            workspace.registry.remove(kind, [token.name])
    workspace.refresh()


def mint(workspace: Workspace, caller: Claims, request: JwtRequest) -> dict[str, Any]:
    """Sign a JWT. Returns the token, and the Unix time at which it expires.

    Raises RK4003 for rights that the caller does not have, and RK4018.
    """
    max_lifetime = workspace.settings.max_token_seconds
    if not 0 < request.lifetime_seconds <= max_lifetime:
        raise RookeryError(BAD_SCOPE, f"the lifetime of a JWT is between 1 and {max_lifetime} seconds")
    if not 0 < len(request.name) <= MAX_NAME_LENGTH:
        raise RookeryError(BAD_SCOPE, f"a JWT needs a name of 1 to {MAX_NAME_LENGTH} characters")
    if not request.scopes:
        raise RookeryError(BAD_SCOPE, "a JWT needs scopes", hint="--scope PIPES:READ:my_endpoint")
    for scope in request.scopes:
        if scope.type not in JWT_SCOPES:
            raise RookeryError(
                BAD_SCOPE,
                f"a JWT cannot have the scope {scope.type}",
                hint="create a static token: rookery token create",
            )
    snapshot = workspace.refresh()
    expires = int(time.time()) + request.lifetime_seconds
    claims = Claims(request.name, request.scopes, request.tenant, expires, request.rps)
    require_no_excess(minting_rights(workspace, snapshot, caller), claims)
    check_scopes(workspace, snapshot, request.scopes, request.tenant)
    events.note(
        "token minted",
        name=request.name,
        scopes=_kinds(request.scopes),
        tenant=request.tenant,
        seconds=request.lifetime_seconds,
    )
    return {"token": sign(claims, workspace.name, snapshot.keys[0]), "expires": expires}


def grant_declared(workspace: Workspace, project: Project) -> None:
    """Create the tokens that files declare. Declarations with the same name in several files are combined into one
    token.

    A token with that name that was created by hand is not changed.
    """
    wanted: dict[str, list[Scope]] = {}
    for source in project.datasources.values():
        for declared in source.tokens:
            wanted.setdefault(declared.name, []).append(Scope(f"DATASOURCES:{declared.scope}", source.name))
    for pipe in project.pipes.values():
        for granted in pipe.tokens:
            wanted.setdefault(granted.name, []).append(Scope("PIPES:READ", pipe.name))
    snapshot = workspace.current
    for name, scopes in wanted.items():
        known = _by_name(snapshot, name)
        distinct = tuple({_key(s): s for s in scopes}.values())
        if known is None:
            _store(workspace, StaticToken(name, distinct, None, secrets.token_hex(12), "file"))
        elif known.origin == "file" and set(map(_key, known.scopes)) != set(map(_key, distinct)):
            # It keeps its nonce, so the token stays the same and only its scopes change.
            _store(workspace, StaticToken(name, distinct, None, known.nonce, "file"))
