"""Tokens: creating, showing, refreshing and removing static tokens, minting JWTs, and rotating the signing keys."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.compiler.build import parameter_names, parameters_of
from engine.compiler.filters import parse_filter
from engine.control.attenuation import excess, require_no_excess
from engine.control.ids import check_id
from engine.errors import (
    BAD_FILTER,
    BAD_SCOPE,
    BAD_TOKEN,
    SCOPE,
    TOKEN_EXISTS,
    UNKNOWN_TENANT,
    UNKNOWN_TOKEN,
    RookeryError,
)
from engine.observe import events
from engine.project.model import Project
from engine.settings import private_file
from engine.template.parameters import check_enum, coerce
from engine.tokens import (
    JWT_SCOPES,
    TOKEN_KINDS,
    WORKSPACE_SCOPES,
    Claims,
    Scope,
    SigningKey,
    StaticToken,
    check_combination,
    sign,
    static_text,
)
from engine.workspace.snapshot import Snapshot
from engine.workspace.workspace import Workspace

ADMIN_TOKEN_NAME = "admin token"
DAY_SECONDS = 86_400
MAX_OVERLAP_SECONDS = 366 * DAY_SECONDS
"""Maximum time for which JWTs signed with an old key can stay valid."""
MIN_ADMIN_TOKEN_LENGTH = 16
MAX_NAME_LENGTH = 200
MAX_STATIC_SECONDS = 100 * 366 * DAY_SECONDS
"""Maximum lifetime of a static token that expires."""
TENANT_NOT_BOUND = "its filters or fixed parameters select a tenant"
BIND_HINT = "bind it to the tenant instead: --tenant"


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
    if not file.is_file() or file.read_text(encoding="utf-8").strip() != text:
        private_file(file, text + "\n")
    return text


def text_of(workspace: Workspace, token: StaticToken) -> str:
    """The token itself."""
    settings = workspace.settings
    host = settings.public_url or f"http://{settings.host}:{settings.port}"
    return static_text(token, workspace.name, host, workspace.current.secret)


def _minter(workspace: Workspace, snapshot: Snapshot, caller: Claims) -> Claims:
    """The caller's rights now, for minting.

    Raises RK4002 if its token has been removed since the request began, and RK4003 if it selects a tenant other than
    by its claim.
    """
    if caller.static_id is not None:
        token = snapshot.tokens.get(caller.static_id)
        if token is None:
            raise RookeryError(BAD_TOKEN, "the static token was removed or refreshed")
        caller = token.claims()
    if not caller.is_admin and _selects_tenant(workspace, snapshot, caller.scopes):
        raise RookeryError(SCOPE, f"the token cannot mint tokens: {TENANT_NOT_BOUND}", hint=BIND_HINT)
    return caller


def _selects_tenant(workspace: Workspace, snapshot: Snapshot, scopes: Sequence[Scope]) -> bool:
    """Whether a filter or a fixed parameter selects a tenant.

    Such a tenant applies to whatever the token reads, so other tokens cannot be compared with it scope by scope.
    """
    build = snapshot.build
    for scope in scopes:
        if scope.filter and scope.resource in build.relations:
            parsed = parse_filter(scope.filter, build.relations[scope.resource], workspace.warehouse)
            if parsed.tenant is not None:
                return True
        if scope.fixed_params and scope.resource in build.pipes:
            keys = {p.name for p in parameters_of(build.pipes, scope.resource) if p.tenant_key}
            if not keys.isdisjoint(scope.fixed_params):
                return True
    return False


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
        minter = _minter(workspace, snapshot, caller)
        require_no_excess(minter, Claims(name, tuple(scopes), tenant, expires))
        _check_scopes(workspace, snapshot, scopes, tenant)
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


def _check_scopes(workspace: Workspace, snapshot: Snapshot, scopes: Sequence[Scope], tenant: str | None) -> None:
    """Refuse scopes on resources that do not exist, so that a misspelled scope is reported now and not when the token
    is used.
    """
    check_combination(scopes, tenant)
    if tenant is not None:
        check_id(snapshot.build, tenant)
        if tenant not in snapshot.tenants:
            raise RookeryError(
                UNKNOWN_TENANT, f"tenant `{tenant}` does not exist", hint=f"rookery tenant add {tenant}"
            )
    for scope in scopes:
        if scope.type in WORKSPACE_SCOPES:
            continue
        known = snapshot.build.pipes if scope.type.startswith("PIPES") else snapshot.build.datasources
        if scope.resource not in known:
            kind = "pipe" if scope.type.startswith("PIPES") else "datasource"
            raise RookeryError(BAD_SCOPE, f"there is no {kind} `{scope.resource}`", hint="push it first")
        _check_usable(snapshot, scope)
        if scope.fixed_params:
            _check_fixed(workspace, snapshot, scope)
        if scope.filter:
            _check_filter(workspace, snapshot, scope)
    if any(s.type == "TOKENS:MINT" for s in scopes) and _selects_tenant(workspace, snapshot, scopes):
        raise RookeryError(BAD_SCOPE, f"a token cannot have TOKENS:MINT: {TENANT_NOT_BOUND}", hint=BIND_HINT)


def _check_filter(workspace: Workspace, snapshot: Snapshot, scope: Scope) -> None:
    """Raise RK4018 for a filter that is not valid.

    In a token that a request presents, the same filter is RK4015: there it is a missing permission.
    """
    try:
        parse_filter(scope.filter or "", snapshot.build.relations[scope.resource], workspace.warehouse)
    except RookeryError as exc:
        if exc.code is not BAD_FILTER:
            raise
        hint = exc.hint or "one condition over the datasource's columns, such as region = 'eu'"
        raise RookeryError(BAD_SCOPE, exc.message, hint=hint, detail=exc.detail) from exc


def _check_usable(snapshot: Snapshot, scope: Scope) -> None:
    """Raise RK4018 for a scope that would not permit anything, because of what its resource is."""
    pipes = snapshot.build.pipes
    if scope.type == "PIPES:READ" and (kind := pipes[scope.resource].kind) != "endpoint":
        message = f"the type of pipe `{scope.resource}` is {kind}; a token can only read endpoints"
        raise RookeryError(BAD_SCOPE, message, hint="name an endpoint that reads it or its target")
    filling = next((p.name for p in pipes.values() if p.target and p.target.name == scope.resource), None)
    if scope.type == "DATASOURCES:APPEND" and filling:
        message = f"`{scope.resource}` is the target of pipe `{filling}`: rows cannot be appended to it"
        raise RookeryError(BAD_SCOPE, message, hint="append to a datasource that the pipe reads")


def _check_fixed(workspace: Workspace, snapshot: Snapshot, scope: Scope) -> None:
    """Raise RK4018 unless each fixed value is valid for a parameter of the pipe."""
    names = parameter_names(snapshot.build.pipes, scope.resource)
    unknown = next((name for name in sorted(scope.fixed_params) if name not in names), None)
    if unknown is not None:
        hint = f"it has {', '.join(sorted(names))}" if names else "it has none"
        raise RookeryError(BAD_SCOPE, f"pipe `{scope.resource}` has no parameter `{unknown[:120]}`", hint=hint)
    for spec in parameters_of(snapshot.build.pipes, scope.resource):
        if spec.name in scope.fixed_params:
            value = scope.fixed_params[spec.name]
            try:
                check_enum(spec, coerce(spec.name, spec.type, value, workspace.zone), workspace.zone)
            except RookeryError as exc:
                raise RookeryError(BAD_SCOPE, f"fixed {exc.message}", hint=exc.hint) from exc


def describe(workspace: Workspace, token: StaticToken) -> dict[str, Any]:
    """A static token as JSON, including the token itself; only for callers who have its rights."""
    body = {"id": token.nonce, "name": token.name, "token": text_of(workspace, token), "origin": token.origin}
    return {**body, "tenant": token.tenant, "expires": token.expires, "scopes": [s.as_dict() for s in token.scopes]}


def listing(workspace: Workspace, caller: Claims) -> list[dict[str, Any]]:
    """The static tokens whose rights the caller has, as JSON, including the tokens themselves."""
    snapshot = workspace.refresh()
    caller = _minter(workspace, snapshot, caller)
    tokens = sorted(snapshot.tokens.values(), key=lambda t: t.name)
    return [describe(workspace, t) for t in tokens if excess(caller, t.claims()) is None]


def find(workspace: Workspace, caller: Claims, name: str) -> StaticToken:
    """A static token by name or id. Raises RK4017 if there is none, or if it has rights that the caller does not
    have.
    """
    snapshot = workspace.refresh()
    caller = _minter(workspace, snapshot, caller)
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
    require_no_excess(_minter(workspace, snapshot, caller), claims)
    _check_scopes(workspace, snapshot, request.scopes, request.tenant)
    events.note(
        "token minted",
        name=request.name,
        scopes=_kinds(request.scopes),
        tenant=request.tenant,
        seconds=request.lifetime_seconds,
    )
    return {"token": sign(claims, workspace.name, snapshot.keys[0]), "expires": expires}


def signing_key(workspace: Workspace) -> dict[str, Any]:
    """The key with which backends sign JWTs, as JSON with its id and the workspace's name."""
    key = workspace.refresh().keys[0]
    return {"kid": key.id, "secret": key.secret, "algorithm": "HS256", "workspace_id": workspace.name}


def rotate(workspace: Workspace, overlap: int) -> dict[str, Any]:
    """Sign with a new key from now on. JWTs of older keys are accepted for another `overlap` seconds."""
    if not 0 <= overlap <= MAX_OVERLAP_SECONDS:
        raise RookeryError(BAD_SCOPE, f"the overlap must be between 0 and {MAX_OVERLAP_SECONDS} seconds")
    with workspace.changes:
        now = int(time.time())
        keys = workspace.refresh().keys
        expired = [k.id for k in keys if k.retires is not None and k.retires <= now]
        # A key that is already retiring keeps its retirement time, so that rotating twice does not extend it.
        retiring = {
            k.id: {"secret": k.secret, "retires": now + overlap}
            for k in keys
            if k.retires is None and k.id not in expired
        }
        fresh = SigningKey.new()
        workspace.registry.write("key", {**retiring, fresh.id: {"secret": fresh.secret, "retires": None}})
        workspace.registry.remove("key", expired)
        workspace.refresh()
        events.note("signing key rotated", key=fresh.id, overlap=overlap)
        return signing_key(workspace)


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
