"""Tokens: making, showing, refreshing and removing them, and the workspace's signing keys."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.compiler.build import parameter_names, parameters_of
from engine.compiler.filters import parse_filter
from engine.control.ids import check_id
from engine.errors import BAD_SCOPE, SCOPE, TOKEN_EXISTS, UNKNOWN_TENANT, UNKNOWN_TOKEN, RookeryError
from engine.project.model import Project
from engine.settings import private_file
from engine.template.parameters import coerce
from engine.tokens import Claims, Scope, SigningKey, StaticToken, sign, static_text
from engine.workspace.snapshot import Snapshot
from engine.workspace.workspace import Workspace

ADMIN_TOKEN_NAME = "admin token"
DAY_SECONDS = 86_400
MAX_OVERLAP_SECONDS = 366 * DAY_SECONDS


def admin_text(workspace: Workspace, file: Path) -> str:
    """The admin token: from the settings, or made on first use and kept in a private file."""
    given = workspace.settings.admin_token
    if given is not None:
        if len(given.get_secret_value()) < 16:
            raise RookeryError(BAD_SCOPE, "ROOKERY_ADMIN_TOKEN must have at least 16 characters")
        return given.get_secret_value()
    with workspace.changes:
        found = next((t for t in workspace.refresh().tokens.values() if t.origin == "admin"), None)
        if found is None:
            found = StaticToken(ADMIN_TOKEN_NAME, (Scope("ADMIN"),), None, secrets.token_hex(12), "admin")
            _store(workspace, found)
    text = text_of(workspace, found)
    if not file.is_file() or file.read_text(encoding="utf-8").strip() != text:
        private_file(file, text + "\n")
    return text


def text_of(workspace: Workspace, token: StaticToken) -> str:
    """The text of a static token."""
    settings = workspace.settings
    host = settings.public_url or f"http://{settings.host}:{settings.port}"
    return static_text(token, workspace.name, host, workspace.current.secret)


def create(workspace: Workspace, name: str, scopes: Sequence[Scope], tenant: str | None = None) -> dict[str, Any]:
    """Make a static token, or show the one that exists with the same scopes. Raises RK4016 when they differ."""
    if not 0 < len(name) <= 200 or any(ord(c) < 32 for c in name):
        raise RookeryError(BAD_SCOPE, "a token needs a name of 1 to 200 characters")
    if not scopes:
        raise RookeryError(BAD_SCOPE, "a token needs at least one scope", hint="--scope PIPES:READ:my_endpoint")
    with workspace.changes:
        snapshot = workspace.refresh()
        _check(workspace, snapshot, scopes, tenant)
        known = _by_name(snapshot, name)
        if known is not None and (set(map(_key, known.scopes)), known.tenant) != (set(map(_key, scopes)), tenant):
            raise RookeryError(
                TOKEN_EXISTS,
                f"token `{name}` exists with other scopes",
                hint=f"rookery token rm '{name}', or choose another name",
            )
        token = known or StaticToken(name, tuple(scopes), tenant, secrets.token_hex(12))
        if known is None:
            _store(workspace, token)
        return describe(workspace, token)


def _key(scope: Scope) -> tuple[str, str, str, str]:
    return (scope.type, scope.resource, scope.filter or "", repr(sorted(scope.fixed_params.items())))


def _check(workspace: Workspace, snapshot: Snapshot, scopes: Sequence[Scope], tenant: str | None) -> None:
    """Scopes must name resources that exist, so that a misspelt token is found when it is made."""
    if tenant is not None:
        check_id(snapshot.build, tenant)
        if tenant not in snapshot.tenants:
            raise RookeryError(
                UNKNOWN_TENANT, f"tenant `{tenant}` does not exist", hint=f"rookery tenant add {tenant}"
            )
    for scope in scopes:
        if scope.type == "ADMIN":
            if tenant is not None:
                raise RookeryError(BAD_SCOPE, "an admin token has no tenant")
            continue
        known = snapshot.build.pipes if scope.type.startswith("PIPES") else snapshot.build.datasources
        if scope.resource not in known:
            what = "pipe" if scope.type.startswith("PIPES") else "datasource"
            raise RookeryError(BAD_SCOPE, f"no {what} `{scope.resource}`", hint="push it first")
        if scope.fixed_params:
            _check_fixed(workspace, snapshot, scope)
        if scope.filter:
            parse_filter(scope.filter, snapshot.build.relations[scope.resource], workspace.warehouse)


def _check_fixed(workspace: Workspace, snapshot: Snapshot, scope: Scope) -> None:
    """Fixed values must be values of parameters that the pipe has. Raises RK4018."""
    names = parameter_names(snapshot.build.pipes, scope.resource)
    unknown = next((name for name in sorted(scope.fixed_params) if name not in names), None)
    if unknown is not None:
        hint = f"it has {', '.join(sorted(names))}" if names else "it has none"
        raise RookeryError(BAD_SCOPE, f"pipe `{scope.resource}` has no parameter `{unknown[:120]}`", hint=hint)
    for spec in parameters_of(snapshot.build.pipes, scope.resource):
        if spec.name in scope.fixed_params:
            try:
                coerce(spec.name, spec.type, scope.fixed_params[spec.name], workspace.zone)
            except RookeryError as exc:
                raise RookeryError(BAD_SCOPE, f"fixed {exc.message}", hint=exc.hint) from exc


def describe(workspace: Workspace, token: StaticToken) -> dict[str, Any]:
    """A static token with its text, for admins."""
    body = {"id": token.nonce, "name": token.name, "token": text_of(workspace, token), "origin": token.origin}
    return {**body, "tenant": token.tenant, "scopes": [s.as_dict() for s in token.scopes]}


def listing(workspace: Workspace) -> list[dict[str, Any]]:
    tokens = sorted(workspace.refresh().tokens.values(), key=lambda t: t.name)
    return [describe(workspace, t) for t in tokens]


def find(workspace: Workspace, name: str) -> StaticToken:
    """A static token by name or id. Raises RK4017."""
    snapshot = workspace.refresh()
    found = _by_name(snapshot, name) or snapshot.tokens.get(name)
    if found is None:
        raise RookeryError(UNKNOWN_TOKEN, f"no token `{name}`", hint="rookery token ls")
    return found


def _by_name(snapshot: Snapshot, name: str) -> StaticToken | None:
    return next((t for t in snapshot.tokens.values() if t.name == name), None)


def remove(workspace: Workspace, name: str) -> None:
    """Remove a static token; it is refused from then on. The admin token can only be refreshed."""
    with workspace.changes:
        token = find(workspace, name)
        if token.origin == "admin":
            raise RookeryError(SCOPE, "the admin token cannot be removed", hint="refresh it instead")
        workspace.registry.remove("token", [token.name])
        workspace.refresh()


def refresh(workspace: Workspace, name: str) -> dict[str, Any]:
    """Give a static token a new text; the old one is refused from then on."""
    with workspace.changes:
        old = find(workspace, name)
        token = StaticToken(old.name, old.scopes, old.tenant, secrets.token_hex(12), old.origin)
        _store(workspace, token)
        if old.origin == "admin" and workspace.settings.admin_token is None:
            admin_text(workspace, workspace.settings.admin_file)
        return describe(workspace, token)


def _store(workspace: Workspace, token: StaticToken) -> None:
    workspace.registry.write("token", {token.name: token.as_dict()})
    workspace.refresh()


def mint(
    workspace: Workspace, name: str, scopes: Sequence[Scope], tenant: str | None, ttl: int, rps: int | None = None
) -> dict[str, Any]:
    """Sign a JWT that lives `ttl` seconds. Raises RK4018."""
    longest = workspace.settings.max_token_seconds
    if not 0 < ttl <= longest:
        raise RookeryError(BAD_SCOPE, f"a JWT lives between 1 and {longest} seconds")
    if not name or len(name) > 200:
        raise RookeryError(BAD_SCOPE, "a JWT needs a name of 1 to 200 characters")
    if not scopes or any(s.type == "ADMIN" for s in scopes):
        raise RookeryError(BAD_SCOPE, "a JWT needs scopes, and cannot be an admin token")
    snapshot = workspace.refresh()
    _check(workspace, snapshot, scopes, tenant)
    expires = int(time.time()) + ttl
    claims = Claims(name, tuple(scopes), tenant, expires, rps)
    return {"token": sign(claims, workspace.name, snapshot.keys[0]), "expires": expires}


def signing_key(workspace: Workspace) -> dict[str, Any]:
    """The key with which backends sign JWTs, with its id and the workspace's name."""
    key = workspace.refresh().keys[0]
    return {"kid": key.id, "secret": key.secret, "algorithm": "HS256", "workspace_id": workspace.name}


