"""History: what a new view's source has held before the view was there, delivered range by range.

Where history ends is noted while no insert runs, together with the ranges up to it; then they are delivered, each as
one block under a token of its own. A second run finds the note and delivers what is missing; ranges that had arrived
are recognised by their tokens.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, Protocol

from engine.compiler.storage import BATCH_COLUMN
from engine.compiler.views import bounded
from engine.errors import APPLY_FAILED, BUSY, RookeryError
from engine.plan.missing_blocks import Lack
from engine.plan.view_lock import ViewLock
from engine.schema import Name, View, literal
from engine.warehouse import ddl
from engine.warehouse.port import Warehouse

RANGE_ROWS = 1_000_000
"""Rows of a source that one range spans, at most (a single block may be larger)."""

BACKFILL_THREADS = 2
"""Ranges that are delivered at the same time; the other writers' handles are left to inserts."""

RANGES_PER_NOTE = 16
"""Ranges after which the notes are brought up to date; far fewer than the tokens that a target remembers."""


@dataclass(frozen=True, slots=True)
class Backfill:
    """A noted delivery: into which view's target, from which source, over which block ranges (after, upto].

    `whole` says that it belongs to the view without exceptions, and is void while the view leaves out some tenants.
    """

    id: str
    view: str
    source: str
    sql: str
    columns: tuple[str, ...]
    target: str
    ranges: tuple[tuple[int, int], ...]
    tenant: str | None = None
    whole: bool = False

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
            "whole": self.whole,
        }

    @staticmethod
    def of(body: dict[str, Any]) -> Backfill:
        ranges = tuple((int(a), int(b)) for a, b in body["ranges"])
        return Backfill(
            body["id"],
            body["view"],
            body["source"],
            body["sql"],
            tuple(body["columns"]),
            body["target"],
            ranges,
            body.get("tenant"),
            bool(body.get("whole")),
        )


class Journal(Protocol):
    """Where deliveries are noted before they begin and struck off when they are complete."""

    def note(self, histories: Sequence[Backfill]) -> None: ...
    def strike(self, histories: Sequence[Backfill]) -> None: ...
    def outstanding(self) -> list[Backfill]: ...
    def consumed(self, views: Sequence[View], empty: Collection[Name]) -> None:
        """Note from how much of their sources the targets of views are made, while no insert runs.

        The sources of the views in `empty` have no rows.
        """
        ...

    def continued(self, views: Sequence[View]) -> None:
        """Note that targets have rows of earlier queries up to now, while no insert runs."""
        ...

    def deferred(self, later: Sequence[View], made: Sequence[View]) -> None:
        """Note views that could not be made yet, and that others are made now."""
        ...

    def settle(self) -> None:
        """Note how far the workspace's tables have come while no insert runs: all of it has reached its views."""
        ...


