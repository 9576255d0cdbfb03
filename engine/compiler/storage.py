"""Defines the tables of datasources: landing, per-tenant and ordinary ones.

Authors cannot choose the physical layout of landing tables, because fan-out reads them as a log: MergeTree, block
numbers, partitions by month of arrival, and hidden `_rk_…` columns. `docs/ARCHITECTURE.md` gives the reasons.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

from engine.compiler.scope import GROUP_TENANTS, Kind, Relation, tenant_literal
from engine.project.datasource import Datasource, Engine
from engine.schema import Column, Index, Mark, Name, Table, literal, quote

LANDING_DEDUP_WINDOW = 1000
"""Blocks of a landing table whose deduplication tokens the engine remembers."""
NEST_DEDUP_WINDOW = 128
"""Blocks of any other table whose deduplication tokens the engine remembers."""
ARRIVAL_COLUMN = "_rk_at"
"""Hidden column with the time of arrival."""
BATCH_COLUMN = "_rk_batch"
"""Hidden column with the deduplication token of the insert."""

# MATERIALIZED: an INSERT cannot set these columns, and `*` does not select them.
HIDDEN_COLUMNS = (
    Column(ARRIVAL_COLUMN, "DateTime", "MATERIALIZED", "now()"),
    Column(BATCH_COLUMN, "LowCardinality(String)", "MATERIALIZED", "getSetting('insert_deduplication_token')"),
)
LOG_SETTINGS = (
    ("enable_block_number_column", "1"),
    ("enable_block_offset_column", "1"),
    ("part_minmax_index_columns", "'with_block_number_offset'"),
)
RECEIPTS_TABLE = "_rk_receipts"
"""The table with the outcome of appends with idempotency keys."""
QUARANTINE_SUFFIX = "_quarantine"
"""Suffix of the table with a datasource's rejected rows."""
QUARANTINE_COLUMNS = (
    Column("c__error_column", "Array(String)"),
    Column("c__error", "Array(String)"),
    Column("c__import_id", "String"),
    Column("insertion_date", "DateTime", "DEFAULT", "now()"),
    Column("c__id", "String"),
    Column("c__row", "UInt64"),
    Column("c__format", "LowCardinality(String)"),
    Column("c__text", "String"),
    Column("c__header", "String"),
    Column("c__writer", "String"),
)
"""Columns of a quarantine table in addition to its datasource's. They replace columns of the same name."""
GROUP_TENANTS_COLUMN = Column(GROUP_TENANTS, "AggregateFunction(sumMap, Array(String), Array(UInt64))")
"""In each group of a shared aggregate, the number of rows by tenant id. When a tenant is erased, its groups are found
by this column.
"""
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
NULL_ENGINE = "Null"
"""Engine of a table that stores no rows."""
POOL_TABLE = "_rk_pool"
"""Table with the ids of pooled tenants, which the views of shared targets read."""


def relation(source: Datasource, *, target_of_tenants: bool = False, drop_tenant: bool = False) -> Relation:
    """A datasource as its readers see it. `target_of_tenants` is true for the target of a per-tenant pipe."""
    tenant = source.tenant_column
    visible = [c for c in source.columns if not (drop_tenant and c.name == tenant)]
    kind: Kind = "landing" if source.is_landing else "target" if target_of_tenants else "table"
    tenant_type = next((c.type for c in source.columns if c.name == tenant), "")
    in_nest = target_of_tenants or (source.is_landing and source.tenant is not None and source.tenant.nest_copy)
    names, types = tuple(c.name for c in visible), tuple(c.type for c in visible)
    min_tenants = source.shared.min_tenants
    return Relation(
        source.name, kind, names, tenant, tenant_type, in_nest, source.final, types, min_tenants, _summed(source)
    )  # fmt: skip


def _summed(source: Datasource) -> tuple[str, ...]:
    """The columns that merges of a SummingMergeTree sum up, and possibly others outside the key."""
    if source.engine.type != "SummingMergeTree":
        return ()
    return source.engine.columns or tuple(c.name for c in source.columns if c.name not in source.sorting_key)


def workspace_table(source: Datasource, workspace: str) -> Table:
    """The table of a datasource in the workspace's database."""
    base = _table(source, Name(workspace, source.name), Mark(workspace, source.name, "datasource"))
    if source.shared.min_tenants:
        # Pipes and readers do not see this column: `relation` does not list it.
        base = replace(base, columns=(*base.columns, GROUP_TENANTS_COLUMN))
    if not source.is_landing:
        return replace(
            base, settings=(("enable_block_number_column", "1"), *_dedup_window(NEST_DEDUP_WINDOW), *base.settings)
        )
    return replace(
        base,
        # Other engines drop or change rows when they merge, and a fan-out worker that is behind would miss them.
        engine="MergeTree",
        columns=(*base.columns, *HIDDEN_COLUMNS),
        partition_key=f"toYYYYMM({ARRIVAL_COLUMN})",
        settings=(*LOG_SETTINGS, *_dedup_window(LANDING_DEDUP_WINDOW), *base.settings),
    )


