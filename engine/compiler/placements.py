"""The rows of all tenants together, for a caller who selects no tenant.

A per-tenant target is one table for pooled tenants and one in every nest. Read without a tenant it is all of them, or
nothing: never the part that happens to be in one place.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.compiler.scope import TABLE_ALIAS, Reading, Relation, mentioned, select, tenant_literal
from engine.errors import NOT_TOGETHER, RookeryError
from engine.schema import Name, quote

MAX_RELATION_BYTES = 240_000
"""Longest relation over many nests; the engine refuses statements longer than 256 KiB."""


@dataclass(frozen=True, slots=True)
class AllPlacements:
    """Where the rows of all tenants are that are ready.

    `nests` are the databases of tenants with tables, of which at most `most` are read together. `unsettled` are
    pooled tenants that are being added or removed: the shared tables may hold a part of their rows.
    """

    nests: tuple[str, ...]
    unsettled: tuple[str, ...]
    most: int

    def relation(self, relation: Relation, workspace: str, how: Reading, filters: list[str]) -> str:
        """The SQL of a per-tenant target's rows in all placements. Raises RK3013 when they are in too many tables."""
        if len(self.nests) > self.most:
            raise RookeryError(
                NOT_TOGETHER,
                f"`{relation.name}` is in the tables of {len(self.nests):,} tenants, and at most {self.most:,} are "
                "read together",
                hint="select a tenant (`--tenant`, or the header X-Rookery-Tenant), read the landing datasource, or "
                "raise ROOKERY_MAX_NESTS",
            )
        shared = [*self._settled(relation), *filters]
        places = [(workspace, shared), *((nest, filters) for nest in self.nests)]
        found = "\nUNION ALL\n".join(
            select(
                relation,
                Name(database, relation.name),
                conditions,
                columns=mentioned(relation, how.names),
                final=how.final or relation.final,
                sample=how.sample,
            )
            for database, conditions in places
        )
        if len(found) > MAX_RELATION_BYTES:
            raise RookeryError(
                NOT_TOGETHER,
                f"`{relation.name}` has too many columns to be read from the tables of {len(self.nests):,} tenants",
                hint="select a tenant (`--tenant`, or the header X-Rookery-Tenant), or read the landing datasource",
            )
        return found

    def _settled(self, relation: Relation) -> list[str]:
        if not self.unsettled:
            return []
        literals = ", ".join(tenant_literal(relation.tenant_type, t) for t in self.unsettled)
        return [f"{TABLE_ALIAS}.{quote(relation.tenant or '')} NOT IN ({literals})"]
