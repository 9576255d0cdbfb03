"""Applying a plan: journalled where order matters, and safe to run again after any interruption.

History is delivered behind the fence: with inserts held back, the newest block number of each new view's source is
noted together with the ranges up to it, and the view is created; then inserts go on and the noted ranges are
delivered, each as one block under a token of its own. A second run finds the note and delivers what is missing;
ranges that had arrived are recognised by their tokens.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol

import structlog

from engine.compiler.storage import BATCH
from engine.compiler.views import bounded
from engine.errors import APPLY_FAILED, RookeryError
from engine.plan.fence import Fence
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
from engine.schema import Name, View, literal
from engine.warehouse import ddl
from engine.warehouse.port import Warehouse

log = structlog.get_logger("rookery.plan")

RANGE_ROWS = 1_000_000
"""Rows of a source that one range spans, at most (a single block may be larger)."""

HANDS = 2
"""Ranges that are delivered at the same time; the other writers' handles are left to inserts."""

GO = 25
"""Objects that are created in one go."""

TOGETHER = 16
"""Ranges after which the notes are brought up to date; far fewer than the tokens that a target remembers."""


@dataclass(frozen=True, slots=True)
class History:
    """A noted delivery: into which view's target, from which source, over which block ranges (after, upto]."""

    id: str
    view: str
    source: str
    sql: str
    columns: tuple[str, ...]
    target: str
    ranges: tuple[tuple[int, int], ...]
    tenant: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "view": self.view,
            "source": self.source,
            "sql": self.sql,
            "columns": list(self.columns),
            "target": self.target,
            "ranges": [list(r) for r in self.ranges],
            "tenant": self.tenant,
        }

    @staticmethod
    def of(body: dict[str, Any]) -> History:
        ranges = tuple((int(a), int(b)) for a, b in body["ranges"])
        return History(
            body["id"],
            body["view"],
            body["source"],
            body["sql"],
            tuple(body["columns"]),
            body["target"],
            ranges,
            body.get("tenant"),
        )


class Journal(Protocol):
    """Where deliveries are noted before they begin and struck off when they are complete."""

    def note(self, histories: Sequence[History]) -> None: ...
    def strike(self, histories: Sequence[History]) -> None: ...
    def outstanding(self) -> list[History]: ...
    def settle(self) -> None:
        """Note how far the workspace's tables have come while no insert runs: all of it has reached its views."""
        ...


Progress = Callable[[str, int, int], None]
"""Called with what is going on, how much is done, and of how much."""


StartReadersOf = Callable[[Mapping[str, Sequence[str]]], None]
"""Lets tenants' empty copies be filled from the beginning of the log, by datasource."""


def nobody(readers: Mapping[str, Sequence[str]]) -> None:
    """No reader can be started where nothing routes."""
    if readers:
        raise RuntimeError("a plan starts readers, and nobody is there to serve them")


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


def apply(
    plan: Plan,
    warehouse: Warehouse,
    fence: Fence,
    journal: Journal,
    progress: Progress = silent,
    start_readers: StartReadersOf = nobody,
) -> dict[str, int]:
    """Apply a plan and deliver the history of its new views. Returns rows delivered by target."""
    phases = _phases(plan.steps)
    total = len(plan.steps)
    if phases.unhook:
        with fence.exclusive():
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
        histories += _create_views(steps, warehouse, fence, journal)
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
            for start in range(0, len(found), GO):
                yield found[start : start + GO]
        else:
            yield from ([step] for step in found)


def _in_goes(steps: Sequence[Step]) -> Iterable[Sequence[Step]]:
    """Views in several goes where they are many and nothing but new, so that inserts wait for some at a time."""
    if all(isinstance(s, CreateView) and not s.replaces for s in steps):
        return [steps[start : start + GO] for start in range(0, len(steps), GO)]
    return [steps]


def _run_all(warehouse: Warehouse, steps: Sequence[Step]) -> None:
    if len(steps) == 1:
        _run(warehouse, steps[0])
        return
    with ThreadPoolExecutor(HANDS) as hands:
        for under_way in [hands.submit(_run, warehouse, step) for step in steps]:
            under_way.result()


def _run(warehouse: Warehouse, step: Step) -> None:
    try:
        warehouse.execute(_sql(step))
    except RookeryError as exc:
        raise RookeryError(
            APPLY_FAILED,
            f"{step.action} {step.subject} failed: {exc.message}",
            hint="what was done stays; run the command again once the cause is mended",
            detail=exc.detail,
        ) from exc


def _sql(step: Step) -> str:
    if isinstance(step, CreateDatabase):
        return ddl.create_database(step.database)
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