def quarantine_table(source: Datasource, workspace: str) -> Table:
    """The table of a datasource's rejected rows: its columns as text, the errors, and the original text."""
    reserved = {c.name for c in QUARANTINE_COLUMNS}
    names = [c.name for c in source.columns if c.name not in reserved]
    return Table(
        name=Name(workspace, source.name + QUARANTINE_SUFFIX),
        columns=(*(Column(n, "Nullable(String)") for n in names), *QUARANTINE_COLUMNS),
        sorting_key="(insertion_date, c__import_id)",
        settings=_dedup_window(NEST_DEDUP_WINDOW),
        mark=Mark(workspace, source.name, "quarantine"),
    )


def nest_table(source: Datasource, workspace: str, nest: str, tenant: str, *, drop_tenant: bool = False) -> Table:
    """A datasource's table in one tenant's nest: a copy of a landing datasource, or a per-tenant pipe's target."""
    base = _table(source, Name(nest, source.name), Mark(workspace, source.name, "nest", tenant=tenant))
    base = replace(
        base, settings=(("enable_block_number_column", "1"), *_dedup_window(NEST_DEDUP_WINDOW), *base.settings)
    )
    if source.is_landing:
        # The token identifies rows that will be delivered again, so that a new view can leave them out.
        base = replace(base, columns=(*base.columns, HIDDEN_COLUMNS[1]))
    column = source.tenant_column
    if column is None:
        return base
    if drop_tenant:
        return replace(
            base,
            columns=tuple(c for c in base.columns if c.name != column),
            sorting_key=_key(tuple(k for k in source.sorting_key if k != column)),
            # The declared one may contain the column too, and must be a prefix of the sorting key.
            primary_key="",
        )
    kind = next(c.type for c in source.columns if c.name == column)
    # The database itself refuses another tenant's row in this nest, whatever a view or worker does.
    return replace(base, constraints=(("own", f"{quote(column)} = {tenant_literal(kind, tenant)}"),))


def null_table(source: Datasource, workspace: str, nest: str, tenant: str) -> Table:
    """The Null table of a landing datasource in a nest without a copy: rows pass through it to the nest's views."""
    copy = nest_table(source, workspace, nest, tenant)
    columns = tuple(
        Column(c.name, c.type, c.default_kind, c.default) for c in copy.columns if c not in HIDDEN_COLUMNS
    )
    return Table(copy.name, columns, engine=NULL_ENGINE, constraints=copy.constraints, mark=copy.mark)


def _dedup_window(size: int) -> tuple[tuple[str, str], ...]:
    """The setting for how many blocks a table recognizes as repeated."""
    return (("non_replicated_deduplication_window", str(size)),)


def _table(source: Datasource, name: Name, mark: Mark) -> Table:
    """The table that a datasource declares, without the columns and settings that rookery adds."""
    engine = source.engine
    return Table(
        name=name,
        columns=tuple(
            Column(c.name, c.type, "DEFAULT" if c.default else "", c.default, c.codec, c.description)
            for c in source.columns
        ),
        engine=engine_text(engine),
        sorting_key=_key(source.sorting_key),
        partition_key=engine.partition_key or "",
        primary_key=engine.primary_key or "",
        sampling_key=engine.sampling_key or "",
        ttl=engine.ttl or "",
        settings=tuple((k, _setting(v)) for k, v in sorted(engine.settings)),
        indexes=tuple(Index(i.name, i.expression, i.type, i.granularity) for i in source.indexes),
        mark=Mark(mark.workspace, mark.resource, mark.kind, mark.tenant, description=source.description or ""),
    )


def _setting(value: str) -> str:
    """The value of a table setting as SQL: numbers and booleans unchanged, other words as string literals."""
    is_plain = _NUMBER.fullmatch(value) or value in ("true", "false")
    return value if is_plain else literal(value)


def digest(*parts: str) -> str:
    """A digest of a sequence of strings. Different sequences have different digests."""
    return hashlib.sha256("\0".join(f"{len(p)}:{p}" for p in parts).encode()).hexdigest()[:40]


def engine_text(engine: Engine) -> str:
    """An engine with its arguments, as ClickHouse spells it."""
    arguments: list[str] = []
    if engine.type == "ReplacingMergeTree":
        arguments = [quote(x) for x in (engine.version, engine.is_deleted) if x]
    elif engine.type == "SummingMergeTree" and engine.columns:
        arguments = ["(" + ", ".join(quote(c) for c in engine.columns) + ")"]
    elif engine.type == "CollapsingMergeTree":
        arguments = [quote(engine.sign or "")]
    elif engine.type == "VersionedCollapsingMergeTree":
        arguments = [quote(engine.sign or ""), quote(engine.version or "")]
    return engine.type + (f"({', '.join(arguments)})" if arguments else "")


def _key(parts: tuple[str, ...]) -> str:
    """A key as the engine spells it: one expression, a tuple, or `tuple()` for none."""
    if len(parts) == 1:
        return parts[0]
    return "(" + ", ".join(parts) + ")" if parts else "tuple()"
