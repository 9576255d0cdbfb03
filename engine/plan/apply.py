"""Applying a plan: in an order that loses no rows, and safe to run again after any interruption.

Views are created behind the fence, with inserts held back, when their history has been noted; then inserts go on and
the history is delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby

import structlog

from engine.errors import APPLY_FAILED, RookeryError
from engine.plan.backfill import (
    BACKFILL_THREADS,
    Backfill,
    Journal,
    Progress,
    deliver,
    note_histories,
    note_missing,
    silent,
)
from engine.plan.steps import (
    AddColumn,
    ChangeClause,
    ChangeColumn,
    CreateDatabase,
    CreateTable,
    CreateView,
    DropColumn,
    DropDatabase,
    DropTable,
    DropView,
    NoteFeeders,
    Plan,
    StartReaders,
    Step,
)
from engine.plan.view_lock import ViewLock
from engine.schema import Name, View
from engine.warehouse import ddl
from engine.warehouse.port import Capabilities, Warehouse

log = structlog.get_logger("rookery.plan")

OBJECTS_PER_STATEMENT_GROUP = 25
"""Objects that are created in one go."""

StartReadersOf = Callable[[Mapping[str, Sequence[str]]], None]
"""Lets tenants' empty copies be filled from the beginning of the log, by datasource."""
BeforeReplacing = Callable[[View], None]
"""Records, with the fence held, from which block on a view that is about to be replaced would lack rows."""


def no_readers(readers: Mapping[str, Sequence[str]]) -> None:
    """No reader can be started where nothing routes."""
    if readers:
        raise RuntimeError("a plan starts readers, and nobody is there to serve them")


def unrecorded(_view: View) -> None:
    """No record: what a view has missed is unknown if the process is killed while it is replaced."""


def apply(
    plan: Plan,
    warehouse: Warehouse,
    view_lock: ViewLock,
    journal: Journal,
    progress: Progress = silent,
    start_readers: StartReadersOf = no_readers,
    before_replacing: BeforeReplacing = unrecorded,
) -> dict[str, int]:
    """Apply a plan and deliver the history of its new views. Returns rows delivered by target."""
    phases = _phases(plan.steps)
    total = len(plan.steps)
    if phases.unhook:
        with view_lock.changing():
            for step in phases.unhook:
                _run(warehouse, step)
    done = 0
    for steps in _side_by_side(phases.before):
        if isinstance(steps[0], StartReaders):
            start_readers(steps[0].readers)
        else:
            _run_all(warehouse, steps)
        done += len(steps)
        progress(steps[-1].subject, done, total)
    histories = []
    for steps in _in_goes(phases.inside):
        histories += _create_views(steps, warehouse, view_lock, journal, before_replacing)
        done += len(steps)
        progress("views", done, total)
    delivered = deliver(histories, warehouse, journal, progress)
    for step in phases.after:
        _run(warehouse, step)
    return delivered


@dataclass(slots=True)
class _Phases:
    """Views are dropped first and alone, views are created last and alone; the rest needs no fence."""

    unhook: list[Step] = field(default_factory=list)
    before: list[Step] = field(default_factory=list)
    inside: list[Step] = field(default_factory=list)
    after: list[Step] = field(default_factory=list)


def _phases(steps: Iterable[Step]) -> _Phases:
    phases = _Phases()
    for step in steps:
        if isinstance(step, DropView):
            phases.unhook.append(step)
        elif isinstance(step, CreateView | DropColumn) or (isinstance(step, AddColumn) and step.late):
            phases.inside.append(step)
        elif isinstance(step, DropDatabase | NoteFeeders):
            phases.after.append(step)
        else:
            phases.before.append(step)
    # A replaced view goes before the column that it read; columns come before the views that need them.
    phases.inside.sort(key=lambda s: isinstance(s, CreateView))
    return phases


