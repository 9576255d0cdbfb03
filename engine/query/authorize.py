"""Decides what a request may read or write: token → claims → the scope of one request.

Data flows one way. If a narrow permission is missing, a step never falls back to a wider one.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine.cache import LruCache, size_of
from engine.compiler.build import Build, parameter_names
from engine.compiler.scope import Scope
from engine.errors import (
    BAD_TOKEN,
    NO_TENANT,
    NO_TOKEN,
    SCOPE,
    TENANT_CHANGING,
    TENANT_FROM_QUERY,
    UNKNOWN_PIPE,
    UNKNOWN_TENANT,
    RookeryError,
    did_you_mean,
)
from engine.observe.requests import note_tenant, note_token
from engine.query.all_tenants import placements_of_all_tenants
from engine.query.arguments import parameters_of_pipe
from engine.query.request import QueryRequest
from engine.query.token_filters import token_filters
from engine.template.parameters import ParameterSpec, coerce
from engine.tenant_ids import base_type, canonical_tenant
from engine.tokens.claims import Claims
from engine.tokens.claims import Scope as TokenScope
from engine.tokens.jwts import Rules, usable_keys, verify
from engine.tokens.static_tokens import static_id
from engine.workspace.snapshot import Snapshot, TenantRecord, per_snapshot
from engine.workspace.workspace import Workspace

VERIFIED_CACHE_ENTRIES = 20_000
"""Maximum number of tokens whose claims a snapshot caches."""


def authenticate(workspace: Workspace, token: str | None) -> Claims:
    """The claims of a token. Raises RK4001 when there is none, and RK4002 when it or its tenant is not valid."""
    if not token:
        raise RookeryError(NO_TOKEN, "the request has no token", hint="Authorization: Bearer TOKEN, or ?token=TOKEN")
    snapshot = workspace.current
    cache = _verified_claims(snapshot)
    # Keys expire by the clock, without a new snapshot. Tokens that an expired key signed must not stay valid in the
    # cache, so the usable keys are part of its key. The token itself is not kept in memory.
    keys = ",".join(k.id for k in usable_keys(snapshot.keys, time.time()))
    key = hashlib.blake2b(f"{keys}:{token}".encode(), digest_size=20).digest()
    claims = cache.get(key)
    if claims is None:
        claims = cache.put(key, _verify(workspace, snapshot, token))
    if claims.expires is not None and claims.expires <= time.time():
        raise RookeryError(BAD_TOKEN, "the token has expired")
    note_token(claims.subject, claims.tenant)
    if claims.tenant is not None:
        _require_tenant(snapshot, claims.tenant)
    return claims


def _require_tenant(snapshot: Snapshot, tenant: str) -> None:
    """Raise RK4002 unless a token's tenant exists. A tenant counts as removed from the beginning of its removal."""
    record = snapshot.tenants.get(tenant)
    if record is None or record.state == "removing":
        raise RookeryError(BAD_TOKEN, "the token's tenant does not exist", hint="rookery tenant add")


@per_snapshot
def _verified_claims(snapshot: Snapshot) -> LruCache[bytes, Claims]:
    """The claims of tokens that were valid, by a digest of the token and of the keys that were usable."""
    return LruCache(VERIFIED_CACHE_ENTRIES, weigh=size_of)


def _verify(workspace: Workspace, snapshot: Snapshot, token: str) -> Claims:
    """The claims of the configured admin token, a static token (`p.…`), or a JWT. Raises RK4002."""
    admin_token = workspace.settings.admin_token
    if admin_token is not None and hmac.compare_digest(admin_token.get_secret_value().encode(), token.encode()):
        return Claims("admin token", (TokenScope("ADMIN"),))
    if token.startswith("p."):
        nonce = static_id(token, workspace.name, snapshot.secret)
        static = snapshot.tokens.get(nonce) if nonce else None
        # A configured admin token replaces the generated one, which is then refused.
        if static is None or (static.origin == "admin" and admin_token is not None):
            raise RookeryError(BAD_TOKEN, "the static token is unknown or incomplete, or it was removed or refreshed")
        return static.claims()
    rules = Rules(workspace.settings.token_leeway, workspace.settings.max_token_seconds)
    return verify(token, workspace.name, snapshot.keys, rules=rules)


