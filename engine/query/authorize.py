"""Who may see what: token text → claims → the scope of one request. Data flows one way, and nothing falls back."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from engine.cache import LruCache
from engine.compiler.build import Build, parameter_names, parameters_of
from engine.compiler.filters import parse_filter
from engine.compiler.scope import TABLE_ALIAS, RowFilter, Scope
from engine.errors import (
    BAD_FILTER,
    BAD_TOKEN,
    NO_TENANT,
    NO_TOKEN,
    SCOPE,
    TENANT_FROM_QUERY,
    UNKNOWN_PIPE,
    UNKNOWN_TENANT,
    RookeryError,
)
from engine.query.all_tenants import everywhere
from engine.schema import Name
from engine.template.parameters import ParameterSpec, coerce
from engine.tenant_ids import base_type, canonical_tenant
from engine.tokens import Claims, Rules, static_id, usable_keys, verify
from engine.tokens import Scope as TokenScope
from engine.workspace.workspace import Snapshot, Workspace

_verified: LruCache[tuple[int, bytes], Claims] = LruCache(20_000)


def authenticate(workspace: Workspace, token: str | None) -> Claims:
    """The claims of a token. Raises RK4001 when there is none and RK4002 when it is not valid."""
    if not token:
        raise RookeryError(NO_TOKEN, "a token is needed", hint="Authorization: Bearer TOKEN, or ?token=TOKEN")
    snapshot = workspace.current
    # Keys retire by the clock, without a new version: what they signed must not outlive them in memory.
    keys = ",".join(k.id for k in usable_keys(snapshot.keys, time.time()))
    key = (id(workspace), hashlib.blake2b(f"{snapshot.version}:{keys}:{token}".encode(), digest_size=20).digest())
    known = _verified.get(key)
    if known is None:
        known = _verified.put(key, _verify(workspace, snapshot, token))
    if known.expires is not None and known.expires <= time.time():
        raise RookeryError(BAD_TOKEN, "the token has expired")
    return known


def _verify(workspace: Workspace, snapshot: Snapshot, token: str) -> Claims:
    given = workspace.settings.admin_token
    if given is not None and hmac.compare_digest(given.get_secret_value().encode(), token.encode()):
        return Claims("admin token", (TokenScope("ADMIN"),))
    if token.startswith("p."):
        nonce = static_id(token, workspace.name, snapshot.secret)
        static = snapshot.tokens.get(nonce) if nonce else None
        if static is None or (static.origin == "admin" and given is not None):
            raise RookeryError(BAD_TOKEN, "the static token is unknown, was removed or refreshed, or is not complete")
        return static.claims()
    rules = Rules(workspace.settings.token_leeway, workspace.settings.max_token_seconds)
    return verify(token, workspace.name, snapshot.keys, rules=rules)


@dataclass(frozen=True, slots=True)
class Granted:
    """What a request may do: its scope, the parameters that the token fixes, and the names ad-hoc SQL may use."""

    scope: Scope
    fixed: Mapping[str, Any]
    names: frozenset[str] = frozenset()


def for_pipe(
    snapshot: Snapshot, workspace: Workspace, claims: Claims, pipe: str, given: Mapping[str, Any], eyes: str | None
) -> Granted:
    """The scope of an endpoint call. `eyes` is the tenant through whose eyes an admin looks.

    Raises RK4003 outside the token's scopes (404 for admins), RK4004 without a tenant, RK4005 for a tenant key that
    the caller tries to choose.
    """
    if not claims.is_admin and not claims.allowing("PIPES:READ", pipe):
        raise RookeryError(SCOPE, f"the token does not allow the endpoint `{pipe}`")
    if pipe not in snapshot.build.endpoints:
        if claims.is_admin:
            raise RookeryError(UNKNOWN_PIPE, f"there is no endpoint `{pipe}`", hint="rookery pipe ls")
        raise RookeryError(SCOPE, f"the token does not allow the endpoint `{pipe}`")
    fixed = _fixed(snapshot, workspace.zone, claims, pipe)
    keys = set(snapshot.derived(("tenant keys", pipe), partial(_tenant_keys, snapshot.build, pipe)))
    return _grant(snapshot, workspace, claims, frozenset({pipe}), fixed, keys, given, eyes)


def _fixed(snapshot: Snapshot, zone: str, claims: Claims, pipe: str) -> dict[str, Any]:
    """What the token fixes of a pipe.

    Raises RK4002 for a parameter that the pipe does not have and for a value that is not of its type: to a template,
    null is a parameter that is absent, so nothing would be narrowed.
    """
    fixed = claims.fixed_params(pipe)
    if fixed:
        pipes = snapshot.build.pipes
        known = snapshot.derived(("parameters", pipe), partial(parameter_names, pipes, pipe))
        unknown = next((name for name in sorted(fixed) if name not in known), None)
        if unknown is not None:
            raise RookeryError(BAD_TOKEN, f"the token fixes `{unknown[:120]}`, which `{pipe}` does not have")
        for spec in snapshot.derived(("parameters of", pipe), partial(parameters_of, pipes, pipe)):
            if spec.name in fixed:
                _check_fixed(spec, fixed[spec.name], zone)
    return fixed


def _check_fixed(spec: ParameterSpec, value: Any, zone: str) -> None:
    try:
        coerce(spec.name, spec.type, value, zone)
    except RookeryError as exc:
        raise RookeryError(BAD_TOKEN, f"the token's fixed {exc.message}", hint=exc.hint) from exc


def _tenant_keys(build: Build, pipe: str) -> frozenset[str]:
    return frozenset(p.name for p in parameters_of(build.pipes, pipe) if p.tenant_key)


def for_sql(
    snapshot: Snapshot, workspace: Workspace, claims: Claims, given: Mapping[str, Any], eyes: str | None
) -> Granted:
    """The scope of ad-hoc SQL: exactly the resources that the token names."""
    build = snapshot.build
    if claims.is_admin:
        names = frozenset(build.relations) | frozenset(build.pipes)
    else:
        named = {s.resource for s in claims.scopes if s.type == "DATASOURCES:READ"} & set(build.relations)
        pipes = {s.resource for s in claims.scopes if s.type == "PIPES:READ"} & set(build.endpoints)
        names = frozenset(named | pipes)
        if not any(s.type in {"DATASOURCES:READ", "PIPES:READ"} for s in claims.scopes):
            raise RookeryError(SCOPE, "the token allows no query")
    fixed: dict[str, Any] = {}
    keys: set[str] = set()
    for pipe in sorted(names & set(build.pipes)):
        keys |= _tenant_keys(build, pipe)
        for name, value in _fixed(snapshot, workspace.zone, claims, pipe).items():
            if fixed.setdefault(name, value) != value:
                raise RookeryError(BAD_TOKEN, f"the token fixes `{name}` to two values")
    return _grant(snapshot, workspace, claims, names, fixed, keys, given, eyes, sql=True)


def _grant(
    snapshot: Snapshot,
    workspace: Workspace,
    claims: Claims,
    names: frozenset[str],
    fixed: dict[str, Any],
    keys: set[str],
    given: Mapping[str, Any],
    eyes: str | None,
    *,
    sql: bool = False,
) -> Granted:
    if eyes is not None and not claims.is_admin:
        raise RookeryError(TENANT_FROM_QUERY, "only an admin may look through a tenant's eyes")
    # All of the token's filters apply, whatever the query turns out to read.
    filters, filtered = _filters(snapshot, workspace, claims)
    by_key = {k: _as_tenant(snapshot.build, fixed[k]) for k in keys if k in fixed}
    tenant = _one_tenant({t for t in (eyes, claims.tenant, *filtered, *by_key.values()) if t is not None})
    if tenant is not None:
        fixed = {**dict.fromkeys(keys, tenant), **fixed}
    if not claims.is_admin:
        _refuse_unfixed(keys - set(fixed), given, sql=sql)
    nest = None
    if tenant is not None:
        row = snapshot.tenants.get(tenant)
        if row is None or row.state == "removing":
            if eyes is not None:
                raise RookeryError(UNKNOWN_TENANT, f"tenant `{eyes[:120]}` does not exist", hint="rookery tenant ls")
            raise RookeryError(BAD_TOKEN, "the token's tenant is not known", hint="rookery tenant add")
        nest = row.nest(snapshot.build.workspace)
    scope = Scope(snapshot.build.workspace, tenant, nest, filters, unrestricted=claims.is_admin)
    if claims.is_admin and tenant is None:
        most = workspace.settings.max_nests
        scope = replace(scope, everywhere=snapshot.derived("everywhere", partial(everywhere, snapshot, most)))
    return Granted(scope, fixed, names)


def _one_tenant(found: set[str]) -> str | None:
    if len(found) > 1:
        raise RookeryError(BAD_TOKEN, "the token selects two tenants")
    return next(iter(found), None)


def _refuse_unfixed(open_keys: set[str], given: Mapping[str, Any], *, sql: bool) -> None:
    for key in sorted(open_keys):
        if key in given:
            raise RookeryError(
                TENANT_FROM_QUERY,
                f"`{key}` selects the tenant and cannot come from the caller",
                hint="mint a token that fixes it (fixed_params), or one with the claim `tenant`",
            )
        if not sql:
            raise RookeryError(NO_TENANT, f"the token does not fix `{key}`, which selects the tenant")


def _as_tenant(build: Build, value: Any) -> str:
    kinds = {base_type(r.tenant_type) for r in build.relations.values() if r.tenant} or {"String"}
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    try:
        for kind in kinds:
            canonical_tenant(kind, text)
    except RookeryError as exc:
        raise RookeryError(BAD_TOKEN, f"the token's tenant: {exc.message}") from exc
    return str(text)


def _filters(
    snapshot: Snapshot, workspace: Workspace, claims: Claims
) -> tuple[dict[str, tuple[RowFilter, ...]], set[str]]:
    """The token's filters on datasources, each checked by the engine, and the tenants that they select."""
    found: dict[str, tuple[RowFilter, ...]] = {}
    tenants: set[str] = set()
    for name in sorted({s.resource for s in claims.scopes if s.filter} & set(snapshot.build.relations)):
        for text in claims.filters(name):
            tenant, rest = _filter(snapshot, workspace, name, text)
            tenants |= {tenant} if tenant is not None else set()
            if rest is not None:
                found[name] = (*found.get(name, ()), RowFilter(rest))
    return found, tenants