Progress = Callable[[str, int, int], None]
"""Called with what is going on, how much is done, and of how much."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


def note_histories(
    views: Sequence[View], warehouse: Warehouse, view_lock: ViewLock, journal: Journal
) -> tuple[list[Backfill], set[Name]]:
    """Note what views that are about to be created must be given. The fence must be held.

    Returns the deliveries, and the views that have to wait since something on their way is in doubt.
    """
    view_lock.completion.settle_all()
    kept = [v for v in views if v.log is None]
    names = {str(v.name) for v in views}
    journal.strike([h for h in journal.outstanding() if h.view in names])
    holding = _holding_rows(warehouse, {v.source for v in kept})
    doubts = {v.source: view_lock.deliveries.pending_tokens(v.source, v.mark) for v in kept if v.source in holding}
    passed = _passed(warehouse, view_lock, journal, [v for v in views if v.log is not None])
    later = {v.name for v in kept if v.source in doubts and doubts[v.source] is None}
    later |= {name for name, ranges in passed.items() if ranges is None}
    made = [v for v in views if v.name not in later]
    ranges = {
        s: block_ranges(warehouse, s, without=doubts.get(s) or ())
        for s in {v.source for v in made if v.log is None} & holding
    }
    histories = [history(v, found) for v in made if (found := passed.get(v.name) or ranges.get(v.source))]
    journal.note(histories)
    journal.consumed(made, {v.name for v in made if v.log is None and v.source not in holding})
    journal.settle()
    return histories, later


def note_missing(
    views: Sequence[tuple[View, Sequence[Lack]]], warehouse: Warehouse, view_lock: ViewLock, journal: Journal
) -> tuple[list[Backfill], set[Name]]:
    """Note what suspended views are given when they are put back. The fence must be held.

    Returns the deliveries, and the views that have to wait since something on their way is in doubt.
    """
    names = {str(v.name) for v, _ in views}
    # An interrupted run may have noted the same, and has delivered nothing of it.
    journal.strike([h for h in journal.outstanding() if h.view in names and h.whole])
    passed = _passed(warehouse, view_lock, journal, [v for v, _ in views if v.log is not None])
    later = {name for name, ranges in passed.items() if ranges is None}
    histories = []
    for view, lacks in views:
        doubts = view_lock.deliveries.pending_tokens(view.source, view.mark) if view.log is None else set()
        if doubts is None:
            later.add(view.name)
        if view.name in later:
            continue
        for lack in lacks:
            ranges = missing_ranges(warehouse, lack, without=doubts or ())
            if view.log is not None:
                ranges = _within(ranges, passed[view.name] or [])
            if ranges:
                histories.append(replace(history(lack.view, ranges), whole=True))
    journal.note(histories)
    journal.settle()
    return histories, later


def missing_ranges(warehouse: Warehouse, lack: Lack, *, without: Collection[str] = ()) -> list[tuple[int, int]]:
    """The ranges of blocks that a view lacks, as far as its source still has them."""
    source = lack.view.log or lack.view.source
    early = [r for r in _blocks_of(warehouse, source, set(lack.batches) - set(without)) if r[1] <= lack.after]
    return early + block_ranges(warehouse, source, after=lack.after, without=without)


def _within(ranges: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of ranges that lie in others, too."""
    pairs = ((max(a, c), min(b, d)) for a, b in ranges for c, d in others)
    return [(a, b) for a, b in pairs if a < b]


def _passed(
    warehouse: Warehouse, view_lock: ViewLock, journal: Journal, views: Sequence[View]
) -> dict[Name, list[tuple[int, int]] | None]:
    """For views on sources that keep nothing, the ranges of the log that have passed already; None if in doubt."""
    if not views:
        return {}
    feeds = {v.name: Name(v.source.database, f"_rk_{v.source.name}") for v in views}
    feeding = _standing(warehouse, set(feeds.values()))
    delivering = {h.view for h in journal.outstanding()}
    reaches = view_lock.deliveries.consumed({v.source: v.mark for v in views})
    logs = {v.log: block_ranges(warehouse, v.log) for v in views if v.log is not None}
    found: dict[Name, list[tuple[int, int]] | None] = {}
    for view in views:
        assert view.log is not None
        reach = reaches.get(view.source)
        if reach is not None:
            early = [(after, min(upto, reach.upto)) for after, upto in logs[view.log] if after < reach.upto]
            found[view.name] = early + _blocks_of(warehouse, view.log, reach.batches)
        elif str(feeds[view.name]) in delivering:
            found[view.name] = None
        else:
            found[view.name] = logs[view.log] if feeds[view.name] in feeding else []
    return found


def _blocks_of(warehouse: Warehouse, table: Name, batches: Collection[str]) -> list[tuple[int, int]]:
    """The blocks of batches, each as a range."""
    if not batches:
        return []
    found = warehouse.query(
        f"SELECT DISTINCT _block_number AS b FROM {table.sql()} "
        f"WHERE {BATCH_COLUMN} IN {{batches:Array(String)}} ORDER BY b",
        {"batches": [*sorted(batches)]},
    )
    return [(int(row[0]) - 1, int(row[0])) for row in found.rows]


def history(view: View, ranges: Sequence[tuple[int, int]]) -> Backfill:
    """A delivery of a view's history under a fresh identity."""
    return Backfill(
        secrets.token_hex(8),
        str(view.name),
        (view.log or view.source).sql(),
        view.backfill,
        view.columns,
        view.target.sql(),
        tuple(ranges),
        view.mark.tenant if view.mark else None,
    )


def _standing(warehouse: Warehouse, views: set[Name]) -> set[Name]:
    """Those of the views that exist."""
    return _found(warehouse, views, "engine = 'MaterializedView'")


