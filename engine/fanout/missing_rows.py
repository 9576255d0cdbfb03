"""Determines what suspended views have missed, from recorded gaps, the catalog and the compiled pipes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from engine.compiler.build import Build
from engine.compiler.storage import BATCH_COLUMN, NULL_ENGINE
from engine.compiler.views import (
    POOL_READER,
    WORKSPACE_READER,
    in_block_range,
    nest_schema,
    pipe_views,
    workspace_schema,
)
from engine.errors import RookeryError
from engine.fanout.failing_tenants import BlockRange
from engine.plan.coverage import Coverage
from engine.plan.missing_blocks import Gap, MissedBlocks, Missing
from engine.schema import Name, Schema, View, quote
from engine.warehouse.catalog import read_schema
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.fanout")

SUSPENDED_KIND = "suspended"
MAX_COUNTED_TENANTS = 10_000
"""Maximum number of tenants whose rows in one batch are counted."""
ViewFactory = Callable[[tuple[str, ...], tuple[str, ...]], View]
"""Compiles a view that tenants share: only for the first tenants (if empty, for all), and without the second ones."""


def repairable(
    workspace: Workspace, build: Build, desired: Schema, live: Schema, continued: Collection[str] = ()
) -> dict[Name, tuple[MissedBlocks, ...]]:
    """Suspended views that can be restored by delivering exactly the blocks that they have missed, with these blocks.

    A view is not included if its source or target is now another table, if the missed blocks are unknown, or if its
    query has changed (unless it belongs to one of the `continued` pipes).
    """
    repaired = {}
    for text, record in workspace.registry.read(SUSPENDED_KIND).items():
        database, _, name = text.partition(".")
        view, current = desired.views.get(Name(database, name)), live.views.get(Name(database, name))
        if view is None or (current is not None and not (current.mark and current.mark.without)):
            continue
        if view.mark and view.mark.resource in continued:
            # The new query processes the rows that the view has missed.
            record = {**record, "fingerprint": view.mark.fingerprint}
        missed = _missed(workspace, build, view, record, current.mark.without if current and current.mark else None)
        if missed:
            repaired[view.name] = missed
    return repaired


def _missed(
    workspace: Workspace, build: Build, view: View, record: dict[str, Any], without: tuple[str, ...] | None
) -> tuple[MissedBlocks, ...]:
    """The blocks that must be delivered to one view; none if it cannot be restored in this way."""
    missing = Missing.of(record.get("missing"))
    if missing is None or view.mark is None or _query(view.mark.fingerprint) != _query(str(record["fingerprint"])):
        return ()
    source = view.log or view.source
    gaps = missing.effective(without)
    if source != missing.source or not gaps or any(g.after is None for g in gaps) or not all(missing.ids):
        return ()
    if without is not None and {*without} != {g.tenant for g in gaps}:
        return ()
    if table_ids(workspace, source, view.target) != missing.ids:
        return ()
    own = tuple(sorted(g.tenant for g in gaps if g.tenant is not None))
    make = shared_view(build, view, source) if own else None
    if own and make is None:
        return ()
    return tuple(_blocks_of_gap(view, gap, make, own) for gap in gaps)


def _blocks_of_gap(view: View, gap: Gap, make: ViewFactory | None, own: tuple[str, ...]) -> MissedBlocks:
    """The blocks of a gap. A gap without a tenant stands for all tenants except those with their `own` gaps."""
    assert gap.after is not None
    if make is not None:
        view = make((gap.tenant,), ()) if gap.tenant is not None else make((), own)
    return MissedBlocks(view, gap.after, gap.batches)


def shared_view(build: Build, view: View, source: Name) -> ViewFactory | None:
    """Compiles other forms of a view on landing that tenants share; None for any other view."""
    pipe = build.pipes.get(view.mark.resource) if view.mark else None
    relation = build.relations.get(source.name)
    if pipe is None or pipe.target is None or relation is None or relation.kind != "landing":
        return None
    if view.source != source or view.name.database != build.workspace:
        return None
    target, reader = pipe.target, POOL_READER if pipe.target.per_tenant else WORKSPACE_READER

    def make(only: tuple[str, ...], without: tuple[str, ...]) -> View:
        views = pipe_views(build, pipe, target, replace(reader, only=only, without=without))
        return next(v for v in views if v.name == view.name)

    return make


def _query(fingerprint: str) -> str:
    return fingerprint.partition(":")[0]


def table_ids(workspace: Workspace, source: Name, target: Name) -> tuple[str, str]:
    """The UUIDs of two tables; empty for a table that does not exist."""
    result = workspace.warehouse.query(
        "SELECT database, name, toString(uuid) FROM system.tables WHERE database IN {d:Array(String)} "
        "AND name IN {n:Array(String)}",
        {"d": [*sorted({source.database, target.database})], "n": [*sorted({source.name, target.name})]},
    )
    ids = {Name(database, name): str(uuid) for database, name, uuid in result.rows}
    return ids.get(source, ""), ids.get(target, "")


def log_of(workspace: Workspace, view: View) -> Name:
    """The table that stores the rows that pass through a live view.

    It is the view's source, or landing if the source is a Null table in a nest.
    """
    result = workspace.warehouse.query(
        "SELECT engine FROM system.tables WHERE database = {d:String} AND name = {n:String}",
        {"d": view.source.database, "n": view.source.name},
    )
    stores_nothing = bool(result.rows) and result.rows[0][0] == NULL_ENGINE
    return Name(workspace.name, view.source.name) if stores_nothing else view.source


def newest_block(workspace: Workspace, table: Name) -> int:
    """The highest block number among the rows of a table; 0 for an empty table, or if there is no such table."""
    # Reads the rows instead of `system.parts`, which does not list the parts of a table that is not loaded.
    try:
        result = workspace.warehouse.query(f"SELECT max(_block_number) FROM {table.sql()}")
    except RookeryError:
        return 0
    return int(result.rows[0][0])


def keeps_block_numbers(workspace: Workspace, table: Name) -> bool:
    """Whether rows keep their block numbers. An engine that merges rows keeps only one of their numbers."""
    result = workspace.warehouse.query(
        "SELECT engine FROM system.tables WHERE database = {d:String} AND name = {n:String}",
        {"d": table.database, "n": table.name},
    )
    return bool(result.rows) and result.rows[0][0] == "MergeTree"


def has_batch_column(workspace: Workspace, table: Name) -> bool:
    """Whether the rows of a table contain the ids of their batches."""
    result = workspace.warehouse.query(
        "SELECT count() FROM system.columns WHERE database = {d:String} AND table = {t:String} AND name = {b:String}",
        {"d": table.database, "t": table.name, "b": BATCH_COLUMN},
    )
    return bool(result.rows[0][0])


def blocks_of_batch(workspace: Workspace, table: Name, block: BlockRange) -> int | None:
    """The number of blocks of one batch in a table that a single view fills; None if it is not known."""
    live = read_schema(workspace.warehouse, workspace.name, {table.database, workspace.name})
    feeders = [v for v in live.views.values() if v.target == table]
    target = live.tables.get(table)
    build = workspace.current.build
    if len(feeders) != 1 or target is None or (build.takes(table.name)):
        return None
    source = log_of(workspace, feeders[0])
    if source.name != block.datasource or not has_batch_column(workspace, source):
        return None
    if not target.partition_key:
        return 1
    # The engine stores one block per partition, so count the partitions of the view's result for the batch.
    view = _compiled(workspace, feeders[0])
    numbers = workspace.warehouse.query(
        f"SELECT DISTINCT _block_number FROM {source.sql()} WHERE {BATCH_COLUMN} = {{b:String}}", {"b": block.batch}
    ).rows
    if view is None or not numbers:
        return None
    parts = " UNION ALL ".join(in_block_range(view.backfill, int(n) - 1, int(n)) for (n,) in numbers)
    result = workspace.warehouse.query(f"SELECT uniqExact({target.partition_key}) FROM ({parts})")
    return int(result.rows[0][0])


def _compiled(workspace: Workspace, view: View) -> View | None:
    """The compiled form of a live view, which has the query of its backfill."""
    build = workspace.current.build
    tenant = view.mark.tenant if view.mark else None
    schema = workspace_schema(build) if tenant is None else nest_schema(build, tenant, workspace.current.routed)
    return schema.views.get(view.name)


def clamp_gaps(workspace: Workspace) -> None:
    """Limit recorded gaps to the newest existing block, because after a restart the engine uses the numbers above it
    again.
    """
    changed: dict[str, dict[str, object]] = {}
    for name, record in workspace.registry.read(SUSPENDED_KIND).items():
        missing = Missing.of(record.get("missing"))
        if missing is None:
            continue
        newest = newest_block(workspace, missing.source)
        gaps = tuple(replace(g, after=min(g.after, newest)) if g.after is not None else g for g in missing.gaps)
        if gaps != missing.gaps:
            changed[name] = {**record, "missing": replace(missing, gaps=gaps).as_dict()}
    workspace.registry.write(SUSPENDED_KIND, changed)


def rows_by_tenant(workspace: Workspace, block: BlockRange) -> dict[str, int]:
    """Number of rows of a batch by tenant, counted in its stage or else in landing.

    For a datasource without a tenant column, all rows are counted for the empty string.
    """
    if block.counted:
        return {str(t): int(n) for t, n in workspace.warehouse.query(block.counted).rows}
    relation = workspace.current.build.relations[block.datasource]
    tenant = f"toString({quote(relation.tenant)})" if relation.tenant else "''"
    result = workspace.warehouse.query(
        f"SELECT {tenant} AS _rk_tenant, count() FROM {Name(workspace.name, block.datasource).sql()} "
        f"WHERE {BATCH_COLUMN} = {{b:String}} GROUP BY _rk_tenant ORDER BY _rk_tenant LIMIT {MAX_COUNTED_TENANTS}",
        {"b": block.batch},
    )
    return {str(t): int(n) for t, n in result.rows}


def expired_rows(workspace: Workspace, views: Collection[Name]) -> dict[tuple[str, str | None], int]:
    """Number of rows that suspended views have missed and a TTL has removed since, by view and tenant.

    Sources without a TTL do not count, because missing rows were deleted on purpose there, such as those that a view
    failed on. The removed rows of the batch on which a view failed are known by tenant. Those of later batches are
    counted for the tenant None, and only if the row numbers within a block show that rows are missing.
    """
    expired: dict[tuple[str, str | None], int] = {}
    tables = read_schema(workspace.warehouse, workspace.name, {workspace.name, *(v.database for v in views)}).tables
    for name, record in workspace.registry.read(SUSPENDED_KIND).items():
        missing = Missing.of(record.get("missing"))
        if missing is None or Name(*name.split(".", 1)) not in views:
            continue
        source = tables.get(missing.source)
        if source is None or not source.ttl:
            continue
        own = {g.tenant for g in missing.gaps if g.tenant is not None}
        for gap in missing.gaps:
            for batch in gap.batches:
                recorded = record.get("rows", {}).get(batch, {})
                remaining = rows_by_tenant(workspace, BlockRange(str(record["datasource"]), batch))
                for tenant, rows in recorded.items():
                    in_gap = tenant == gap.tenant if gap.tenant is not None else tenant not in own
                    if in_gap and _concerns(workspace, name, record, tenant) and remaining.get(tenant, 0) < rows:
                        key = (name, tenant or None)
                        expired[key] = expired.get(key, 0) + rows - remaining.get(tenant, 0)
        after = min((g.after for g in missing.gaps if g.after is not None), default=None)
        later = _removed_after(workspace, missing.source, after) if after is not None else 0
        if later:
            expired[(name, None)] = expired.get((name, None), 0) + later
    return expired


def _concerns(workspace: Workspace, view: str, record: Mapping[str, Any], tenant: str) -> bool:
    """Whether a tenant's rows go through a view."""
    if record.get("tenant") is not None:
        return bool(record["tenant"] == tenant)
    known = workspace.current.tenants.get(tenant)
    return not _pooled(workspace, view) or (known is not None and known.placement == "pooled")


