"""The checks of `doctor --deep`, which read rows: nest copies against landing, and derived tables against sources."""

from __future__ import annotations

from collections.abc import Iterator

from engine.compiler.scope import Relation
from engine.control.doctor.assumed_zone import explanation, other_zone
from engine.control.doctor.comparable_columns import living
from engine.control.doctor.differences import (
    DIFFERS,
    EXCESSES,
    LESS,
    MISSING,
    SHORTAGES,
    Difference,
    RepairOutcome,
)
from engine.control.doctor.findings import Context, Finding, error, warning
from engine.control.doctor.repairs import outcomes
from engine.control.fanout_status import lagging
from engine.fanout.router import router_of
from engine.plurals import counted
from engine.schema import Name, Table, nest_database, quote

REPAIR = "rookery doctor --repair"
UNKNOWN = "the source no longer has all rows of these keys: restore the table from a backup"
RowsAndChecksum = tuple[int, int]
"""The number of rows, and a checksum that does not depend on their order."""


def foreign_rows(context: Context) -> Iterator[Finding]:
    """No nest contains rows of another tenant."""
    tables = list(context.nest_tables())
    for number, (desired, live) in enumerate(tables):
        context.progress(f"rows of {live.name}", number, len(tables))
        for _, expression in desired.constraints:
            result = context.workspace.warehouse.query(
                f"SELECT count() FROM {live.name.sql()} WHERE NOT ({expression})"
            )
            if result.rows[0][0]:
                why = f"{counted(result.rows[0][0], 'row')} of another tenant"
                yield error("foreign-rows", live.name, why, "rebuild it: rookery tenant rm, then tenant add")


def time_zone(context: Context) -> Iterator[Finding]:
    """The rows of an older program were divided into days in the time zone that was assumed."""
    zone = other_zone(context)
    if zone is not None:
        yield error("time-zone", context.workspace.name, *explanation(context, zone))


def derived(context: Context) -> Iterator[Finding]:
    """Every table that views fill contains the views' results over its sources.

    Tables derived from a differing copy are skipped: they may be correct although the copy is not. All are skipped if
    a wrong time zone was assumed. The checks before this one have found both.
    """
    if any(f.check == "time-zone" for f in context.found):
        return
    differing = {f.object for f in context.found if f.check == "copy"}
    for outcome in outcomes(context, skip=[name for name in context.live.tables if str(name) in differing]):
        for difference in outcome.differences:
            owner = f"tenant {difference.tenant}: " if difference.tenant is not None else ""
            why = f"{owner}{difference.text()}"
            if outcome.lost is None or {*SHORTAGES} & difference.counts.keys():
                yield error("derived", outcome.table, why, _remedy(outcome, difference))
            else:
                yield warning("derived", outcome.table, f"{why}; the source does not prove it: {outcome.lost}")
        if outcome.uncompared is not None:
            yield warning("uncompared", outcome.table, f"it was not compared: {outcome.uncompared}")
        elif outcome.skipped and outcome.differences:
            columns = "; ".join(f"{name} ({why})" for name, why in outcome.skipped)
            yield warning("uncompared", outcome.table, f"columns that are not compared: {columns}")


def _remedy(outcome: RepairOutcome, difference: Difference) -> str:
    """The commands that repair a difference, if the source can still prove the correct values."""
    complete, kinds = outcome.lost is None, difference.counts.keys()
    repairable = {MISSING, LESS, DIFFERS} if complete else {MISSING, LESS}
    remedies = [REPAIR] if repairable & kinds else []
    remedies += [_remove_excess(outcome.table)] if complete and {*EXCESSES} & kinds else []
    return "; ".join(remedies) or UNKNOWN


def _remove_excess(table: Name) -> str:
    return (
        "rows are stored twice, the source has lost some, or they are of a purged tenant; to remove the "
        f"excess rows: {REPAIR} --allow-destructive {table.name}"
    )


def copies(context: Context) -> Iterator[Finding]:
    """The nest copies of tenants that do not lag have the row count and the checksum of their rows in landing.

    While rows arrive, the two cannot be read at exactly the same moment. So a difference is confirmed with inserts
    blocked.
    """
    behind = lagging(context.workspace)
    for relation, table in context.landings():
        if not relation.in_nest:
            continue
        expected = _sums_by_tenant(context, relation)
        tenants = sorted(context.snapshot.tenants.values(), key=lambda t: t.id)
        for number, tenant in enumerate(tenants):
            context.progress(f"{relation.name} of tenant {tenant.id}", number, len(tenants))
            copy = Name(nest_database(context.workspace.name, tenant.id), relation.name)
            if tenant.id in behind.get(relation.name, ()) or tenant.state != "ready":
                continue
            if copy in context.live.tables and _sum_of_copy(context, relation, copy) != expected.get(
                tenant.id, (0, 0)
            ):
                yield from _confirm(context, relation, table, tenant.id)


def _confirm(context: Context, relation: Relation, table: Table, tenant: str) -> Iterator[Finding]:
    """Compare one copy with landing again, with inserts blocked and without rows that are about to expire."""
    copy = Name(nest_database(context.workspace.name, tenant), relation.name)
    worker = router_of(context.workspace).worker(relation.name)
    # Both sides use the same time: `now()` would differ between the two queries.
    ((moment,),) = context.workspace.warehouse.query("SELECT toUnixTimestamp(now())").rows
    alive = living(table.ttl, f"toDateTime({moment})")
    with context.workspace.view_lock.changing():
        if worker is not None:
            worker.drain()
            if tenant not in worker.position().main.members:
                return
        expected = _sums_by_tenant(context, relation, tenant, alive or "1").get(tenant, (0, 0))
        actual = _sum_of_copy(context, relation, copy, alive or "1")
    if actual == expected:
        return
    why = f"it has {counted(actual[0], 'row')}, and landing has {expected[0]:,} of tenant {tenant}"
    if actual[0] == expected[0]:
        why = "its rows differ from those in landing"
    if alive is None:
        yield warning("copy", copy, f"{why}; its TTL may have removed rows from one of them", REPAIR)
    else:
        yield error("copy", copy, why, REPAIR if actual[0] <= expected[0] else _remove_excess(copy))


def _checksum(relation: Relation) -> str:
    # A hash of NULL is NULL, which aggregates ignore, so NULL is hashed as a string.
    return f"count(), groupBitXor(cityHash64(formatRow('TSV', {', '.join(map(quote, relation.columns))})))"


def _sum_of_copy(context: Context, relation: Relation, copy: Name, alive: str = "1") -> RowsAndChecksum:
    result = context.workspace.warehouse.query(f"SELECT {_checksum(relation)} FROM {copy.sql()} WHERE {alive}")
    return int(result.rows[0][0]), int(result.rows[0][1])


def _sums_by_tenant(
    context: Context, relation: Relation, tenant: str | None = None, alive: str = "1"
) -> dict[str, RowsAndChecksum]:
    """Rows in landing by tenant; only those of one tenant if it is given."""
    landing = Name(context.workspace.name, relation.name).sql()
    column = f"toString({quote(relation.tenant or '')})"
    condition = f" WHERE {column} = {{tenant:String}} AND {alive}" if tenant is not None else ""
    result = context.workspace.warehouse.query(
        f"SELECT {column} AS _rk_tenant, {_checksum(relation)} FROM {landing}{condition} GROUP BY _rk_tenant",
        {"tenant": tenant} if tenant is not None else None,
    )
    return {str(t): (int(rows), int(checksum)) for t, rows, checksum in result.rows}
