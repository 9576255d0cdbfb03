"""Compares, and on request repairs, all derived tables of a workspace in order of data flow."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from engine.control.doctor.assumed_zone import explanation, other_zone
from engine.control.doctor.comparison import Comparison
from engine.control.doctor.derived_tables import Derived, derived_tables
from engine.control.doctor.determined_columns import determined_columns
from engine.control.doctor.differences import (
    DIFFERS,
    EXCESSES,
    MIXED,
    MORE,
    SURPLUS,
    RepairOutcome,
    count_keys,
)
from engine.control.doctor.findings import Context
from engine.control.doctor.table_repair import TableRepair
from engine.control.planning import desired_schema
from engine.errors import UNKNOWN_RESOURCE, ZONE, RookeryError, did_you_mean
from engine.observe import events
from engine.plan.conversions import undo_failed_conversions
from engine.plan.coverage import Coverage
from engine.plan.progress import Progress, silent
from engine.schema import Name
from engine.warehouse.catalog import read_schema
from engine.workspace.workspace import Workspace


def repair(workspace: Workspace, allow: Collection[str] = (), progress: Progress = silent) -> dict[str, Any]:
    """Compare every copy and derived table with its source and deliver what is missing. Returns a report as JSON.

    Differing keys are replaced if the source still has all of its rows. Excess rows are removed only from tables
    named in `allow`, and only if the source is complete. Raises RK3007 for an unknown name, and RK7010 if the rows of
    an older program were written in another zone than was assumed.
    """
    with workspace.changes:
        snapshot = workspace.refresh()
        unknown = sorted({*allow} - {*snapshot.build.relations})
        if unknown:
            message = f"no resource is named `{unknown[0][:120]}`, so there is nothing to allow"
            hint = did_you_mean(unknown[0], snapshot.build.relations, "rookery datasource ls")
            raise RookeryError(UNKNOWN_RESOURCE, message, hint=hint)
        undo_failed_conversions(workspace.warehouse, workspace.name)
        live = read_schema(workspace.warehouse, workspace.name)
        context = Context(workspace, snapshot, live, desired_schema(snapshot.build, snapshot), progress)
        zone = other_zone(context)
        if zone is not None:
            # A repair would assign all rows to days again, including those that are correct.
            message, hint = explanation(context, zone)
            raise RookeryError(ZONE, message, hint=hint)
        repaired = list(outcomes(context, repair=True, allow=allow))
        events.note("repaired", tables=[str(o.table) for o in repaired if o.differences], allowed=sorted(allow))
        return {"repaired": [_as_dict(o) for o in repaired if o.differences or o.uncompared or o.detached]}


def outcomes(
    context: Context, *, repair: bool = False, skip: Sequence[Name] = (), allow: Collection[str] = ()
) -> Iterator[RepairOutcome]:
    """Compare every derived table, and with `repair` also repair it.

    Tables derived from a table in `skip`, or from one that stays wrong, are left out, because a repair would
    propagate the wrong rows. Excess rows may be removed from tables named in `allow`. A table that cannot be read is
    also an outcome.
    """
    wrong = {*skip}
    coverage = Coverage(context.workspace.warehouse, context.workspace.registry, context.live)
    tables = list(derived_tables(context, copies=repair))
    for number, derived in enumerate(tables):
        name = derived.table.name
        context.progress(f"compare {name}", number, len(tables))
        # Tables are compared in the order of the data flow, so errors of a source are known by now.
        if any(v.source in wrong for v in derived.views):
            wrong.add(name)
            continue
        try:
            # A repair may change the records, so it reads them again. Inserts change what the sources have.
            current = coverage.again(read_records=repair)
            outcome = _outcome(context, derived, current, repair=repair, excess=name.name in allow)
        except RookeryError as exc:
            yield RepairOutcome(name, uncompared=f"it cannot be read: {exc.detail or exc.message}"[:500])
            continue
        if outcome.stays_wrong(repaired=repair):
            wrong.add(name)
        yield outcome


def _outcome(context: Context, derived: Derived, coverage: Coverage, *, repair: bool, excess: bool) -> RepairOutcome:
    """Compare one table, and with `repair` also repair it."""
    workspace, table = context.workspace, derived.table.name
    determined = determined_columns(context, derived, coverage)
    if isinstance(determined, str):
        return RepairOutcome(table, uncompared=determined)
    comparison = Comparison(context, derived, determined, coverage)
    try:
        if repair:
            return TableRepair(workspace, comparison, excess=excess).run()
        differences = comparison.differences()
        if not differences:
            return RepairOutcome(table, skipped=determined.columns.skipped if differences is not None else ())
        unproven = comparison.why_unproven()
        return RepairOutcome(table, tuple(differences), determined.columns.skipped, lost=unproven, excess=excess)
    finally:
        comparison.close()


def _as_dict(outcome: RepairOutcome) -> dict[str, Any]:
    return {
        "table": str(outcome.table),
        "keys": outcome.repaired,
        "differences": [{"tenant": d.tenant, **d.counts} for d in outcome.differences],
        "not_repaired": outcome.uncompared or _why_not_repaired(outcome),
        "detached": [d.as_dict() for d in outcome.detached],
    }


def _why_not_repaired(outcome: RepairOutcome) -> str | None:
    """Why some of the differences were not repaired."""
    if outcome.lost is not None:
        unproven = (MIXED, DIFFERS, MORE, SURPLUS)
        return outcome.lost if count_keys(outcome.differences, unproven) else None
    if count_keys(outcome.differences, EXCESSES) and not outcome.excess:
        return f"it has excess rows; `--allow-destructive {outcome.table.name}` removes them"
    return None