def _removed_after(workspace: Workspace, source: Name, after: int) -> int:
    """A lower bound of the rows that were removed from landing's blocks after a block."""
    if source.database != workspace.name or not _is_landing(workspace, source):
        return 0
    result = workspace.warehouse.query(
        "SELECT sum(m - n) FROM (SELECT max(_block_offset) + 1 AS m, count() AS n "
        f"FROM {source.sql()} WHERE _block_number > {after} GROUP BY _block_number)"
    )
    return int(result.rows[0][0] or 0)


def record_repeated_insert(workspace: Workspace, datasource: str) -> None:
    """Record that failed inserts, which are complete now, have used up block numbers. Never raises."""
    try:
        live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
        views = [v for v in live.views.values() if v.source == Name(workspace.name, datasource)]
        Coverage(workspace.warehouse, workspace.registry, live).renew(views, repeated=True)
    except RookeryError as exc:
        log.warning("what views have received could not be recorded", datasource=datasource, error=exc)


def complete_views(workspace: Workspace) -> list[View]:
    """Views in the workspace's database whose sources still have all rows from which their targets were computed."""
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
    coverage = Coverage(workspace.warehouse, workspace.registry, live)
    return [v for v in live.views.values() if v.source in live.tables and coverage.why_incomplete(v) is None]


