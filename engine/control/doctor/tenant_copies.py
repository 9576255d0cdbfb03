"""The checks of `doctor --deep`: whether every nest's copy of landing is what landing says."""

from __future__ import annotations

from collections.abc import Iterator

from engine.compiler.scope import Relation
from engine.control.doctor.comparable_columns import living
from engine.control.doctor.derived_tables import (
    DIFFERS,
    LESS,
    MISSING,
    SHORT,
    TOO_MUCH,
    Difference,
    RepairOutcome,
    outcomes,
)
from engine.control.doctor.findings import Context, Finding, error, warning
from engine.control.fanout_status import lagging
from engine.fanout.router import router_of
from engine.schema import Name, Table, nest_database, quote

REPAIR = "rookery doctor --repair"
UNKNOWN = "the source no longer has all rows of these keys: restore the table from a backup"
Sum = tuple[int, int]
"""Rows, and a checksum that does not depend on their order."""


def foreign_rows(patient: Context) -> Iterator[Finding]:
    """Rows in a nest that are another tenant's."""
    for table, live in patient.nests():
        for _, expression in table.constraints:
            found = patient.workspace.warehouse.query(
                f"SELECT count() FROM {live.name.sql()} WHERE NOT ({expression})"
            )
            if found.rows[0][0]:
                why = f"{found.rows[0][0]:,} rows are another tenant's"
                yield error("foreign-rows", live.name, why, "rebuild it: rookery tenant rm, then tenant add")


def derived(patient: Context) -> Iterator[Finding]:
    """Tables that views fill are compared with what the views give for their sources.

    What is made from a copy that differs is left for later: it may be right, and the copy is not.
    """
    differing = {f.object for f in copies(patient)}
    wrong = [c for c in patient.live.tables if str(c) in differing]
    for outcome in outcomes(patient, skip=wrong):
        for difference in outcome.differences:
            whose = f"tenant {difference.tenant}: " if difference.tenant is not None else ""
            why = f"{whose}{difference.text()}"
            if outcome.lost is None or {*SHORT} & difference.counts.keys():
                yield error("derived", outcome.table, why, _remedy(outcome, difference))
            else:
                yield warning("derived", outcome.table, f"{why}; the source cannot tell: {outcome.lost}")
        if outcome.uncompared is not None:
            yield warning("uncompared", outcome.table, f"it is not compared: {outcome.uncompared}")
        elif outcome.skipped and outcome.differences:
            columns = "; ".join(f"{name} ({why})" for name, why in outcome.skipped)
            yield warning("uncompared", outcome.table, f"columns that are not compared: {columns}")


def _remedy(outcome: RepairOutcome, difference: Difference) -> str:
    whole, kinds = outcome.lost is None, difference.counts.keys()
    some = [REPAIR] if {MISSING, LESS, *((DIFFERS,) if whole else ())} & kinds else []
    some += [_excess(outcome.table)] if whole and {*TOO_MUCH} & kinds else []
    return "; ".join(some) or UNKNOWN


def _excess(table: Name) -> str:
    return (
        f"rows are stored twice, or the source has lost some; what the source does not give is taken out by: "
        f"{REPAIR} --allow-destructive {table.name}"
    )


def copies(patient: Context) -> Iterator[Finding]:
    """Copies of tenants in step are compared with landing by count and checksum.

    While rows come in the two are never read at the same moment, so a difference is looked at again with inserts
    held back.
    """
    behind = lagging(patient.workspace)
    for relation, table in patient.landings():
        if not relation.in_nest:
            continue
        truth = _by_tenant(patient, relation)
        for tenant in sorted(patient.snapshot.tenants.values(), key=lambda t: t.id):
            copy = Name(nest_database(patient.workspace.name, tenant.id), relation.name)
            if tenant.id in behind.get(relation.name, ()) or tenant.state != "ready":
                continue
            if copy in patient.live.tables and _of_copy(patient, relation, copy) != truth.get(tenant.id, (0, 0)):
                yield from _closer(patient, relation, table, tenant.id, copy)


def _closer(patient: Context, relation: Relation, table: Table, tenant: str, copy: Name) -> Iterator[Finding]:
    worker = router_of(patient.workspace).worker(relation.name)
    ((moment,),) = patient.workspace.warehouse.query("SELECT toUnixTimestamp(now())").rows
    alive = living(table.ttl, f"toDateTime({moment})")
    with patient.workspace.view_lock.changing():
        if worker is not None:
            worker.drain()
            if tenant not in worker.position().main.members:
                return
        there = _by_tenant(patient, relation, tenant, alive or "1").get(tenant, (0, 0))
        here = _of_copy(patient, relation, copy, alive or "1")
    if here == there:
        return
    why = f"it has {here[0]:,} rows, and landing has {there[0]:,} of tenant {tenant}"
    if here[0] == there[0]:
        why = f"its {here[0]:,} rows differ from those in landing"
    if alive is None:
        yield warning("copy", copy, f"{why}; rows may have gone from one of them by its TTL", REPAIR)
    else:
        yield error("copy", copy, why, REPAIR if here[0] <= there[0] else _excess(copy))


def _checksum(relation: Relation) -> str:
    # A hash of a null is null, and nulls do not count in an aggregate; as text they do.
    return f"count(), groupBitXor(cityHash64(formatRow('TSV', {', '.join(map(quote, relation.columns))})))"


def _of_copy(patient: Context, relation: Relation, copy: Name, alive: str = "1") -> Sum:
    found = patient.workspace.warehouse.query(f"SELECT {_checksum(relation)} FROM {copy.sql()} WHERE {alive}")
    return int(found.rows[0][0]), int(found.rows[0][1])


def _by_tenant(patient: Context, relation: Relation, tenant: str | None = None, alive: str = "1") -> dict[str, Sum]:
    landing = Name(patient.workspace.name, relation.name).sql()
    column = f"toString({quote(relation.tenant or '')})"
    mine = f" WHERE {column} = {{tenant:String}} AND {alive}" if tenant is not None else ""
    found = patient.workspace.warehouse.query(
        f"SELECT {column} AS _rk_tenant, {_checksum(relation)} FROM {landing}{mine} GROUP BY _rk_tenant",
        {"tenant": tenant} if tenant is not None else None,
    )
    return {str(t): (int(rows), int(checksum)) for t, rows, checksum in found.rows}
