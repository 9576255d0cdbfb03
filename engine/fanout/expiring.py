"""Finds rows that suspended views have missed and that the TTL of their source has removed, or will remove soon."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.compiler.storage import BATCH_COLUMN
from engine.fanout.handover import BatchBlocks
from engine.fanout.source_blocks import has_batch_column, is_landing, rows_by_tenant
from engine.fanout.suspension_records import SUSPENDED_KIND, is_pooled
from engine.plan.missing_blocks import Gap, Missing
from engine.project.lifetimes import DAY_SECONDS, expiry_expressions
from engine.schema import Name, Schema, Table, literal, quote
from engine.warehouse.catalog import read_schema
from engine.workspace.workspace import Workspace

EXPIRY_NOTICE_SECONDS = 7 * DAY_SECONDS
"""Rows are reported when their removal is at most this far away."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """Rows that a view has missed and that expire soon."""

    view: str
    source: Name
    """The table that has the rows."""
    tenant: str | None
    """None for rows of several tenants."""
    rows: int
    first: str
    """When the first of them may be removed, in UTC."""


def expiring(workspace: Workspace, live: Schema) -> Iterator[Expiring]:
    """Rows that suspended views will never receive unless they are repaired within EXPIRY_NOTICE_SECONDS."""
    for name, record in sorted(workspace.registry.read(SUSPENDED_KIND).items()):
        missing = Missing.of(record.get("missing"))
        source = live.tables.get(missing.source) if missing is not None else None
        if missing is None or source is None:
            continue
        ends = [f"toUnixTimestamp(toDateTime({m}))" for m in expiry_expressions(source.ttl)]
        # Without a TTL, rows stay until the view is repaired.
        for gap in missing.gaps if ends else ():
            if gap.after is None:
                continue
            end = f"least({', '.join(ends)})" if len(ends) > 1 else ends[0]
            result = workspace.warehouse.query(
                f"SELECT count(), toString(toDateTime(min({end}), 'UTC')) FROM {source.name.sql()} "
                f"WHERE {_condition(workspace, source, gap)} "
                f"AND {end} < toUnixTimestamp(now()) + {EXPIRY_NOTICE_SECONDS}"
            )
            rows, first = result.rows[0]
            if rows:
                yield Expiring(name, source.name, gap.tenant, int(rows), str(first))


def _condition(workspace: Workspace, source: Table, gap: Gap) -> str:
    """The SQL condition of the rows in a gap."""
    condition = f"_block_number > {gap.after}"
    if gap.batches and has_batch_column(workspace, source.name):
        condition = f"({condition} OR {BATCH_COLUMN} IN ({', '.join(map(literal, gap.batches))}))"
    relation = workspace.current.build.relations.get(source.name.name)
    if gap.tenant is None or relation is None or relation.tenant is None:
        return condition
    return f"{condition} AND toString({quote(relation.tenant)}) = {literal(gap.tenant)}"


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
        # A gap without a tenant covers all tenants except these.
        own = {g.tenant for g in missing.gaps if g.tenant is not None}
        for gap in missing.gaps:
            for batch in gap.batches:
                recorded = record.get("rows", {}).get(batch, {})
                remaining = rows_by_tenant(workspace, BatchBlocks(str(record["datasource"]), batch))
                for tenant, rows in recorded.items():
                    in_gap = tenant == gap.tenant if gap.tenant is not None else tenant not in own
                    if in_gap and _concerns(workspace, name, record, tenant) and remaining.get(tenant, 0) < rows:
                        # Rows of a datasource without a tenant column are recorded for the empty string.
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
    return not is_pooled(workspace, view) or (known is not None and known.placement == "pooled")


def _removed_after(workspace: Workspace, source: Name, after: int) -> int:
    """A lower bound of the rows that were removed from landing's blocks after a block."""
    if source.database != workspace.name or not is_landing(workspace, source):
        return 0
    result = workspace.warehouse.query(
        "SELECT sum(m - n) FROM (SELECT max(_block_offset) + 1 AS m, count() AS n "
        f"FROM {source.sql()} WHERE _block_number > {after} GROUP BY _block_number)"
    )
    return int(result.rows[0][0] or 0)
