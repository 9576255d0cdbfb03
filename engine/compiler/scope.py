"""What every bare table name means for one caller: the only place where isolation is decided.

A query never names a real table. It runs as `WITH events AS (<relation>), …`, in a session whose default database
is empty, so a name that the scope did not bind does not exist. A relation lists its columns, qualifies its filter
and fences it with PREWHERE, so that nothing in the author's text can capture it or run on another tenant's rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from engine.compiler.params import canonical_tenant
from engine.errors import NO_TENANT, TABLE_REFUSED, RookeryError
from engine.schema import Name, literal, quote

ALIAS = "_rk_t"
"""Alias of the real table inside a relation; author texts cannot use names that start with `_rk_`."""

BARRIER = 9_223_372_036_854_775_807
"""A LIMIT that keeps rows but stops index analysis and pushdown from reaching below it."""

Kind = Literal["landing", "target", "table"]


@dataclass(frozen=True, slots=True)
class Relation:
    """A datasource as its readers see it.

    `kind`: `landing` (everybody's rows), `target` (of a per-tenant pipe: a shared table for pooled tenants and one
    in every nest) or `table` (ordinary). `tenant` is the tenant column, `tenant_type` its ClickHouse type. `in_nest`
    says whether nests own a table of this name. `columns` are what readers see; a dropped tenant column is not
    among them.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...]
    tenant: str | None = None
    tenant_type: str = ""
    in_nest: bool = False
    final: bool = False


@dataclass(frozen=True, slots=True)
class RowFilter:
    """A token's filter, parsed and qualified: canonical SQL over `ALIAS`."""

    sql: str


@dataclass(frozen=True, slots=True)
class Bound:
    """A relation's SQL and the tenant placeholder in it, if any (name and type)."""

    sql: str
    placeholder: tuple[str, str] | None = None


class Everywhere(Protocol):
    """All tenants' rows of a per-tenant target, for a caller who selects no tenant (`compiler/placements`)."""

    def relation(
        self,
        relation: Relation,
        workspace: str,
        filters: list[str],
        *,
        final: bool = False,
        sample: tuple[str, str | None] | None = None,
    ) -> str: ...


@dataclass(frozen=True, slots=True)
class Scope:
    """One caller's view of the workspace.

    `tenant` is a canonical id or None; `nest` the database of the tenant's own tables, None for a pooled tenant;
    `filters` the token's row filters by datasource. An `unrestricted` scope (admin without a tenant) reads tenant
    data unfiltered, of per-tenant targets `everywhere` if it is given; any other scope without a tenant is refused
    such data. `barrier` adds the LIMIT fence.
    """

    workspace: str
    tenant: str | None = None
    nest: str | None = None
    filters: Mapping[str, tuple[RowFilter, ...]] = field(default_factory=dict)
    unrestricted: bool = False
    barrier: bool = False
    everywhere: Everywhere | None = None

    def shape(self) -> tuple[object, ...]:
        """What of the scope shapes a statement's text; the tenant itself is bound, never spelled."""
        filters = tuple(sorted((n, tuple(f.sql for f in fs)) for n, fs in self.filters.items() if fs))
        who = (self.tenant is not None, self.nest, filters, self.unrestricted, self.everywhere)
        return (self.workspace, *who, self.barrier)

    def bind(self, relation: Relation, *, final: bool = False, sample: tuple[str, str | None] | None = None) -> Bound:
        """The SQL that a table name stands for. Raises RK4004 when tenant data has no tenant to filter by."""
        filters = [f.sql for f in self.filters.get(relation.name, ())]
        limit = BARRIER if self.barrier else None
        use_final = final or relation.final
        if relation.tenant is None or (self.unrestricted and self.tenant is None):
            if self.everywhere is not None and relation.kind == "target":
                return Bound(
                    self.everywhere.relation(relation, self.workspace, filters, final=use_final, sample=sample)
                )
            source = Name(self.workspace, relation.name)
            return Bound(select(relation, source, filters, final=use_final, sample=sample, limit=limit))
        if self.tenant is None:
            raise RookeryError(
                NO_TENANT,
                f"`{relation.name}` holds every tenant's rows and the token selects no tenant",
                hint="use a token with the claim `tenant`, or one that fixes the pipe's tenant key",
            )
        if self.nest is not None and relation.in_nest:
            return Bound(
                select(relation, Name(self.nest, relation.name), filters, final=use_final, sample=sample, limit=limit)
            )
        placeholder = (tenant_placeholder(relation.tenant_type), base_type(relation.tenant_type))
        condition = f"{ALIAS}.{quote(relation.tenant)} = {{{placeholder[0]}:{placeholder[1]}}}"
        source = Name(self.workspace, relation.name)
        return Bound(
            select(relation, source, [condition, *filters], final=use_final, sample=sample, limit=limit), placeholder
        )


def select(
    relation: Relation,
    source: Name,
    conditions: list[str],
    *,
    final: bool = False,
    sample: tuple[str, str | None] | None = None,
    limit: int | None = None,
    clause: Literal["PREWHERE", "WHERE"] = "PREWHERE",
    suffix: str = "",
) -> str:
    """A relation's SELECT: columns listed, every condition qualified and behind the fence."""
    if not relation.columns:
        raise RookeryError(TABLE_REFUSED, f"`{relation.name}` has no readable column")
    columns = ", ".join(f"{ALIAS}.{quote(c)}" for c in relation.columns)
    text = f"SELECT {columns} FROM {source.sql()} AS {ALIAS}"
    if final:
        text += " FINAL"
    if sample is not None:
        text += f" SAMPLE {sample[0]}" + (f" OFFSET {sample[1]}" if sample[1] else "")
    if conditions:
        text += f" {clause} " + " AND ".join(f"({c})" for c in conditions)
    if suffix:
        text += f" {suffix}"
    if limit is not None:
        text += f" LIMIT {limit}"
    return text


def base_type(type_text: str) -> str:
    """A tenant column's type without LowCardinality, which placeholders do not need."""
    inner = type_text.strip()
    return inner[15:-1].strip() if inner.startswith("LowCardinality(") and inner.endswith(")") else inner


def tenant_placeholder(type_text: str) -> str:
    """The reserved placeholder name for a tenant of a type; one statement may bind several types."""
    return "rk_tenant_" + base_type(type_text).lower()


def tenant_literal(type_text: str, tenant: str) -> str:
    """A tenant id as a literal of the tenant column's type, for DDL only.

    Raises RK3005 for an id that is none of the type: it would be spelled without quotes.
    """
    kind = base_type(type_text)
    canonical_tenant(kind, tenant)
    return literal(tenant) if kind in {"String", "UUID"} else tenant
