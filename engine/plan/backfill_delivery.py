"""Delivers recorded backfills, range by range, after inserts have resumed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

from engine.compiler.storage import NEST_DEDUP_WINDOW
from engine.compiler.views import in_block_range
from engine.errors import APPLY_FAILED, BUSY, RookeryError
from engine.plan.backfill import Backfill, Journal, Range, token_of
from engine.plan.progress import Progress, silent
from engine.warehouse import ddl
from engine.warehouse.errors import exceeds_own_memory
from engine.warehouse.port import MAX_PARTITIONS, Warehouse

BACKFILL_THREADS = 2
"""Ranges that are delivered at the same time. The other writers' connections are left to inserts."""

RANGES_PER_GROUP = 16
"""Ranges that are tried even if one of them fails."""

RECOGNIZED_BLOCKS = NEST_DEDUP_WINDOW - MAX_PARTITIONS
"""Blocks that a target may store after a range, until it may have forgotten the tokens of the range's partitions."""
_PUSHING = "while pushing to view "
"""In the engine's errors about views behind a table, which has the rows then."""

MORE_MEMORY = "a statement may take more memory with a higher ROOKERY_MAX_BACKFILL_MEMORY"
"""A hint for a query that takes too much memory."""

OnFailure = Callable[[Backfill, RookeryError], None]
"""Called once for each backfill that fails."""


def deliver(
    backfills: Sequence[Backfill],
    warehouse: Warehouse,
    journal: Journal,
    progress: Progress = silent,
    on_failure: OnFailure | None = None,
) -> dict[str, int]:
    """Deliver recorded backfills, several ranges at a time. Returns the number of ranges by view.

    A delivered range is deleted from the record at once, because a target recognizes a token only for a limited
    number of later inserts, and rows that arrive meanwhile are such inserts too. Raises the first failure; with
    `on_failure`, reports it and continues with the other backfills.
    """
    pending = [(backfill, block_range) for backfill in backfills for block_range in backfill.ranges]
    remaining = {b.id: b for b in backfills}
    journal.delete([b for b in backfills if not b.ranges])
    failed: set[str] = set()
    recording = threading.Lock()

    def deliver_and_record(backfill: Backfill, block_range: Range) -> None:
        try:
            deliver_range(warehouse, backfill, block_range)
        except RookeryError as exc:
            if _PUSHING in (exc.detail or "") and block_range not in _stored(backfill):
                newest = _newest_block(warehouse, backfill)
                with recording:
                    known = remaining[backfill.id]
                    remaining[backfill.id] = replace(known, stored=(*known.stored, (*block_range, newest)))
                    journal.record([remaining[backfill.id]])
            raise
        with recording:
            remaining[backfill.id] = record_delivery(remaining[backfill.id], block_range, journal)

    with ThreadPoolExecutor(BACKFILL_THREADS) as pool:
        for start in range(0, len(pending), RANGES_PER_GROUP):
            # A failed backfill is not continued, because its other ranges would probably fail too.
            group = [(b, r) for b, r in pending[start : start + RANGES_PER_GROUP] if b.id not in failed]
            if not group:
                continue
            running = [pool.submit(deliver_and_record, b, r) for b, r in group]
            wait(running)
            failed |= _report_failures([b for b, _ in group], running, failed, on_failure)
            progress(f"backfill of {group[-1][0].view}", min(start + RANGES_PER_GROUP, len(pending)), len(pending))
    return {b.view: len(b.ranges) for b in backfills if b.id not in failed}


def _report_failures(
    backfills: Sequence[Backfill], running: Sequence[Future[None]], known: set[str], on_failure: OnFailure | None
) -> set[str]:
    """Report each failed backfill once, or raise its error. Returns the ids of those that failed."""
    failed: set[str] = set()
    for backfill, delivery in zip(backfills, running, strict=True):
        exc = delivery.exception()
        if exc is None:
            continue
        if on_failure is None or not isinstance(exc, RookeryError):
            raise described(backfill, exc) from exc
        if backfill.id not in known | failed:
            failed.add(backfill.id)
            on_failure(backfill, exc)
    return failed


def described(backfill: Backfill, exc: BaseException) -> BaseException:
    """A failure as RK3010, with the view and the tenant; any other exception, and RK6003, unchanged."""
    if not isinstance(exc, RookeryError) or exc.code is BUSY:
        return exc
    tenant = f" for tenant `{backfill.tenant}`" if backfill.tenant is not None else ""
    failed = f"the backfill of `{backfill.view}` failed{tenant}: "
    more = f"; {MORE_MEMORY}" if exceeds_own_memory(exc) else ""
    return RookeryError(
        APPLY_FAILED,
        failed + exc.message,
        hint=f"fix the pipe or the rows, then run the command again; delivered ranges are not repeated{more}",
        detail=exc.detail,
        public=failed + exc.public,
    )


def deliver_range(warehouse: Warehouse, backfill: Backfill, block_range: Range) -> None:
    """Insert one range as one block. Runs in a pool thread, without the insert lock.

    Raises RK3010 if a view behind the target has failed on the range and the target may have forgotten its token.
    """
    newest = _stored(backfill).get(block_range)
    if newest is not None and _newest_block(warehouse, backfill) - newest > RECOGNIZED_BLOCKS:
        raise RookeryError(
            APPLY_FAILED,
            "a view behind its target failed on rows that the target has, and it has stored too much since to "
            "recognize them; change the query of the pipe, so that its target is computed again",
        )
    rows = in_block_range(backfill.sql, *block_range)
    warehouse.execute(ddl.insert_block(backfill.target, backfill.columns, token_of(backfill, block_range), rows))


def _stored(backfill: Backfill) -> dict[Range, int]:
    """The target's newest block when a view behind it failed, by range."""
    return {(after, upto): newest for after, upto, newest in backfill.stored}


def _newest_block(warehouse: Warehouse, backfill: Backfill) -> int:
    """The newest block of the target. Later blocks make it forget the tokens of earlier ones."""
    # The engine lists the parts of a table only after loading it.
    warehouse.query(f"SELECT 1 FROM {backfill.target} LIMIT 0")
    newest = warehouse.query(
        "SELECT max(max_block_number) FROM system.parts "
        "WHERE active AND concat('`', database, '`.`', table, '`') = {t:String}",
        {"t": backfill.target},
    )
    return int(newest.rows[0][0])


def record_delivery(backfill: Backfill, block_range: Range, journal: Journal) -> Backfill:
    """Delete a range that was delivered from the record of a backfill. Returns what remains."""
    remaining = replace(backfill, ranges=tuple(r for r in backfill.ranges if r != block_range))
    if remaining.ranges:
        journal.record([remaining])
    else:
        journal.delete([remaining])
    return remaining