@dataclass(frozen=True, slots=True)
class Granted:
    """What a request may do."""

    scope: Scope
    """The relations that the caller may read."""
    fixed: Mapping[str, Any]
    """Parameters that the token fixes, with the tenant in each tenant key."""
    names: frozenset[str] = frozenset()
    """Names of pipes and datasources that ad-hoc SQL may use."""


@dataclass(frozen=True, slots=True)
class ReachablePipes:
    """The pipes that a request may read, with the parameters that the token fixes for them."""

    names: frozenset[str]
    """Pipes and, for ad-hoc SQL, datasources."""
    fixed: Mapping[str, Any]
    """Parameters that the token fixes."""
    tenant_keys: frozenset[str]
    """Parameters that select the tenant. They are never read from the request."""
    ad_hoc: bool = False
    """Whether the names are for ad-hoc SQL, which does not have to read all of them."""


@dataclass(frozen=True, slots=True)
class TenantSelection:
    """The tenants that a request selects, by where each comes from. All of them must be the same tenant."""

    impersonated: str | None = None
    """From the header by which an admin runs a query as a tenant."""
    claim: str | None = None
    """From the claim `tenant`."""
    by_filter: frozenset[str] = frozenset()
    """From row filters that compare the tenant column."""
    by_parameter: frozenset[str] = frozenset()
    """From tenant keys that the token fixes."""

    def tenant(self) -> str | None:
        """The tenant, or None if none is selected. Raises RK4002 for more than one."""
        tenants = {t for t in (self.impersonated, self.claim) if t is not None} | self.by_filter | self.by_parameter
        if len(tenants) > 1:
            raise RookeryError(BAD_TOKEN, "the token selects two tenants")
        return next(iter(tenants), None)


def for_pipe(snapshot: Snapshot, workspace: Workspace, request: QueryRequest, pipe: str) -> Granted:
    """What an endpoint call may do.

    Raises RK4003 for an endpoint outside the token's scopes (404 for callers who read all rows), RK4004 without a
    tenant, and RK4005 for a tenant key that the request sets.
    """
    claims = request.claims
    if not claims.reads_all and not claims.allowing("PIPES:READ", pipe):
        raise _endpoint_not_allowed(snapshot, claims, pipe)
    if pipe not in snapshot.build.endpoints:
        if claims.reads_all:
            raise _unknown_endpoint(snapshot.build, pipe)
        # The same error as above, so that callers cannot find out which pipes exist.
        raise _endpoint_not_allowed(snapshot, claims, pipe)
    fixed = _fixed_parameters(snapshot, workspace.zone, claims, pipe)
    keys = _tenant_keys(snapshot, pipe)
    return _grant(snapshot, workspace, request, ReachablePipes(frozenset({pipe}), fixed, keys))


def _endpoint_not_allowed(snapshot: Snapshot, claims: Claims, pipe: str) -> RookeryError:
    """RK4003 for an endpoint. The hint is only ever one of the endpoints that the token allows."""
    allowed = [n for n in snapshot.build.endpoints if claims.allowing("PIPES:READ", n)]
    hint = did_you_mean(pipe, allowed)
    return RookeryError(SCOPE, f"the token does not allow the endpoint `{pipe}`", hint=hint)


def _unknown_endpoint(build: Build, name: str) -> RookeryError:
    """The error for callers who may know all names. Other resources with the name are described."""
    hint: str | None
    if name in build.datasources:
        message, hint = f"`{name}` is a datasource, not an endpoint", f'rookery sql "SELECT * FROM {name}"'
    elif pipe := build.pipes.get(name):
        message = f"the type of pipe `{name}` is {pipe.kind}, not endpoint"
        hint = (
            f'rookery sql "SELECT * FROM {pipe.target.name}"' if pipe.target else "set `type: endpoint` in its file"
        )
    else:
        message, hint = f"unknown endpoint `{name}`", did_you_mean(name, build.endpoints, "rookery pipe ls")
    return RookeryError(UNKNOWN_PIPE, message, hint=hint)


