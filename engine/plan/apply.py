"""Apply a plan in an order that loses no rows. After an interruption, the remaining plan can be applied.

Views are created while the view lock holds inserts back, after their backfills have been recorded. Then inserts
resume, and the backfills are delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby

import structlog

from engine.errors import APPLY_FAILED, RookeryError
from engine.plan.alteration_groups import statement, statements
from engine.plan.backfill import Backfill, Journal
from engine.plan.backfill_delivery import BACKFILL_THREADS, deliver
from engine.plan.backfill_records import record_backfills, record_missing
from engine.plan.begun_ranges import complete_begun_ranges
from engine.plan.conversions import convert_back
from engine.plan.progress import Progress, silent
from engine.plan.steps import (
    Alteration,
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
    StoreValues,
)
from engine.plan.view_lock import ViewLock
from engine.schema import Name, View
from engine.warehouse import ddl
from engine.warehouse.errors import NOT_IMPLEMENTED, EngineError
from engine.warehouse.port import Capabilities, Warehouse

log = structlog.get_logger("rookery.plan")

OBJECTS_PER_GROUP = 25
"""Number of tables that are created in parallel, and of views that are created each time inserts are blocked."""

StartReadersOf = Callable[[Mapping[str, Sequence[str]]], None]
"""Starts to deliver the whole landing log to tenants with empty copies; called with tenants by datasource."""
BeforeReplacing = Callable[[View], None]
"""Called with the view lock held. Records from which block on a view that is about to be replaced misses rows."""


def refuse_readers(readers: Mapping[str, Sequence[str]]) -> None:
    """Fail if a plan starts readers but the workspace has no fan-out."""
    if readers:
        raise RuntimeError("a plan starts readers, but there is no fan-out to serve them")


def skip_recording(_view: View) -> None:
    """Do not record anything. After a kill during the replacement, it is unknown which rows the view has missed."""


@dataclass(frozen=True, slots=True)
class ApplyContext:
    """The dependencies with which steps are applied."""

    warehouse: Warehouse
    view_lock: ViewLock
    journal: Journal
    progress: Progress = silent
    start_readers: StartReadersOf = refuse_readers
    before_replacing: BeforeReplacing = skip_recording


def apply(plan: Plan, context: ApplyContext) -> dict[str, int]:
    """Apply a plan and deliver the backfills of its new views. Returns the number of delivered ranges by view.

    Raises RK3010 for the first step that fails. The steps before it stay applied.
    """
    warehouse, progress = context.warehouse, context.progress
    phases = _phases(plan.steps)
    total = len(plan.steps)
    if phases.drop_views:
        with context.view_lock.changing():
            for step in phases.drop_views:
                _run(warehouse, [step])
    done = 0
    for steps in _parallel_groups(phases.before):
        if isinstance(steps[0], StartReaders):
            context.start_readers(steps[0].readers)
        else:
            _run_all(warehouse, steps)
        done += len(steps)
        progress(steps[-1].subject, done, total)
    created = [s.view for s in phases.locked if isinstance(s, CreateView) and not s.replaces and not s.continues]
    complete_begun_ranges(created, warehouse, context.journal)
    backfills = []
    for steps in _locked_groups(phases.locked):
        backfills += _create_views(steps, context)
        done += len(steps)
        progress("views", done, total)
    # Without the view lock: inserts continue while history is delivered, which may take hours.
    delivered = deliver(backfills, warehouse, context.journal, progress)
    # A table is noted as fed by a view only once the view exists. After a crash at this point, the next plan writes
    # the record.
    for step in phases.after:
        _run(warehouse, [step])
    return delivered


@dataclass(slots=True)
class _Phases:
    """The steps of a plan in the order in which they run. The view lock is held for `drop_views` and `locked`."""

    drop_views: list[Step] = field(default_factory=list)
    """First, so that no view reads or fills a table that is being rebuilt."""
    before: list[Step] = field(default_factory=list)
    """Databases, tables and changes in place."""
    locked: list[Step] = field(default_factory=list)
    """What changes views, or the columns that they read."""
    after: list[Step] = field(default_factory=list)
    """What must only happen once all rows are delivered."""


def _phases(steps: Iterable[Step]) -> _Phases:
    """Sort steps into the phases in which they run. Within a phase they keep their order."""
    phases = _Phases()
    for step in steps:
        if isinstance(step, DropView):
            phases.drop_views.append(step)
        elif isinstance(step, CreateView | DropColumn) or (isinstance(step, Alteration) and step.late):
            phases.locked.append(step)
        elif isinstance(step, DropDatabase | NoteFeeders):
            phases.after.append(step)
        else:
            phases.before.append(step)
    # New columns exist before the views that read them. A replaced view is dropped before a column that it reads.
    # A column is dropped after the changes of others that use it.
    phases.locked.sort(key=lambda s: (isinstance(s, CreateView), isinstance(s, DropColumn)))
    return phases


def _parallel_groups(steps: Sequence[Step]) -> Iterable[Sequence[Step]]:
    """Groups of steps that may run in any order: those that create databases, and those that create tables. Other
    steps run alone, or as one statement.
    """
    for kind, same_kind in groupby(steps, key=lambda s: Alteration if isinstance(s, Alteration) else type(s)):
        group = list(same_kind)
        if kind in (CreateDatabase, CreateTable):
            # Groups are limited, so that progress is reported and a failure is noticed before all tables are created.
            for start in range(0, len(group), OBJECTS_PER_GROUP):
                yield group[start : start + OBJECTS_PER_GROUP]
        else:
            yield from statements(group)


def _locked_groups(steps: Sequence[Step]) -> Iterable[Sequence[Step]]:
    """Groups of steps that each hold the view lock once. Only new views can be split into several groups, so that
    inserts do not have to wait for all of them.
    """
    if all(isinstance(s, CreateView) and not s.replaces for s in steps):
        return [steps[start : start + OBJECTS_PER_GROUP] for start in range(0, len(steps), OBJECTS_PER_GROUP)]
    return [steps]


def _run_all(warehouse: Warehouse, steps: Sequence[Step]) -> None:
    """Execute steps in parallel, or changes of a group as one statement. Raises the first failure after all of them
    have ended.
    """
    if len(steps) == 1 or isinstance(steps[0], Alteration):
        _run(warehouse, steps)
        return
    with ThreadPoolExecutor(BACKFILL_THREADS) as pool:
        for running in [pool.submit(_run, warehouse, [step]) for step in steps]:
            running.result()


def _run(warehouse: Warehouse, steps: Sequence[Step]) -> None:
    """Execute one step, or changes of a group as one statement. Raises RK3010 with the steps in the message."""
    try:
        _execute(warehouse, steps)
    except RookeryError as exc:
        for step in steps:
            if isinstance(step, ChangeColumn) and step.previous is not None:
                # A row that cannot be converted may have arrived after the conversion was tried. If the column cannot
                # be changed back now, the next push does it.
                with suppress(RookeryError):
                    convert_back(warehouse, step.name, step.previous)
        failed = ", ".join(f"{s.action} {s.subject}" for s in steps) + " failed: "
        raise RookeryError(
            APPLY_FAILED,
            failed + exc.message,
            hint="fix the cause and run the command again; the steps before this one stay applied",
            detail=exc.detail,
            public=failed + exc.public,
        ) from exc


def _execute(warehouse: Warehouse, steps: Sequence[Step]) -> None:
    try:
        warehouse.execute(_sql(steps, warehouse.capabilities))
    except EngineError as exc:
        step = steps[0]
        if not isinstance(step, StoreValues) or exc.engine_code != NOT_IMPLEMENTED:
            raise
        # The engine mutates no table that it loaded after its start. A merge stores the values too.
        warehouse.execute(ddl.merge_all(step.name))


def _sql(steps: Sequence[Step], capabilities: Capabilities) -> str:
    """The statement of a step, or of a group. Steps that are not statements (StartReaders) are run by `apply`."""
    step = steps[0]
    if isinstance(step, Alteration):
        return statement(steps, step.name)
    if isinstance(step, CreateDatabase):
        return ddl.create_database(step.database, lazy=capabilities.lazy_tables and ddl.is_nest(step.database))
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
    if isinstance(step, NoteFeeders):
        return ddl.comment(step.name, step.mark)
    raise TypeError(f"no statement for {step!r}")


def _create_views(steps: Sequence[Step], context: ApplyContext) -> list[Backfill]:
    """Run steps that need the view lock. Returns the recorded backfills of the created views."""
    if not steps:
        return []
    warehouse, journal = context.warehouse, context.journal
    create = [s for s in steps if isinstance(s, CreateView)]
    with context.view_lock.changing():
        backfills, deferred = _record(create, context)
        if deferred:
            # Rows that will be delivered again would reach these views twice. A later run creates them.
            log.warning("views wait for a tenant that has not caught up", views=sorted(map(str, deferred)))
        views = [s for s in create if s.view.name not in deferred]
        # Recorded before the views change: after a kill at this point, the target still counts as one of the old
        # query.
        continued = [s.view for s in views if s.continues]
        if continued:
            journal.record_continued(continued)
        for view in [s.view for s in views if s.replaces]:
            context.before_replacing(view)
            warehouse.execute(ddl.drop_view(view.name))
        for together in statements(steps):
            step = together[0]
            if not (isinstance(step, CreateView) and step.view.name in deferred):
                _run(warehouse, together)
        journal.record_deferred([s.view for s in create if s.view.name in deferred], [s.view for s in views])
    return backfills


def _record(steps: Sequence[CreateView], context: ApplyContext) -> tuple[list[Backfill], set[Name]]:
    """Record the backfills of views. Returns them, and the views that cannot be created yet."""
    arguments = context.warehouse, context.view_lock, context.journal
    new = [s.view for s in steps if not s.replaces and not s.missing and not s.continues]
    backfills, deferred = record_backfills(new, *arguments)
    suspended = [(s.view, s.missing) for s in steps if s.missing]
    if suspended:
        missed, waiting = record_missing(suspended, *arguments)
        backfills, deferred = backfills + missed, deferred | waiting
    return backfills, deferred
