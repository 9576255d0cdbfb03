"""Decides what each table name in a query means for one caller. Isolation is decided here and nowhere else.

A query never names a real table. It runs as `WITH events AS (<relation>), …`, in a session whose default database is
empty, so a name that the scope did not bind does not exist. A relation lists its columns and qualifies its tenant
filter, so that no name in the author's text can replace a part of it. The filter is in PREWHERE, so that no function
of the author runs on another tenant's rows.
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
"""Alias of the real table inside a relation. Author SQL cannot use names that start with `_rk_`."""

GROUP_TENANTS = "_rk_tenants"
"""Hidden column of a shared aggregate: the tenants of each group, as an aggregate state."""

BARRIER = 9_223_372_036_854_775_807
"""A LIMIT that keeps all rows, but that the engine does not push conditions through."""

CHECKED_TENANT_PREFIX = "rk_witness_"
"""Prefix of the placeholders with which the second check compares the tenant."""

FOREIGN_ROW = f"rookery: a row of another tenant ({secrets.token_hex(8)})"
"""Error text of the second check. It is random, since queries can raise errors with any text they know."""

Kind = Literal["landing", "target", "table"]


@dataclass(frozen=True, slots=True)
class Relation:
    """A datasource as its readers see it."""

    name: str
    kind: Kind
    """`landing`: rows of all tenants. `target`: the target of a per-tenant pipe, as a shared table for pooled tenants
    and a table in each nest. `table`: an ordinary datasource."""
    columns: tuple[str, ...]
    """The columns that readers see, without a dropped tenant column."""
    tenant: str | None = None
    """The tenant column."""
    tenant_type: str = ""
    """The ClickHouse type of the tenant column."""
    in_nest: bool = False
    """Whether each nest has its own table of this name."""
    final: bool = False
    """Whether the datasource is always read with FINAL."""
    types: tuple[str, ...] = ()
    """The type of each column in `columns`."""
    min_tenants: int | None = None
    """For a shared aggregate: readers see only groups of at least this many tenants."""
    summed: tuple[str, ...] = ()
    """The columns that merges add up."""


@dataclass(frozen=True, slots=True)
class RowFilter:
    """A token's row filter: canonical SQL whose columns are qualified by `TABLE_ALIAS`."""

    sql: str


@dataclass(frozen=True, slots=True)
class Bound:
    """The SQL of a relation for one caller."""

    sql: str
    source: Name
    """The table that it reads."""
    placeholders: tuple[tuple[str, str], ...] = ()
    """Placeholders of the tenant in `sql`, as (name, type)."""

    @property
    def witnessed(self) -> bool:
        """Whether the second check compares the tenant of each row."""
        return any(name.startswith(CHECKED_TENANT_PREFIX) for name, _ in self.placeholders)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a statement reads a datasource."""

    final: bool = False
    """Whether it reads merged rows."""
    sample: tuple[str, str | None] | None = None
    """The sample, as (ratio, offset)."""
    names: frozenset[str] | None = None
    """Names that the statement's texts mention; None if they may mean any column."""
    passed: frozenset[str] | None = None
    """Names whose values the texts pass to functions; None if that may be any column."""


PLAIN = Reading()


class Everywhere(Protocol):
    """Reads all tenants' rows of a per-tenant target, for a caller who selects no tenant (`compiler/placements`)."""

    def relation(self, relation: Relation, workspace: str, how: Reading, filters: list[str]) -> str:
        """The SQL of the relation."""
        ...


@dataclass(frozen=True, slots=True)
class Scope:
    """One caller's view of the workspace."""

    workspace: str
    tenant: str | None = None
    """The canonical id of the tenant, or None."""
    nest: str | None = None
    """The database of the tenant's own tables; None for a pooled tenant."""
    filters: Mapping[str, tuple[RowFilter, ...]] = field(default_factory=dict)
    """The token's row filters: datasource → filters."""
    unrestricted: bool = False
    """Whether the caller, an admin, reads the rows of all tenants if `tenant` is None. Any other scope without a
    tenant is refused tenants' rows."""
    barrier: bool = False
    """Whether each relation ends with the LIMIT barrier."""
    everywhere: Everywhere | None = None
    """How an unrestricted scope reads per-tenant targets in all nests; if None, only the shared table is read."""

    def shape(self) -> tuple[object, ...]:
        """The parts of the scope that affect a statement's text. The tenant is bound as a value, so it is not one."""
        filters = tuple(sorted((n, tuple(f.sql for f in fs)) for n, fs in self.filters.items() if fs))
        caller = (self.tenant is not None, self.nest, filters, self.unrestricted, self.everywhere)
        return (self.workspace, *caller, self.barrier)

    def bind(self, relation: Relation, how: Reading = PLAIN) -> Bound:
        """The SQL that replaces a table name. Raises RK4004 for tenants' rows if the scope has no tenant."""
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
                f"`{relation.name}` holds the rows of all tenants, and the token selects no tenant",
                hint="use a token with the claim `tenant`, or one that fixes the pipe's tenant key",
            )
        if self.nest is not None and relation.in_nest:
            return self._read(relation, Name(self.nest, relation.name), how, filters)
        tenant_column, kind = f"{TABLE_ALIAS}.{quote(relation.tenant)}", base_type(relation.tenant_type)
        placeholder, second_placeholder = tenant_placeholder(kind), CHECKED_TENANT_PREFIX + kind.lower()
        bound = self._read(
            relation,
            Name(self.workspace, relation.name),
            how,
            filters,
            tenant=f"{tenant_column} = {{{placeholder}:{kind}}}",
            # The dictionary of a part contains other tenants too, and the check must not be evaluated on them.
            witness=f"{plain_value(tenant_column, relation.tenant_type)} != {{{second_placeholder}:{kind}}}",
        )
        return Bound(bound.sql, bound.source, ((placeholder, kind), (second_placeholder, kind)))

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
        """A relation over one table. With a barrier, the token's filters run above it, as they may fail too."""
        columns = mentioned(relation, how.names)
        final = how.final or relation.final
        checked = f"WHERE NOT throwIf({witness}, {literal(FOREIGN_ROW)})" if witness else ""
        tenant_conditions = [tenant] if tenant else []
        if not self.barrier:
            text = select(
                relation, source, tenant_conditions + filters, columns=columns, encode="values" if encode else "",
                final=final, sample=how.sample, suffix=checked, passed=how.passed,
            )  # fmt: skip
            return Bound(text, source)
        text = select(
            relation, source, tenant_conditions, columns=relation.columns if filters else columns,
            encode="all" if encode else "", final=final, sample=how.sample, suffix=checked, limit=BARRIER,
        )  # fmt: skip
        return Bound(_filtered(text, columns, filters) if filters else text, source)