def forget_tenant(workspace: Workspace, tenant: str, nest: str | None) -> None:
    """Delete the records of a removed tenant: those of views in its nest, or its gaps in views of the pool."""
    records = workspace.registry.read(SUSPENDED_KIND)
    in_nest = [n for n in records if nest is not None and n.startswith(f"{nest}.")]
    changed = {}
    for name, record in records.items() if nest is None else ():
        missing = Missing.of(record.get("missing"))
        if missing is not None and _pooled(workspace, name):
            gaps = tuple(g for g in missing.gaps if g.tenant != tenant)
            if gaps != missing.gaps:
                changed[name] = {**record, "missing": replace(missing, gaps=gaps).as_dict()}
    workspace.registry.write(SUSPENDED_KIND, changed)
    workspace.registry.remove(SUSPENDED_KIND, in_nest)


def add_pooled_tenants(workspace: Workspace, tenants: Sequence[str]) -> set[str]:
    """Record that new pooled tenants miss all rows of suspended views. The view lock must be held.

    Returns these views. They do not include a view that runs without some other tenants, because it delivers the rows
    of the new tenants.
    """
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name]).views
    names: set[str] = set()
    changed = {}
    for name, record in workspace.registry.read(SUSPENDED_KIND).items():
        database, _, short = name.partition(".")
        view = live.get(Name(database, short))
        without = view.mark.without if view is not None and view.mark is not None else ()
        excluded = [t for t in tenants if view is None or t in without]
        missing = Missing.of(record.get("missing"))
        if not excluded or missing is None or not _pooled(workspace, name):
            continue
        if not _is_landing(workspace, missing.source):
            continue
        gaps = (*(g for g in missing.gaps if g.tenant not in excluded), *(Gap(t, 0) for t in excluded))
        changed[name] = {**record, "missing": replace(missing, gaps=gaps).as_dict()}
        names.add(name)
    workspace.registry.write(SUSPENDED_KIND, changed)
    return names


def _pooled(workspace: Workspace, view: str) -> bool:
    """Whether a view in the workspace's database is one that all pooled tenants share."""
    build = workspace.current.build
    database, _, name = view.partition(".")
    compiled = workspace_schema(build).views.get(Name(database, name))
    pipe = build.pipes.get(compiled.mark.resource) if compiled is not None and compiled.mark is not None else None
    return pipe is not None and pipe.target is not None and pipe.target.per_tenant


def _is_landing(workspace: Workspace, table: Name) -> bool:
    relation = workspace.current.build.relations.get(table.name)
    return relation is not None and relation.kind == "landing"
