"""Reads the rows of all tenants together, for a caller who selects no tenant.

A per-tenant target consists of one table for pooled tenants and one table in each nest. A read without a tenant
returns the rows of all these tables or fails; it never returns only the rows of some placement.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.compiler.scope import TABLE_ALIAS, Reading, Relation, SelectOptions, mentioned, select, tenant_literal
from engine.errors import NOT_TOGETHER, RookeryError
from engine.schema import Name, quote

MAX_RELATION_BYTES = 240_000
"""Longest SQL of a relation over many nests. The engine refuses statements longer than 256 KiB."""


@dataclass(frozen=True, slots=True)
class AllPlacements:
    """The locations of the rows of all tenants with the state `ready`."""

    nests: tuple[str, ...]
    """The databases of tenants with tables."""
    unsettled: tuple[str, ...]
    """Pooled tenants that are being added or removed. The shared tables may have only some of their rows."""
    max_nests: int
    """Maximum number of nests that a statement may read."""

    def relation(self, relation: Relation, workspace: str, how: Reading, filters: list[str]) -> str:
        """The SQL of a per-tenant target in all placements. Raises RK3013 if there are too many tables."""
        if len(self.nests) > self.max_nests:
            raise RookeryError(
                NOT_TOGETHER,
                f"`{relation.name}` is in the tables of {len(self.nests):,} tenants, and a query reads at most "
                f"{self.max_nests:,}",
                hint="select a tenant (`--tenant`, or the header X-Rookery-Tenant), read the landing datasource, or "
                "raise ROOKERY_MAX_NESTS",
            )
        shared = [*self._exclude_unsettled(relation), *filters]
        places = [(workspace, shared), *((nest, filters) for nest in self.nests)]
        options = SelectOptions(
            columns=mentioned(relation, how.names), final=how.final or relation.final, sample=how.sample
        )
        sql = "\nUNION ALL\n".join(
            select(relation, Name(database, relation.name), conditions, options) for database, conditions in places
        )
        if len(sql) > MAX_RELATION_BYTES:
            raise RookeryError(
                NOT_TOGETHER,
                f"`{relation.name}` has too many columns to be read from the tables of {len(self.nests):,} tenants",
                hint="select a tenant (`--tenant`, or the header X-Rookery-Tenant), or read the landing datasource",
            )
        return sql

    def _exclude_unsettled(self, relation: Relation) -> list[str]:
        """The condition that excludes unsettled tenants, if there are any."""
        if not self.unsettled:
            return []
        literals = ", ".join(tenant_literal(relation.tenant_type, t) for t in self.unsettled)
        return [f"{TABLE_ALIAS}.{quote(relation.tenant or '')} NOT IN ({literals})"]