def for_sql(snapshot: Snapshot, workspace: Workspace, request: QueryRequest) -> Granted:
    """What ad-hoc SQL may do: read exactly the resources that the token names.

    Raises RK4003 for a token without a scope to read, RK4004 without a tenant, and RK4005 for a tenant key that the
    request sets.
    """
    build, claims = snapshot.build, request.claims
    if claims.reads_all:
        names = frozenset(build.relations) | frozenset(build.pipes)
    else:
        datasources = {s.resource for s in claims.scopes if s.type == "DATASOURCES:READ"} & set(build.relations)
        endpoints = {s.resource for s in claims.scopes if s.type == "PIPES:READ"} & set(build.endpoints)
        names = frozenset(datasources | endpoints)
        if not any(s.type in {"DATASOURCES:READ", "PIPES:READ"} for s in claims.scopes):
            raise RookeryError(SCOPE, "the token does not allow queries")
    fixed: dict[str, Any] = {}
    keys: set[str] = set()
    for pipe in sorted(names & set(build.pipes)):
        keys |= _tenant_keys(snapshot, pipe)
        for name, value in _fixed_parameters(snapshot, workspace.zone, claims, pipe).items():
            if fixed.setdefault(name, value) != value:
                raise RookeryError(BAD_TOKEN, f"the token fixes `{name}` to two values")
    return _grant(snapshot, workspace, request, ReachablePipes(names, fixed, frozenset(keys), ad_hoc=True))


def _fixed_parameters(snapshot: Snapshot, zone: str, claims: Claims, pipe: str) -> dict[str, Any]:
    """The parameters of a pipe that the token fixes.

    Raises RK4002 for a parameter that the pipe does not have and for a value that is not of its type. To a template,
    null means that the parameter is absent, so such a value would not restrict anything.
    """
    fixed = claims.fixed_params(pipe)
    if fixed:
        known = _names_in_templates(snapshot, pipe)
        unknown = next((name for name in sorted(fixed) if name not in known), None)
        if unknown is not None:
            raise RookeryError(BAD_TOKEN, f"the token fixes `{unknown[:120]}`, which `{pipe}` does not have")
        for spec in parameters_of_pipe(snapshot, pipe):
            if spec.name in fixed:
                _check_fixed_value(spec, fixed[spec.name], zone)
    return fixed


def _check_fixed_value(spec: ParameterSpec, value: Any, zone: str) -> None:
    try:
        coerce(spec.name, spec.type, value, zone)
    except RookeryError as exc:
        raise RookeryError(BAD_TOKEN, f"the token's fixed {exc.message}", hint=exc.hint) from exc


@per_snapshot
def _names_in_templates(snapshot: Snapshot, pipe: str) -> frozenset[str]:
    return parameter_names(snapshot.build.pipes, pipe)


@per_snapshot
def _tenant_keys(snapshot: Snapshot, pipe: str) -> frozenset[str]:
    """The parameters of a pipe that select the tenant."""
    return frozenset(p.name for p in parameters_of_pipe(snapshot, pipe) if p.tenant_key)


def _grant(snapshot: Snapshot, workspace: Workspace, request: QueryRequest, pipes: ReachablePipes) -> Granted:
    """The scope of a request: its tenant, where that tenant's rows are, and the token's filters."""
    claims, build = request.claims, snapshot.build
    if request.impersonated_tenant is not None and not claims.reads_all:
        raise RookeryError(TENANT_FROM_QUERY, "only a token with READ:ALL or ADMIN may run a query as a tenant")
    filters = token_filters(snapshot, workspace, claims)
    by_parameter = frozenset(_tenant_id(build, pipes.fixed[k]) for k in pipes.tenant_keys if k in pipes.fixed)
    # Four sources can select the tenant. They must agree: a token for tenant 7 never reads another tenant, whatever
    # its filters say.
    selection = TenantSelection(request.impersonated_tenant, claims.tenant, filters.tenants, by_parameter)
    tenant = selection.tenant()
    fixed = dict(pipes.fixed)
    if tenant is not None:
        # A tenant key that the token does not fix gets the tenant of the token, and never a value from the request.
        fixed = {**dict.fromkeys(pipes.tenant_keys, tenant), **fixed}
    if not claims.reads_all:
        _refuse_unfixed(pipes.tenant_keys - set(fixed), request.parameters, ad_hoc=pipes.ad_hoc)
    nest = _tenant_record(snapshot, tenant, selection).nest(build.workspace) if tenant is not None else None
    # Not before it is known to exist: an admin can send any text.
    note_tenant(tenant)
    scope = Scope(build.workspace, tenant, nest, filters.rows, unrestricted=claims.reads_all)
    if claims.reads_all and tenant is None:
        placements = placements_of_all_tenants(snapshot, workspace.settings.max_nests)
        scope = replace(scope, everywhere=placements)
    return Granted(scope, fixed, pipes.names)


