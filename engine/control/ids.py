"""Tenant ids: what is canonical for a workspace."""

from __future__ import annotations

from collections.abc import Iterable

from engine.compiler.build import Build
from engine.errors import Collector, RookeryError
from engine.tenant_ids import canonical_tenant


def tenant_types(build: Build) -> tuple[str, ...]:
    """Types of the workspace's tenant columns."""
    return tuple(sorted({r.tenant_type for r in build.relations.values() if r.tenant}))


def check_ids(build: Build, tenants: Iterable[str]) -> None:
    """Refuse a build whose tenant columns cannot hold a tenant that exists. Raises Problems (RK3005) with places."""
    problems = Collector()
    known = sorted(tenants)
    for name, relation in build.relations.items():
        for tenant in known if relation.tenant else ():
            try:
                canonical_tenant(relation.tenant_type, tenant)
            except RookeryError as exc:
                problems.add(_of_column(build, name, exc))
                break
    problems.raise_if_any()


def _of_column(build: Build, name: str, exc: RookeryError) -> RookeryError:
    source = build.datasources[name]
    column = source.column(source.tenant_column or "")
    return RookeryError(
        exc.code,
        f"{exc.message}, the type of `{name}.{source.tenant_column}`, and this tenant exists",
        hint="keep the column's type, or remove the tenant first: rookery tenant rm",
        place=column.place_of("type") if column else source.place,
    )


def check_id(build: Build, tenant: str) -> str:
    """A tenant id that is canonical for every tenant column of the workspace. Raises RK3005."""
    for kind in tenant_types(build) or ("String",):
        canonical_tenant(kind, tenant)
    return tenant
