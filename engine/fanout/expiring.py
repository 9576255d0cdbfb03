"""Rows that suspended views have missed and that their sources' TTLs are about to remove."""

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
"""Seconds before rows are removed from which on that is reported."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """Rows that a view lacks, of one tenant if that is known, and when the first of them may be removed (UTC)."""

    view: str
    source: Name
    tenant: str | None
    rows: int
    first: str


def expiring(workspace: Workspace, live: Schema) -> Iterator[Expiring]:
    """What suspended views lack and will not be given any more if they are not repaired within a week."""
    for name, note in sorted(workspace.registry.read(SUSPENDED_KIND).items()):
        missing = Missing.of(note.get("missing"))
        source = live.tables.get(missing.source) if missing is not None else None
        if missing is None or source is None:
            continue
        ends = [f"toUnixTimestamp(toDateTime({m}))" for m in expiry_expressions(source.ttl)]
        for gap in missing.gaps if ends else ():
            if gap.after is None:
                continue
            end = f"least({', '.join(ends)})" if len(ends) > 1 else ends[0]
            found = workspace.warehouse.query(
                f"SELECT count(), toString(toDateTime(min({end}), 'UTC')) FROM {source.name.sql()} "
                f"WHERE {_lacking(workspace, source, gap)} AND {end} < toUnixTimestamp(now()) + {EXPIRY_NOTICE_SECONDS}"
            )
            rows, first = found.rows[0]
            if rows:
                yield Expiring(name, source.name, gap.tenant, int(rows), str(first))


def _lacking(workspace: Workspace, source: Table, gap: Gap) -> str:
    """A condition of the rows in a gap."""
    some = f"_block_number > {gap.after}"
    if gap.batches and has_batch_column(workspace, source.name):
        some = f"({some} OR {BATCH_COLUMN} IN ({', '.join(map(literal, gap.batches))}))"
    relation = workspace.current.build.relations.get(source.name.name)
    if gap.tenant is None or relation is None or relation.tenant is None:
        return some
    return f"{some} AND toString({quote(relation.tenant)}) = {literal(gap.tenant)}"
