"""Decides what each table name in a query means for one caller. Only this module enforces isolation.

A query never names a real table. It runs as `WITH events AS (<relation>), …`, in a session whose default database is
empty, so a name that the scope did not bind does not exist. A relation lists its columns and qualifies its tenant
filter, so that no name in the author's SQL can replace a part of it. The filter is in PREWHERE, so that no function
of the author runs on another tenant's rows.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
"""A LIMIT that keeps all rows. The engine does not push conditions through it."""

CHECKED_TENANT_PREFIX = "rk_witness_"
"""Prefix of the placeholders with which the second check compares the tenant."""

FOREIGN_ROW = f"rookery: a row of another tenant ({secrets.token_hex(8)})"
"""Error message of the second check. It contains a random part, because queries can raise errors with any message
that they know.
"""

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
    """Names that the statement's parts mention; None if they may mean any column."""
    passed: frozenset[str] | None = None
    """Names whose values the statement passes to functions; None if that may be any column."""


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
    """Whether the caller is an admin, who reads the rows of all tenants if `tenant` is None. Any other scope without
    a tenant cannot read tenants' rows.
    """
    barrier: bool = False
    """Whether each relation ends with the LIMIT barrier."""
    everywhere: Everywhere | None = None
    """How an unrestricted scope reads per-tenant targets in all nests; if None, only the shared table is read."""

    def shape(self) -> tuple[object, ...]:
        """The parts of the scope that affect a statement's SQL. The tenant is not among them, because it is bound as
        a value.
        """
        filters = tuple(sorted((n, tuple(f.sql for f in fs)) for n, fs in self.filters.items() if fs))
        caller = (self.tenant is not None, self.nest, filters, self.unrestricted, self.everywhere)
        return (self.workspace, *caller, self.barrier)

    def bind(self, relation: Relation, how: Reading = PLAIN) -> Bound:
        """The SQL that replaces a table name. Raises RK4004 for tenants' rows if the scope has no tenant."""
        shared = Name(self.workspace, relation.name)
        # Checked first, because groups below the minimum are hidden from every caller, including admins.
        if relation.min_tenants is not None:
            return Bound(_large_groups(relation, shared, how, self._filters_on(relation)), shared)
        if relation.tenant is None or (self.unrestricted and self.tenant is None):
            filters = self._filters_on(relation)
            if self.everywhere is not None and relation.kind == "target":
                return Bound(self.everywhere.relation(relation, self.workspace, how, filters), shared)
            return self._read(relation, shared, how) if filters else self._read_whole(relation, shared, how)
        if self.tenant is None:
            raise RookeryError(
                NO_TENANT,
                f"`{relation.name}` holds the rows of all tenants, and the token selects no tenant",
                hint="use a token with the claim `tenant`, or one that fixes the pipe's tenant key",
            )
        # Every row of the nest belongs to the tenant, so no filter is needed. `compose` checks that the nest is the
        # tenant's.
        if self.nest is not None and relation.in_nest:
            return self._read(relation, Name(self.nest, relation.name), how)
        tenant_column, kind = f"{TABLE_ALIAS}.{quote(relation.tenant)}", base_type(relation.tenant_type)
        placeholder, second_placeholder = tenant_placeholder(kind), CHECKED_TENANT_PREFIX + kind.lower()
        # The filter and the second check are independent: a fault in one must not disable the other.
        bound = self._read(
            relation,
            shared,
            how,
            tenant=f"{tenant_column} = {{{placeholder}:{kind}}}",
            # The dictionary of a part also contains other tenants, and the check must not be evaluated on them.
            violation=f"{plain_value(tenant_column, relation.tenant_type)} != {{{second_placeholder}:{kind}}}",
        )
        return Bound(bound.sql, bound.source, ((placeholder, kind), (second_placeholder, kind)))

    def _filters_on(self, relation: Relation) -> list[str]:
        """The SQL of the token's filters on a relation."""
        return [f.sql for f in self.filters.get(relation.name, ())]

    def _read_whole(self, relation: Relation, source: Name, how: Reading) -> Bound:
        """A relation over all rows of a table. The caller may read all of them, so columns are not re-encoded."""
        options = SelectOptions(
            columns=mentioned(relation, how.names),
            final=how.final or relation.final,
            sample=how.sample,
            limit=BARRIER if self.barrier else None,
        )
        return Bound(select(relation, source, [], options), source)

    def _read(
        self, relation: Relation, source: Name, how: Reading, *, tenant: str = "", violation: str = ""
    ) -> Bound:
        """A relation over the rows that match `tenant`. A row for which `violation` is true raises an error.

        With a barrier, the token's filters are above it, because they may fail on rows that do not belong to the
        caller.
        """
        columns, filters = mentioned(relation, how.names), self._filters_on(relation)
        conditions = [tenant] if tenant else []
        options = SelectOptions(
            columns=columns,
            final=how.final or relation.final,
            sample=how.sample,
            suffix=f"WHERE NOT throwIf({violation}, {literal(FOREIGN_ROW)})" if violation else "",
        )
        if not self.barrier:
            options = replace(options, encode="values", passed=how.passed)
            return Bound(select(relation, source, conditions + filters, options), source)
        options = replace(options, encode="all", limit=BARRIER)
        if not filters:
            return Bound(select(relation, source, conditions, options), source)
        # The filters above the barrier may use columns that the statement does not, so all are selected below it.
        text = select(relation, source, conditions, replace(options, columns=relation.columns))
        return Bound(_filtered(text, columns, filters), source)


