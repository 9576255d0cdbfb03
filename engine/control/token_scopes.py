"""Checks before a token is stored or signed: whether its creator may mint, and whether each scope is of any use."""

from __future__ import annotations

from collections.abc import Sequence

from engine.compiler.build import parameter_names, parameters_of
from engine.compiler.filters import parse_filter
from engine.control.ids import check_id
from engine.errors import BAD_FILTER, BAD_SCOPE, BAD_TOKEN, SCOPE, UNKNOWN_TENANT, RookeryError
from engine.template.parameters import check_enum, coerce
from engine.tokens.claims import WORKSPACE_SCOPES, Claims, Scope, check_combination
from engine.workspace.snapshot import Snapshot
from engine.workspace.workspace import Workspace

_TENANT_NOT_BOUND = "its filters or fixed parameters select a tenant"
_BIND_HINT = "bind it to the tenant instead: --tenant"


def minting_rights(workspace: Workspace, snapshot: Snapshot, caller: Claims) -> Claims:
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
        raise RookeryError(SCOPE, f"the token cannot mint tokens: {_TENANT_NOT_BOUND}", hint=_BIND_HINT)
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


def check_scopes(workspace: Workspace, snapshot: Snapshot, scopes: Sequence[Scope], tenant: str | None) -> None:
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
        raise RookeryError(BAD_SCOPE, f"a token cannot have TOKENS:MINT: {_TENANT_NOT_BOUND}", hint=_BIND_HINT)


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
