"""Tenant ids: what is canonical for a workspace."""

from __future__ import annotations

from engine.compiler.build import Build
from engine.compiler.params import canonical_tenant


def tenant_types(build: Build) -> tuple[str, ...]:
    """Types of the workspace's tenant columns."""
    return tuple(sorted({r.tenant_type for r in build.relations.values() if r.tenant}))


def check_id(build: Build, tenant: str) -> str:
    """A tenant id that is canonical for every tenant column of the workspace. Raises RK3005."""
    for kind in tenant_types(build) or ("String",):
        canonical_tenant(kind, tenant)
    return tenant
