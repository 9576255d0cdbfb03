"""What every bare table name means for one caller: the only place where isolation is decided.

A query never names a real table. It runs as `WITH events AS (<relation>), …`, in a session whose default database
is empty, so a name that the scope did not bind does not exist. A relation lists its columns, qualifies its filter
and fences it with PREWHERE, so that nothing in the author's text can capture it or run on another tenant's rows.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from engine.compiler.encoding import own_values, plain_value
from engine.errors import NO_TENANT, TABLE_REFUSED, RookeryError
from engine.schema import Name, literal, quote
from engine.tenant_ids import base_type, canonical_tenant

TABLE_ALIAS = "_rk_t"
"""Alias of the real table inside a relation; author texts cannot use names that start with `_rk_`."""

GROUP_TENANTS = "_rk_tenants"
"""Hidden column of a shared aggregate: the state of the tenants in each group."""

BARRIER = 9_223_372_036_854_775_807
"""A LIMIT that keeps rows but stops index analysis and pushdown from reaching below it."""

CHECKED_TENANT_PREFIX = "rk_witness_"
"""Beginning of the placeholders that the second check of the tenant compares with."""

FOREIGN_ROW = f"rookery: a row of another tenant ({secrets.token_hex(8)})"
"""What the second check of the tenant raises. Queries can raise errors of their own, so its text cannot be known."""

Kind = Literal["landing", "target", "table"]


@dataclass(frozen=True, slots=True)
class Relation:
    """A datasource as its readers see it.

    `kind`: `landing` (everybody's rows), `target` (of a per-tenant pipe: a shared table for pooled tenants and one
    in every nest) or `table` (ordinary). `tenant` is the tenant column, `tenant_type` its ClickHouse type. `in_nest`
    says whether nests own a table of this name. `columns` are what readers see, `types` the type of each; a dropped
    tenant column is not among them. Of a shared aggregate, readers see groups of at least `min_tenants` tenants.
    `summed` are the columns that merges add up.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...]
    tenant: str | None = None
    tenant_type: str = ""
    in_nest: bool = False
    final: bool = False
    types: tuple[str, ...] = ()
    min_tenants: int | None = None
    summed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RowFilter:
    """A token's filter, parsed and qualified: canonical SQL over `ALIAS`."""

    sql: str


@dataclass(frozen=True, slots=True)
class Bound:
    """A relation's SQL, the table that it reads, and the placeholders of the tenant in it (name, type)."""

    sql: str
    source: Name
    placeholders: tuple[tuple[str, str], ...] = ()

    @property
    def witnessed(self) -> bool:
        """Whether the tenant of every row is checked a second time."""
        return any(name.startswith(CHECKED_TENANT_PREFIX) for name, _ in self.placeholders)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a statement reads a datasource.

    `final` reads merged rows, `sample` is (ratio, offset), `names` are the names that the statement's texts mention,
    `passed` those whose values they pass to functions; None where that may be any column.
    """

    final: bool = False
    sample: tuple[str, str | None] | None = None
    names: frozenset[str] | None = None
    passed: frozenset[str] | None = None


PLAIN = Reading()


class Everywhere(Protocol):
    """All tenants' rows of a per-tenant target, for a caller who selects no tenant (`compiler/placements`)."""

    def relation(self, relation: Relation, workspace: str, how: Reading, filters: list[str]) -> str: ...


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

    def bind(self, relation: Relation, how: Reading = PLAIN) -> Bound:
        """The SQL that a table name stands for. Raises RK4004 when tenant data has no tenant to filter by."""
        filters = [f.sql for f in self.filters.get(relation.name, ())]
        if relation.min_tenants is not None:
            source = Name(self.workspace, relation.name)
            return Bound(_large_groups(relation, source, how, filters), source)
        if relation.tenant is None or (self.unrestricted and self.tenant is None):
            source = Name(self.workspace, relation.name)
            if self.everywhere is not None and relation.kind == "target":
                return Bound(self.everywhere.relation(relation, self.workspace, how, filters), source)
            return self._read(relation, source, how, filters, encode=bool(filters))
        if self.tenant is None:
            raise RookeryError(
                NO_TENANT,
                f"`{relation.name}` holds every tenant's rows and the token selects no tenant",
                hint="use a token with the claim `tenant`, or one that fixes the pipe's tenant key",
            )
        if self.nest is not None and relation.in_nest:
            return self._read(relation, Name(self.nest, relation.name), how, filters)
        column, kind = f"{TABLE_ALIAS}.{quote(relation.tenant)}", base_type(relation.tenant_type)
        own, witness = tenant_placeholder(kind), CHECKED_TENANT_PREFIX + kind.lower()
        bound = self._read(
            relation,
            Name(self.workspace, relation.name),
            how,
            filters,
            tenant=f"{column} = {{{own}:{kind}}}",
            # The dictionary of a part holds other tenants, on which this must not be evaluated.
            witness=f"{plain_value(column, relation.tenant_type)} != {{{witness}:{kind}}}",
        )
        return Bound(bound.sql, bound.source, ((own, kind), (witness, kind)))

    def _read(
        self,
        relation: Relation,
        source: Name,
        how: Reading,
        filters: list[str],
        *,
        tenant: str = "",
        witness: str = "",
        encode: bool = True,
    ) -> Bound:
        columns = mentioned(relation, how.names)
        final = how.final or relation.final
        checked = f"WHERE NOT throwIf({witness}, {literal(FOREIGN_ROW)})" if witness else ""
        own = [tenant] if tenant else []
        if not self.barrier:
            text = select(
                relation, source, own + filters, columns=columns, encode="values" if encode else "", final=final,
                sample=how.sample, suffix=checked, passed=how.passed,
            )  # fmt: skip
            return Bound(text, source)
        text = select(
            relation, source, own, encode="all" if encode else "", final=final, sample=how.sample, suffix=checked,
            columns=relation.columns if filters else columns, limit=BARRIER,
        )  # fmt: skip
        return Bound(_filtered(text, columns, filters) if filters else text, source)