def _filter(snapshot: Snapshot, workspace: Workspace, name: str, text: str) -> tuple[str | None, str | None]:
    known = snapshot.memo.get(("filter", name, text))
    if known is None:
        relation = snapshot.build.relations[name]
        parsed = parse_filter(text, relation, workspace.warehouse)
        if parsed.rest is not None:
            table = Name(snapshot.build.workspace, name).sql()
            try:
                workspace.warehouse.query(
                    f"DESCRIBE TABLE (SELECT 1 FROM {table} AS {TABLE_ALIAS} WHERE {parsed.rest})"
                )
            except RookeryError as exc:
                raise RookeryError(
                    BAD_FILTER, "the token's filter does not fit its datasource", detail=exc.detail or exc.message
                ) from exc
        if len(snapshot.memo) > 10_000:
            snapshot.memo.clear()
        known = snapshot.memo[("filter", name, text)] = (parsed.tenant, parsed.rest)
    return known  # type: ignore[return-value]


def for_append(snapshot: Snapshot, claims: Claims, datasource: str) -> str | None:
    """Whether a token may append, and the tenant that it is bound to. Raises RK4003."""
    if claims.is_admin:
        return None
    if not claims.allowing("DATASOURCES:APPEND", datasource):
        raise RookeryError(SCOPE, f"the token does not allow appending to `{datasource}`")
    if claims.tenant is not None:
        row = snapshot.tenants.get(claims.tenant)
        if row is None or row.state == "removing":
            raise RookeryError(BAD_TOKEN, "the token's tenant is not known")
    return claims.tenant


def writer_of(claims: Claims) -> str:
    """What tells one token without a tenant from others that append: a static token's id, or a JWT's name."""
    return claims.static_id or claims.subject


def for_receipts(claims: Claims) -> tuple[str, frozenset[str]] | None:
    """Whose receipts a token may see, and of which datasources; None for all.

    They are one tenant's, or those of writers without a tenant (''). Raises RK4003.
    """
    if claims.is_admin:
        return None
    written = frozenset(s.resource for s in claims.scopes if s.type == "DATASOURCES:APPEND" and s.resource)
    if not written:
        raise RookeryError(SCOPE, "the token appends nothing, so it has no receipts")
    return claims.tenant or "", written
