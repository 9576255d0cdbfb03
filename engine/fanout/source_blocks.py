"""The live tables that views read: their identity, their block numbers, and the rows of a batch in them."""

from __future__ import annotations

from engine.compiler.storage import BATCH_COLUMN, NULL_ENGINE
from engine.compiler.views import in_block_range, nest_schema, workspace_schema
from engine.errors import RookeryError
from engine.fanout.handover import BatchBlocks
from engine.schema import Name, View, quote
from engine.warehouse.catalog import read_schema
from engine.workspace.workspace import Workspace

MAX_COUNTED_TENANTS = 10_000
"""Maximum number of tenants whose rows in one batch are counted."""


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
    stores_nothing = _engine_of(workspace, view.source) == NULL_ENGINE
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
    return _engine_of(workspace, table) == "MergeTree"


def _engine_of(workspace: Workspace, table: Name) -> str | None:
    """A table's engine without its arguments, or None if the table does not exist."""
    result = workspace.warehouse.query(
        "SELECT engine FROM system.tables WHERE database = {d:String} AND name = {n:String}",
        {"d": table.database, "n": table.name},
    )
    return str(result.rows[0][0]) if result.rows else None


def has_batch_column(workspace: Workspace, table: Name) -> bool:
    """Whether the rows of a table contain the ids of their batches."""
    result = workspace.warehouse.query(
        "SELECT count() FROM system.columns WHERE database = {d:String} AND table = {t:String} AND name = {b:String}",
        {"d": table.database, "t": table.name, "b": BATCH_COLUMN},
    )
    return bool(result.rows[0][0])


def blocks_of_batch(workspace: Workspace, table: Name, block: BatchBlocks) -> int | None:
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


def rows_by_tenant(workspace: Workspace, block: BatchBlocks) -> dict[str, int]:
    """Number of rows of a batch by tenant, counted in its stage or else in landing.

    For a datasource without a tenant column, all rows are counted for the empty string.
    """
    if block.count_query:
        return {str(t): int(n) for t, n in workspace.warehouse.query(block.count_query).rows}
    relation = workspace.current.build.relations[block.datasource]
    tenant = f"toString({quote(relation.tenant)})" if relation.tenant else "''"
    result = workspace.warehouse.query(
        f"SELECT {tenant} AS _rk_tenant, count() FROM {Name(workspace.name, block.datasource).sql()} "
        f"WHERE {BATCH_COLUMN} = {{b:String}} GROUP BY _rk_tenant ORDER BY _rk_tenant LIMIT {MAX_COUNTED_TENANTS}",
        {"b": block.batch},
    )
    return {str(t): int(n) for t, n in result.rows}


def is_landing(workspace: Workspace, table: Name) -> bool:
    """Whether a table is a landing datasource, which has rows of several tenants."""
    relation = workspace.current.build.relations.get(table.name)
    return relation is not None and relation.kind == "landing"