def mentioned(relation: Relation, names: frozenset[str] | None) -> tuple[str, ...]:
    """The columns of a relation that a statement may use: the ones that it names, or else one column."""
    if names is None:
        return relation.columns
    # A column with a dot in its name is always listed, because SQL can spell it in several ways. A SELECT needs at
    # least one column, even for `count()`.
    return tuple(c for c in relation.columns if c in names or "." in c) or relation.columns[:1]


@dataclass(frozen=True, slots=True)
class SelectOptions:
    """How a relation's SELECT reads its table."""

    columns: tuple[str, ...] = ()
    """The columns to list; all by default."""
    encode: Literal["", "values", "all"] = ""
    """Which columns are re-encoded (`encoding.own_values`): `values` means those with dictionaries, `all` also those
    with dynamic types, which takes longer.
    """
    passed: frozenset[str] | None = None
    """Which of the columns that need it are re-encoded; None for all."""
    final: bool = False
    sample: tuple[str, str | None] | None = None
    limit: int | None = None
    clause: Literal["PREWHERE", "WHERE"] = "PREWHERE"
    """The clause for the conditions."""
    suffix: str = ""
    """SQL after the conditions."""


def select(relation: Relation, source: Name, conditions: list[str], options: SelectOptions = SelectOptions()) -> str:
    """The SELECT of a relation from a table.

    The conditions must be qualified by `TABLE_ALIAS`. Raises RK2004 for a relation without readable columns.
    """
    if not relation.columns:
        raise RookeryError(TABLE_REFUSED, f"`{relation.name}` has no readable column")
    listed = ", ".join(_column(relation, c, options) for c in options.columns or relation.columns)
    text = f"SELECT {listed} FROM {source.sql()} AS {TABLE_ALIAS}"
    if options.final:
        text += " FINAL"
    if options.sample is not None:
        ratio, offset = options.sample
        text += f" SAMPLE {ratio}" + (f" OFFSET {offset}" if offset else "")
    conditions, suffix = _with_all_sums(relation, conditions, options)
    if conditions:
        text += f" {options.clause} " + " AND ".join(f"({c})" for c in conditions)
    if suffix:
        text += f" {suffix}"
    if options.limit is not None:
        text += f" LIMIT {options.limit}"
    return text


def _with_all_sums(relation: Relation, conditions: list[str], options: SelectOptions) -> tuple[list[str], str]:
    """Add a condition that makes FINAL read all summed columns of a row.

    The engine drops a row whose sums are all zero, and FINAL considers only the sums that the statement reads.
    """
    suffix = options.suffix
    if not options.final or not relation.summed:
        return conditions, suffix
    # `ignore` is always 0, but the engine has to read its arguments.
    reads_all_sums = f"NOT ignore({', '.join(f'{TABLE_ALIAS}.{quote(c)}' for c in relation.summed)})"
    if options.clause == "WHERE":
        return [*conditions, reads_all_sums], suffix
    return conditions, f"{suffix} AND {reads_all_sums}" if suffix else f"WHERE {reads_all_sums}"


def _column(relation: Relation, name: str, options: SelectOptions) -> str:
    """A column in the SELECT of a relation, re-encoded if the options ask for it."""
    column = f"{TABLE_ALIAS}.{quote(name)}"
    is_passed = options.passed is None or not options.passed.isdisjoint(name.split("."))
    types = dict(zip(relation.columns, relation.types, strict=False))
    if not options.encode or not is_passed:
        return column
    encoded = own_values(column, types.get(name, ""), types=options.encode == "all")
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
    options = SelectOptions(
        columns=relation.columns if filters else columns, encode="all", final=True, sample=how.sample, limit=BARRIER,
        clause="WHERE",
    )  # fmt: skip
    text = select(relation, source, [enough_tenants], options)
    return _filtered(text, columns, filters) if filters else text


def _filtered(text: str, columns: tuple[str, ...], filters: list[str]) -> str:
    """A token's filters above a relation with a barrier: they may fail on rows that do not belong to the caller."""
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