def mentioned(relation: Relation, names: frozenset[str] | None) -> tuple[str, ...]:
    """The columns of a relation that a statement may use: those it names, and at least one."""
    if names is None:
        return relation.columns
    return tuple(c for c in relation.columns if c in names or "." in c) or relation.columns[:1]


def select(
    relation: Relation,
    source: Name,
    conditions: list[str],
    *,
    columns: tuple[str, ...] = (),
    encode: Literal["", "values", "all"] = "",
    passed: frozenset[str] | None = None,
    final: bool = False,
    sample: tuple[str, str | None] | None = None,
    limit: int | None = None,
    clause: Literal["PREWHERE", "WHERE"] = "PREWHERE",
    suffix: str = "",
) -> str:
    """A relation's SELECT: columns listed (all by default), every condition qualified and behind the fence.

    `encode` says which columns are re-encoded (`encoding.own_values`): `values` those with dictionaries, `all` those
    with types of their own as well, which costs more. With `passed`, columns that are not among these stay.
    """
    if not relation.columns:
        raise RookeryError(TABLE_REFUSED, f"`{relation.name}` has no readable column")
    listed = ", ".join(
        _column(relation, c, "" if passed is not None and passed.isdisjoint(c.split(".")) else encode)
        for c in columns or relation.columns
    )
    text = f"SELECT {listed} FROM {source.sql()} AS {TABLE_ALIAS}"
    if final:
        text += " FINAL"
    if sample is not None:
        text += f" SAMPLE {sample[0]}" + (f" OFFSET {sample[1]}" if sample[1] else "")
    conditions, suffix = _with_all_sums(relation, conditions, suffix, final=final, clause=clause)
    if conditions:
        text += f" {clause} " + " AND ".join(f"({c})" for c in conditions)
    if suffix:
        text += f" {suffix}"
    if limit is not None:
        text += f" LIMIT {limit}"
    return text


def _with_all_sums(
    relation: Relation, conditions: list[str], suffix: str, *, final: bool, clause: str
) -> tuple[list[str], str]:
    """Conditions and suffix by which FINAL reads every sum of a row.

    Merges remove a row whose sums are all zero, and FINAL judges by the sums that the statement reads.
    """
    if not final or not relation.summed:
        return conditions, suffix
    read = f"NOT ignore({', '.join(f'{TABLE_ALIAS}.{quote(c)}' for c in relation.summed)})"
    if clause == "WHERE":
        return [*conditions, read], suffix
    return conditions, f"{suffix} AND {read}" if suffix else f"WHERE {read}"


def _column(relation: Relation, name: str, encode: str) -> str:
    column = f"{TABLE_ALIAS}.{quote(name)}"
    types = dict(zip(relation.columns, relation.types, strict=False))
    made = own_values(column, types.get(name, ""), types=encode == "all") if encode else column
    return column if made == column else f"{made} AS {quote(name)}"


def is_encoded(relation: Relation) -> bool:
    """Whether reading a relation's rows apart from others takes more than a condition."""
    return any(own_values("c", t, types=True) != "c" for t in relation.types)


def _large_groups(relation: Relation, source: Name, how: Reading, filters: list[str]) -> str:
    """A shared aggregate's groups with enough tenants.

    The condition is on merged rows, so it cannot be PREWHERE; the LIMIT keeps readers' conditions out of the groups
    that they do not see.
    """
    enough = f"length(finalizeAggregation({TABLE_ALIAS}.{quote(GROUP_TENANTS)}).1) >= {relation.min_tenants}"
    columns = mentioned(relation, how.names)
    text = select(
        relation, source, [enough], columns=relation.columns if filters else columns, encode="all", final=True,
        sample=how.sample, limit=BARRIER, clause="WHERE",
    )  # fmt: skip
    return _filtered(text, columns, filters) if filters else text


def _filtered(text: str, columns: tuple[str, ...], filters: list[str]) -> str:
    """A fenced relation under a token's filters, which may fail on rows that are not the caller's, too."""
    listed = ", ".join(f"{TABLE_ALIAS}.{quote(c)}" for c in columns)
    conditions = " AND ".join(f"({f})" for f in filters)
    return f"SELECT {listed} FROM ({text}) AS {TABLE_ALIAS} WHERE {conditions} LIMIT {BARRIER}"


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
