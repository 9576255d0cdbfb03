"""Attenuation: a token that mints tokens cannot give them rights that it does not have itself.

Rights are compared by what the claims say, and never by what exists in the workspace, so a refusal reveals nothing
about it.
"""

from __future__ import annotations

import json

from engine.errors import SCOPE, RookeryError
from engine.tokens.claims import Claims, Scope

_READ_SCOPES = frozenset({"PIPES:READ", "DATASOURCES:READ"})


def excess(minter: Claims, minted: Claims) -> str | None:
    """The first right of `minted` that `minter` does not have; None if there is none.

    - **Scopes**: `minter` has each scope itself, or READ:ALL for a scope to read. An admin has every scope.
    - **Tenant**: a minter with a tenant mints tokens with the same tenant. Without, a token may have any tenant.
    - **Filters**: a token that reads a datasource or calls an endpoint has the minter's filters, and may have more.
    - **Fixed parameters**: a token for a pipe fixes what the minter fixes, to the same values, and may fix more.
    - **Expiry and limits**: the token expires no later than the minter, and its requests per second are no more.
    """
    if minter.is_admin:
        return None
    for scope in minted.scopes:
        if not _has(minter, scope):
            return f"the scope {scope.type}:{scope.resource}".removesuffix(":")
    if minter.tenant is not None and minted.tenant != minter.tenant:
        return "another tenant"
    if any(not minter_filters <= minted_filters for minter_filters, minted_filters in _filters(minter, minted)):
        return "rows outside its filters"
    if any(not _fixes(minter, minted, s.resource) for s in minted.scopes if s.type == "PIPES:READ"):
        return "other values of its fixed parameters"
    if minter.expires is not None and (minted.expires is None or minted.expires > minter.expires):
        return "a later expiry"
    if minter.rps is not None and (minted.rps is None or minted.rps > minter.rps):
        return "more requests per second"
    return None


def require_no_excess(minter: Claims, minted: Claims) -> None:
    """Raise RK4003 if a token would have a right that its minter does not have."""
    found = excess(minter, minted)
    if found is not None:
        raise RookeryError(
            SCOPE, f"a token cannot mint more rights than it has: {found}", hint="use a token that has these rights"
        )


def _has(minter: Claims, scope: Scope) -> bool:
    """Whether the minter has a scope, apart from its filter and fixed parameters."""
    if scope.type in _READ_SCOPES and minter.reads_all:
        return True
    return bool(minter.allowing(scope.type, scope.resource))


def _filters(minter: Claims, minted: Claims) -> list[tuple[set[str], set[str]]]:
    """The filters of both tokens on each datasource that `minted` may read and `minter` filters.

    A pipe may read any datasource, so a token that may call one needs all filters.
    """
    calls_pipes = "PIPES:READ" in minted.types
    filtered = {s.resource for s in minter.scopes if s.filter}
    read = {name for name in filtered if calls_pipes or minted.allowing("DATASOURCES:READ", name)}
    return [(set(minter.filters(name)), set(minted.filters(name))) for name in sorted(read)]


def _fixes(minter: Claims, minted: Claims, pipe: str) -> bool:
    """Whether `minted` fixes all parameters of a pipe that `minter` fixes, to the same values."""
    return _fixed(minter, pipe) <= _fixed(minted, pipe)


def _fixed(claims: Claims, pipe: str) -> set[tuple[str, str]]:
    """The parameters of a pipe that a token fixes, as (name, JSON). For Python, the values 1 and true are equal."""
    scopes = claims.allowing("PIPES:READ", pipe)
    return {(name, json.dumps(value, sort_keys=True)) for s in scopes for name, value in s.fixed_params.items()}
