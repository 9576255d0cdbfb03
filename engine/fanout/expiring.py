"""Finds rows that suspended views have missed and that the TTL of their source will remove soon."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.compiler.storage import BATCH_COLUMN
from engine.fanout.missing_rows import SUSPENDED_KIND, has_batch_column
from engine.plan.missing_blocks import Gap, Missing
from engine.project.lifetimes import DAY_SECONDS, expiry_expressions
from engine.schema import Name, Schema, Table, literal, quote
from engine.workspace.workspace import Workspace

EXPIRY_NOTICE_SECONDS = 7 * DAY_SECONDS
"""Rows are reported when their removal is at most this far away."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """Rows that a view has missed and that expire soon."""

    view: str
    source: Name
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
