"""Checks tenant ids against the types of a workspace's tenant columns."""

from __future__ import annotations

from collections.abc import Iterable

from engine.compiler.build import Build
from engine.errors import Collector, RookeryError
from engine.tenant_ids import canonical_tenant


def tenant_types(build: Build) -> tuple[str, ...]:
    """Types of the workspace's tenant columns."""
    return tuple(sorted({r.tenant_type for r in build.relations.values() if r.tenant}))


def check_ids(build: Build, tenants: Iterable[str]) -> None:
    """Raise Problems (RK3005, with places) if a tenant column cannot store the id of an existing tenant."""
    problems = Collector()
    existing = sorted(tenants)
    for name, relation in build.relations.items():
        for tenant in existing if relation.tenant else ():
            try:
                canonical_tenant(relation.tenant_type, tenant)
            except RookeryError as exc:
                problems.add(_problem_at_column(build, name, exc))
                # One problem for each column is enough.
                break
    problems.raise_if_any()


def _problem_at_column(build: Build, name: str, exc: RookeryError) -> RookeryError:
    source = build.datasources[name]
    column = source.column(source.tenant_column or "")
    return RookeryError(
        exc.code,
        f"{exc.message}, the type of `{name}.{source.tenant_column}`, and this tenant exists",
        hint="keep the column's type, or remove the tenant first: rookery tenant rm",
        place=column.place_of("type") if column else source.place,
    )


def check_id(build: Build, tenant: str) -> str:
    """Return the tenant id if it is canonical for every tenant column of the workspace. Raises RK3005 if not."""
    for kind in tenant_types(build) or ("String",):
        canonical_tenant(kind, tenant)
    return tenant