def _side_by_side(steps: Sequence[Step]) -> Iterable[Sequence[Step]]:
    """Steps in groups of which the order within does not matter: databases, and tables, that are created."""
    for kind, group in groupby(steps, key=type):
        found = list(group)
        if kind in (CreateDatabase, CreateTable):
            for start in range(0, len(found), OBJECTS_PER_STATEMENT_GROUP):
                yield found[start : start + OBJECTS_PER_STATEMENT_GROUP]
        else:
            yield from ([step] for step in found)


def _in_goes(steps: Sequence[Step]) -> Iterable[Sequence[Step]]:
    """Views in several goes where they are many and nothing but new, so that inserts wait for some at a time."""
    if all(isinstance(s, CreateView) and not s.replaces for s in steps):
        return [
            steps[start : start + OBJECTS_PER_STATEMENT_GROUP]
            for start in range(0, len(steps), OBJECTS_PER_STATEMENT_GROUP)
        ]
    return [steps]


def _run_all(warehouse: Warehouse, steps: Sequence[Step]) -> None:
    if len(steps) == 1:
        _run(warehouse, steps[0])
        return
    with ThreadPoolExecutor(BACKFILL_THREADS) as hands:
        for under_way in [hands.submit(_run, warehouse, step) for step in steps]:
            under_way.result()


def _run(warehouse: Warehouse, step: Step) -> None:
    try:
        warehouse.execute(_sql(step, warehouse.capabilities))
    except RookeryError as exc:
        raise RookeryError(
            APPLY_FAILED,
            f"{step.action} {step.subject} failed: {exc.message}",
            hint="what was done stays; run the command again once the cause is mended",
            detail=exc.detail,
        ) from exc


def _sql(step: Step, able: Capabilities) -> str:
    if isinstance(step, CreateDatabase):
        return ddl.create_database(step.database, lazy=able.lazy_tables and ddl.is_nest(step.database))
    if isinstance(step, DropDatabase):
        return ddl.drop_database(step.database)
    if isinstance(step, CreateTable):
        return ddl.create_table(step.table)
    if isinstance(step, DropTable):
        return ddl.drop_table(step.name)
    if isinstance(step, DropView):
        return ddl.drop_view(step.name)
    if isinstance(step, CreateView):
        return ddl.create_view(step.view)
    if isinstance(step, AddColumn):
        return ddl.add_column(step.name, step.column)
    if isinstance(step, ChangeColumn):
        return ddl.modify_column(step.name, step.column)
    if isinstance(step, DropColumn):
        return ddl.drop_column(step.name, step.column)
    if isinstance(step, ChangeClause):
        return step.sql
    if isinstance(step, NoteFeeders):
        return ddl.comment(step.name, step.mark)
    raise TypeError(f"no statement for {step!r}")


def _create_views(
    steps: Sequence[Step],
    warehouse: Warehouse,
    view_lock: ViewLock,
    journal: Journal,
    before_replacing: BeforeReplacing,
) -> list[Backfill]:
    if not steps:
        return []
    views = [s for s in steps if isinstance(s, CreateView)]
    fresh = [s.view for s in views if not s.replaces and not s.missing and not s.continues]
    put_back = [(s.view, s.missing) for s in views if s.missing]
    with view_lock.changing():
        histories, later = note_histories(fresh, warehouse, view_lock, journal)
        missed, waiting = note_missing(put_back, warehouse, view_lock, journal) if put_back else ([], set[Name]())
        later |= waiting
        if later:
            # Rows that will come again would come twice. The next run makes these views, when that is over.
            log.warning("views wait for a tenant that has not caught up", views=sorted(map(str, later)))
        # Noted first: a run that is interrupted between the two must not take the target for one of the new query.
        continued = [s.view for s in views if s.continues and s.view.name not in later]
        if continued:
            journal.continued(continued)
        for view in [s.view for s in views if s.replaces and s.view.name not in later]:
            before_replacing(view)
            warehouse.execute(ddl.drop_view(view.name))
        for step in steps:
            if not (isinstance(step, CreateView) and step.view.name in later):
                _run(warehouse, step)
        made = [s.view for s in views if s.view.name not in later]
        journal.deferred([s.view for s in views if s.view.name in later], made)
    return histories + missed