def mentioned(relation: Relation, names: frozenset[str] | None) -> tuple[str, ...]:
    """The columns of a relation that a statement may use: the ones that it names, but at least one."""
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
    """The SELECT of a relation, with listed columns (by default all) and the conditions in `clause`.

    The conditions must be qualified by `TABLE_ALIAS`. `encode` says which columns are re-encoded
    (`encoding.own_values`): `values` those with dictionaries, `all` also those with dynamic types, which costs more.
    With `passed`, only these columns are. Raises RK2004 for a relation without readable columns.
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
    """Add a condition that makes FINAL read all summed columns of a row.

    The engine drops a row whose sums are all zero, and FINAL considers only the sums that the statement reads.
    """
    if not final or not relation.summed:
        return conditions, suffix
    reads_all_sums = f"NOT ignore({', '.join(f'{TABLE_ALIAS}.{quote(c)}' for c in relation.summed)})"
    if clause == "WHERE":
        return [*conditions, reads_all_sums], suffix
    return conditions, f"{suffix} AND {reads_all_sums}" if suffix else f"WHERE {reads_all_sums}"


def _column(relation: Relation, name: str, encode: str) -> str:
    column = f"{TABLE_ALIAS}.{quote(name)}"
    types = dict(zip(relation.columns, relation.types, strict=False))
    encoded = own_values(column, types.get(name, ""), types=encode == "all") if encode else column
    return column if encoded == column else f"{encoded} AS {quote(name)}"


def is_encoded(relation: Relation) -> bool:
    """Whether any column must be re-encoded to keep a reader's rows apart from other rows."""
    return any(own_values("c", t, types=True) != "c" for t in relation.types)


def _large_groups(relation: Relation, source: Name, how: Reading, filters: list[str]) -> str:
    """The groups of a shared aggregate that have enough tenants.

    The condition is on merged rows, so it cannot be in PREWHERE. The LIMIT barrier keeps readers' conditions from
    running on groups that they must not see.
    """
    enough_tenants = f"length(finalizeAggregation({TABLE_ALIAS}.{quote(GROUP_TENANTS)}).1) >= {relation.min_tenants}"
    columns = mentioned(relation, how.names)
    text = select(
        relation, source, [enough_tenants], columns=relation.columns if filters else columns, encode="all",
        final=True, sample=how.sample, limit=BARRIER, clause="WHERE",
    )  # fmt: skip
    return _filtered(text, columns, filters) if filters else text


def _filtered(text: str, columns: tuple[str, ...], filters: list[str]) -> str:
    """A token's filters above a relation with a barrier: they may fail on rows that are not the caller's."""
    listed = ", ".join(f"{TABLE_ALIAS}.{quote(c)}" for c in columns)
    conditions = " AND ".join(f"({f})" for f in filters)
    return f"SELECT {listed} FROM ({text}) AS {TABLE_ALIAS} WHERE {conditions} LIMIT {BARRIER}"


def tenant_placeholder(type_text: str) -> str:
    """The placeholder for a tenant of a type. One statement may bind the tenant in several types."""
    return "rk_tenant_" + base_type(type_text).lower()


def tenant_literal(type_text: str, tenant: str) -> str:
    """A tenant id as a literal of the tenant column's type, for DDL only.

    Raises RK3005 for an id that is not valid for the type: numeric ids are written without quotes.
    """
    kind = base_type(type_text)
    canonical_tenant(kind, tenant)
    return literal(tenant) if kind in {"String", "UUID"} else tenant