def rotate(workspace: Workspace, overlap: int) -> dict[str, Any]:
    """Sign with a new key from now on; JWTs of the old ones are accepted for `overlap` more seconds."""
    if not 0 <= overlap <= MAX_OVERLAP_SECONDS:
        raise RookeryError(BAD_SCOPE, f"the overlap lies between 0 and {MAX_OVERLAP_SECONDS} seconds")
    with workspace.changes:
        now = int(time.time())
        keys = workspace.refresh().keys
        gone = [k.id for k in keys if k.retires is not None and k.retires <= now]
        retiring = {
            k.id: {"secret": k.secret, "retires": now + overlap}
            for k in keys
            if k.retires is None and k.id not in gone
        }
        fresh = SigningKey.new()
        workspace.registry.write("key", {**retiring, fresh.id: {"secret": fresh.secret, "retires": None}})
        workspace.registry.remove("key", gone)
        workspace.refresh()
        return signing_key(workspace)


def grant_declared(workspace: Workspace, project: Project) -> None:
    """Make the tokens that files declare; one name collects the scopes of several files."""
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
        fixed = tuple({_key(s): s for s in scopes}.values())
        if known is None:
            _store(workspace, StaticToken(name, fixed, None, secrets.token_hex(12), "file"))
        elif known.origin == "file" and set(map(_key, known.scopes)) != set(map(_key, fixed)):
            _store(workspace, StaticToken(name, fixed, None, known.nonce, "file"))