def _create_views(steps: Sequence[Step], warehouse: Warehouse, fence: Fence, journal: Journal) -> list[History]:
    if not steps:
        return []
    fresh = [s.view for s in steps if isinstance(s, CreateView) and not s.replaces]
    replaced = [s.view for s in steps if isinstance(s, CreateView) and s.replaces]
    names = {str(v.name) for v in fresh}
    with fence.exclusive():
        journal.strike([h for h in journal.outstanding() if h.view in names])
        holding = _holding_rows(warehouse, {v.source for v in fresh})
        doubts = {v.source: fence.doubts(v.source, v.mark) for v in fresh if v.source in holding}
        later = {v.name for v in fresh if v.source in doubts and doubts[v.source] is None}
        if later:
            # Rows that will come again would come twice. The next run makes these views, when that is over.
            log.warning("views wait for a tenant that has not caught up", views=sorted(map(str, later)))
            steps = [s for s in steps if not (isinstance(s, CreateView) and s.view.name in later)]
            fresh = [v for v in fresh if v.name not in later]
        ranges = {
            s: block_ranges(warehouse, s, without=doubts.get(s) or ()) for s in {v.source for v in fresh} & holding
        }
        histories = [history(v, ranges[v.source]) for v in fresh if v.source in ranges]
        journal.note(histories)
        journal.settle()
        for view in replaced:
            warehouse.execute(ddl.drop_view(view.name))
        for step in steps:
            _run(warehouse, step)
    return histories


def history(view: View, ranges: Sequence[tuple[int, int]]) -> History:
    """A delivery of a view's history under a fresh identity."""
    return History(
        secrets.token_hex(8),
        str(view.name),
        view.source.sql(),
        view.backfill,
        view.columns,
        view.target.sql(),
        tuple(ranges),
        view.mark.tenant if view.mark else None,
    )


def _holding_rows(warehouse: Warehouse, sources: set[Name]) -> set[Name]:
    """Those of the tables that exist and are not empty. Most nests are new, so one question spares many."""
    found = warehouse.query(
        "SELECT database, name FROM system.tables "
        "WHERE database IN {databases:Array(String)} AND ifNull(total_rows, 1) > 0",
        {"databases": [*sorted({s.database for s in sources})]},
    )
    return sources & {Name(database, name) for database, name in found.rows}


def block_ranges(
    warehouse: Warehouse, source: Name, *, after: int = 0, without: Collection[str] = ()
) -> list[tuple[int, int]]:
    """Ranges of block numbers that cover a table, each of at most RANGE_ROWS rows where blocks allow.

    Blocks up to `after` are left out, and those that were put in under one of the tokens `without`. Must be called
    with the fence held, so that no block appears below the newest one afterwards.
    """
    passed = f"{BATCH} IN ({', '.join(map(literal, sorted(without)))})" if without else "0"
    blocks = warehouse.query(
        f"SELECT _block_number AS b, count() AS n, max({passed}) AS p FROM {source.sql()} "
        f"WHERE _block_number > {after} GROUP BY b ORDER BY b"
    ).rows
    found: list[tuple[int, int]] = []
    rows, last = 0, after
    for number, count, passed_over in blocks:
        if rows and (passed_over or rows + count > RANGE_ROWS):
            found.append((after, last))
            after, rows = last, 0
        if passed_over:
            after = number
        else:
            rows += count
        last = number
    if rows:
        found.append((after, last))
    return found


def deliver(
    histories: Sequence[History], warehouse: Warehouse, journal: Journal, progress: Progress = silent
) -> dict[str, int]:
    """Deliver noted histories, several ranges at a time. Returns the ranges delivered by view.

    What has arrived is taken off the notes every few ranges, also when others fail: a target recognises a token
    only for so many later inserts.
    """
    pieces = [(item, piece) for item in histories for piece in item.ranges]
    left = {item.id: list(item.ranges) for item in histories}
    journal.strike([item for item in histories if not item.ranges])
    with ThreadPoolExecutor(HANDS) as hands:
        for start in range(0, len(pieces), TOGETHER):
            batch = pieces[start : start + TOGETHER]
            running = [hands.submit(_deliver_range, warehouse, item, piece) for item, piece in batch]
            wait(running)
            for (item, piece), delivery in zip(batch, running, strict=True):
                if delivery.exception() is None:
                    left[item.id].remove(piece)
            _cross_off({item.id: item for item, _ in batch}.values(), left, journal)
            for delivery in running:
                delivery.result()
            progress(f"history of {batch[-1][0].view}", start + len(batch), len(pieces))
    return {item.view: len(item.ranges) for item in histories}


def _deliver_range(warehouse: Warehouse, item: History, piece: tuple[int, int]) -> None:
    """One range as one block, under a token of its own."""
    after, upto = piece
    token = f"history:{item.id}:{after}:{upto}"
    warehouse.execute(ddl.insert_block(item.target, item.columns, token, bounded(item.sql, after, upto)))


def _cross_off(items: Iterable[History], left: dict[str, list[tuple[int, int]]], journal: Journal) -> None:
    complete = [item for item in items if not left[item.id]]
    begun = [item for item in items if 0 < len(left[item.id]) < len(item.ranges)]
    journal.note([replace(item, ranges=tuple(left[item.id])) for item in begun])
    journal.strike(complete)