def _holding_rows(warehouse: Warehouse, sources: set[Name]) -> set[Name]:
    """Those of the tables that exist and are not empty. Most nests are new, so one question spares many."""
    return _found(warehouse, sources, "ifNull(total_rows, 1) > 0")


def _found(warehouse: Warehouse, names: set[Name], condition: str) -> set[Name]:
    found = warehouse.query(
        f"SELECT database, name FROM system.tables WHERE database IN {{databases:Array(String)}} AND {condition}",
        {"databases": [*sorted({n.database for n in names})]},
    )
    return names & {Name(database, name) for database, name in found.rows}


def block_ranges(
    warehouse: Warehouse, source: Name, *, after: int = 0, without: Collection[str] = ()
) -> list[tuple[int, int]]:
    """Ranges of block numbers that cover a table, each of at most RANGE_ROWS rows where blocks allow.

    Blocks up to `after` are left out, and those that were put in under one of the tokens `without`. Must be called
    with the fence held, so that no block appears below the newest one afterwards.
    """
    passed = f"{BATCH_COLUMN} IN ({', '.join(map(literal, sorted(without)))})" if without else "0"
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
    histories: Sequence[Backfill],
    warehouse: Warehouse,
    journal: Journal,
    progress: Progress = silent,
    failed: Callable[[Backfill, RookeryError], None] | None = None,
) -> dict[str, int]:
    """Deliver noted histories, several ranges at a time. Returns the ranges delivered by view.

    What has arrived is taken off the notes every few ranges, also when others fail: a target recognises a token
    only for so many later inserts. The first failure is raised, or each history's is told to `failed` and the others
    go on.
    """
    pieces = [(item, piece) for item in histories for piece in item.ranges]
    left = {item.id: list(item.ranges) for item in histories}
    journal.strike([item for item in histories if not item.ranges])
    hopeless: set[str] = set()
    with ThreadPoolExecutor(BACKFILL_THREADS) as hands:
        for start in range(0, len(pieces), RANGES_PER_NOTE):
            batch = [(i, p) for i, p in pieces[start : start + RANGES_PER_NOTE] if i.id not in hopeless]
            if not batch:
                continue
            running = [hands.submit(_deliver_range, warehouse, item, piece) for item, piece in batch]
            wait(running)
            for (item, piece), delivery in zip(batch, running, strict=True):
                if delivery.exception() is None:
                    left[item.id].remove(piece)
            _cross_off({item.id: item for item, _ in batch}.values(), left, journal)
            for (item, _), delivery in zip(batch, running, strict=True):
                exc = delivery.exception()
                if exc is None:
                    continue
                if failed is None or not isinstance(exc, RookeryError):
                    raise _named(item, exc) from exc
                if item.id not in hopeless:
                    hopeless.add(item.id)
                    failed(item, exc)
            progress(f"history of {batch[-1][0].view}", min(start + RANGES_PER_NOTE, len(pieces)), len(pieces))
    return {item.view: len(item.ranges) for item in histories if item.id not in hopeless}


def _named(item: Backfill, exc: BaseException) -> BaseException:
    """A failure with what failed, and for whom."""
    if not isinstance(exc, RookeryError) or exc.code is BUSY:
        return exc
    whom = f" for tenant `{item.tenant}`" if item.tenant is not None else ""
    return RookeryError(
        APPLY_FAILED,
        f"the history of `{item.view}` cannot be delivered{whom}: {exc.message}",
        hint="mend the cause (the pipe, or the rows) and run the command again; what has arrived stays",
        detail=exc.detail,
    )


def _deliver_range(warehouse: Warehouse, item: Backfill, piece: tuple[int, int]) -> None:
    """One range as one block, under a token of its own."""
    after, upto = piece
    token = f"history:{item.id}:{after}:{upto}"
    warehouse.execute(ddl.insert_block(item.target, item.columns, token, bounded(item.sql, after, upto)))


def _cross_off(items: Iterable[Backfill], left: dict[str, list[tuple[int, int]]], journal: Journal) -> None:
    complete = [item for item in items if not left[item.id]]
    begun = [item for item in items if 0 < len(left[item.id]) < len(item.ranges)]
    journal.note([replace(item, ranges=tuple(left[item.id])) for item in begun])
    journal.strike(complete)