def _tenant_record(snapshot: Snapshot, tenant: str, selection: TenantSelection) -> TenantRecord:
    """The record of the selected tenant.

    Raises RK4002, or for an impersonated one RK3004, if there is none; and RK4030 while its tables are being filled.
    """
    record = snapshot.tenants.get(tenant)
    if record is None or record.state == "removing":
        if selection.impersonated is not None:
            hint = did_you_mean(tenant, snapshot.tenants, "rookery tenant ls")
            raise RookeryError(UNKNOWN_TENANT, f"tenant `{tenant[:120]}` does not exist", hint=hint)
        raise RookeryError(BAD_TOKEN, "the token's tenant does not exist", hint="rookery tenant add")
    if record.state != "ready":
        raise tenant_changing()
    return record


def tenant_changing() -> RookeryError:
    """RK4030: the tenant's tables do not have all of its rows at the moment."""
    return RookeryError(
        TENANT_CHANGING,
        "the tenant is being added or removed, and its rows cannot be read before that is complete",
        hint="repeat the request; if the change was interrupted, `rookery doctor` names the tenant",
        headers={"Retry-After": "1"},
    )


def _refuse_unfixed(unfixed_keys: frozenset[str], sent: Mapping[str, Any], *, ad_hoc: bool) -> None:
    """Refuse tenant keys that the token does not fix. Ad-hoc SQL may avoid the pipes that need them."""
    for key in sorted(unfixed_keys):
        if key in sent:
            raise RookeryError(
                TENANT_FROM_QUERY,
                f"`{key}` selects the tenant and cannot be set by the request",
                hint="mint a token that fixes it (fixed_params), or one with the claim `tenant`",
            )
        if not ad_hoc:
            raise RookeryError(NO_TENANT, f"the token does not fix `{key}`, which selects the tenant")


def _tenant_id(build: Build, value: Any) -> str:
    """A fixed tenant key as a tenant id. Raises RK4002 if it is not canonical for the workspace's tenant columns."""
    types = {base_type(r.tenant_type) for r in build.relations.values() if r.tenant} or {"String"}
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    try:
        for type in types:
            canonical_tenant(type, text)
    except RookeryError as exc:
        raise RookeryError(BAD_TOKEN, f"the token's tenant: {exc.message}") from exc
    return str(text)


def for_append(snapshot: Snapshot, claims: Claims, datasource: str) -> str | None:
    """The only tenant whose rows a token may append; None if the token is not bound to a tenant.

    Raises RK4003 if the token may not append to the datasource, and RK4002 if its tenant does not exist.
    """
    if claims.is_admin:
        return None
    if not claims.allowing("DATASOURCES:APPEND", datasource):
        allowed = [n for n in snapshot.build.datasources if claims.allowing("DATASOURCES:APPEND", n)]
        hint = did_you_mean(datasource, allowed)
        raise RookeryError(SCOPE, f"the token does not allow appending to `{datasource}`", hint=hint)
    if claims.tenant is not None:
        _require_tenant(snapshot, claims.tenant)
    return claims.tenant


def writer_of(claims: Claims) -> str:
    """The name under which a token appends, for limits and quarantine: a static token's id, or a JWT's name."""
    # No JWT can have the name of a static token: ids have no spaces.
    return claims.static_id or f"jwt {claims.subject}"


def for_receipts(claims: Claims) -> tuple[str, frozenset[str]] | None:
    """The tenant and the datasources whose receipts a token may see; None for all of them.

    The tenant is '' for receipts of writers without a tenant. Raises RK4003 for a token that cannot append.
    """
    if claims.is_admin:
        return None
    datasources = frozenset(s.resource for s in claims.scopes if s.type == "DATASOURCES:APPEND" and s.resource)
    if not datasources:
        raise RookeryError(SCOPE, "the token cannot append, so it has no receipts")
    return claims.tenant or "", datasources
