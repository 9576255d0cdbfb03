"""The thread that delivers one landing datasource to the nests, in the order in which its batches were committed.

Tenants that have everything form the main group. The others, which are new or whose tables have refused rows, form
lagging groups with offsets of their own. A tenant moves between them like this:

```text
             added                    caught up
   (none) ─────────▶ lagging group ─────────────▶ main group
                      ▲   │    ▲                     │
        retry after   │   │    └─────────────────────┘
        a pause       └───┘      its tables refuse rows
```

A batch moves like this. `_queue` and `_in_flight` hold batches in the states in brackets:

```text
   begin_commit ──▶ announced ──committed──▶ [queued] ──▶ [in flight] ──▶ acknowledged
                        │                                   │     ▲
                        └──abort_commit──▶ (forgotten)      └─────┘ the database failed: same range, same token
```

`docs/INGESTION.md` explains what is delivered, when offsets are written and what is repeated after a kill;
`docs/CONCURRENCY.md` explains which thread holds which lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import structlog

from engine import observe
from engine.errors import BUSY, CLOSED, UNKNOWN_DATASOURCE, RookeryError
from engine.fanout.delivery import Delivery
from engine.fanout.groups import ConsumerGroups
from engine.fanout.handover import CommittedBatch
from engine.fanout.landing_log import GATEWAY_BATCH_PREFIX, MAX_BLOCKS, Block, LandingLog, nest_copies
from engine.fanout.offsets import ConsumerGroup, LogRange, Offset, OffsetJournal
from engine.plan.view_lock import ConsumedUpTo
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.fanout")

POLL_SECONDS = 1.0
MAX_DELIVERY_ROWS = 1_000_000
MAX_CATCH_UP_ROWS = 250_000
"""Number of rows in a range for a lagging group. It is small, because the main group waits in the meantime."""
MAX_STAGED_BYTES = 256 << 20
"""Bytes of queued batches whose stages are kept. Rows of later batches are read from landing."""
HANDOVER_TIMEOUT_SECONDS = 5.0
"""How many seconds `drain` waits, with inserts blocked, for the gateway to hand over a batch that is in landing."""
SLOW_FLUSH_SECONDS = 0.5
"""After a flush that took longer than this, the next one waits for more batches, so that they share a flush."""
COALESCE_QUIET_SECONDS = 0.05
COALESCE_MAX_SHARE = 0.25
"""The wait ends when no batch has arrived for the quiet time, or after this share of the last flush's duration."""
MAX_REDELIVERED_BATCHES = 8
"""After a crash, redeliver at most this many of the oldest unacknowledged batches. Any of them may be partly
delivered: a batch whose INSERT failed after its rows were stored is delivered out of order."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far the consumers of one datasource have read its log."""

    rows: int
    """Rows of batches that are queued or in flight."""
    seconds: float
    """Age of the oldest of these batches; 0 without any."""
    main: ConsumerGroup
    lagging: list[ConsumerGroup]


class FanoutWorker(threading.Thread):
    """Delivers one datasource. Other threads call the methods above `run`; the others run in this thread."""

    def __init__(self, workspace: Workspace, datasource: str, journal: OffsetJournal, pool: Executor) -> None:
        super().__init__(name=f"fan-out {datasource}", daemon=True)
        self.datasource = datasource
        self._workspace = workspace
        self._journal = journal
        self._delivery = Delivery(workspace, datasource, pool)
        self._wake = threading.Condition()
        self._groups = ConsumerGroups(self._wake)
        self._queue: list[CommittedBatch] = []
        self._in_flight: list[CommittedBatch] = []
        """Batches of the current flush, or of one that failed and is repeated."""
        self._announced: set[str] = set()
        """Batches whose INSERT into landing is running."""
        self._staged_bytes = 0
        self._closed = False
        self._last_poll = 0.0
        self._last_flush_seconds = 0.0
        self._busy_since: float | None = None
        """When the oldest batch of the current flush was stored, in seconds since 1970."""
        self.delivery_lock = threading.RLock()
        """Held during a delivery, and by changes of views together with the insert lock."""

    @property
    def main(self) -> ConsumerGroup:
        """The group of tenants that have everything up to the newest delivered batch."""
        return self._groups.main

    @property
    def lagging(self) -> list[ConsumerGroup]:
        """The groups of tenants that are behind."""
        return self._groups.lagging

    # --- called by other threads ------------------------------------------------------------------

    def begin_commit(self, batch: str) -> None:
        """Announce a batch, so that its block in landing is not mistaken for another program's insert."""
        with self._wake:
            self._announced.add(batch)

    def abort_commit(self, batch: str) -> None:
        """Retract an announced batch."""
        with self._wake:
            self._announced.discard(batch)

    def committed(self, batch: CommittedBatch) -> None:
        """Queue a batch, with its stage. Beyond MAX_STAGED_BYTES, its rows are read from landing instead."""
        with self._wake:
            self._announced.discard(batch.batch)
            keep = self._staged_bytes + batch.size <= MAX_STAGED_BYTES
            self._queue.append(batch if keep else replace(batch, table="", size=0))
            self._staged_bytes += batch.size if keep else 0
            self._wake.notify_all()
        if not keep:
            batch.release()

    def start_reader(self, tenants: Sequence[str], at: int = 0) -> None:
        """Deliver the log to tenants that have everything up to block `at`; the whole log with 0."""
        offset = Offset.start(at)
        self._journal.write_lagging(self.datasource, tenants, offset)
        self._groups.add(tenants, offset)

    def forget(self, tenants: Sequence[str]) -> None:
        """Stop delivering to tenants and delete their offsets."""
        self._groups.remove(tenants)
        self._journal.delete(self.datasource, tenants)

    def retry_now(self) -> None:
        """Retry lagging groups now."""
        self._groups.retry_now()

    def wait_for(self, tenants: Iterable[str], timeout_seconds: float, progress: Callable[[int, int], None]) -> None:
        """Wait until tenants are in the main group. Raises RK3010 if the tables of one of them refuse its rows."""
        self._groups.wait_for(tenants, timeout_seconds, progress, lambda: self._closed)

    def drain(self) -> int:
        """Deliver everything in landing to the main group. Returns its newest block. The view lock must be held.

        Raises RK6003 if the ingest thread does not hand over a batch in time, because it waits for the lock.
        """
        deadline = time.monotonic() + HANDOVER_TIMEOUT_SECONDS
        goal = self._delivery.log().head()
        while not self._closed:
            self._flush_all()
            self._poll(goal)
            # Blocks that other programs insert in the meantime do not count; they can be delivered later.
            if not any(b.number <= goal for b in self._delivery.log().blocks(self.main.offset.at, 1)):
                return self.main.offset.at
            # The ingest thread is about to hand over a batch that is in landing.
            if time.monotonic() > deadline:
                raise RookeryError(
                    BUSY, "a batch is still being stored", hint="try again", headers={"Retry-After": "1"}
                )
            time.sleep(0.001)
        raise RookeryError(CLOSED, "the server is stopping", headers={"Retry-After": "1"})

    def pending_tokens(self, tenant: str) -> set[str]:
        """Tokens of ranges that may be delivered to a tenant again. The delivery lock must be held."""
        if self._in_flight and tenant in self.main.members:
            return {self._range_of(self._in_flight).token}
        return self._groups.pending_tokens(tenant)

    def consumed(self, tenants: Collection[str]) -> dict[str, ConsumedUpTo]:
        """How much of the log each tenant's nest is known to have received. The view lock must be held."""
        if self.main.members.intersection(tenants):
            self.drain()
        main = ConsumedUpTo(self.main.offset.at)
        own = {t: ConsumedUpTo(g.offset.at, g.offset.acked) for g in self.lagging for t in g.members}
        return {t: own.get(t) or (main if t in self.main.members else ConsumedUpTo(0)) for t in tenants}

    def close(self) -> None:
        """Ask the thread to end. It completes a running delivery first."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def position(self) -> Position:
        """The offsets of all groups at this moment."""
        with self._wake:
            waiting = (*self._in_flight, *self._queue)
            oldest = min((b.at for b in waiting), default=None)
            since = min((s for s in (oldest, self._busy_since) if s is not None), default=None)
            seconds = round(max(0.0, time.time() - since), 3) if since else 0.0
            return Position(sum(b.rows for b in waiting), seconds, *self._groups.copy())

    # --- the thread ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until closed, wait for work, let batches accumulate, and deliver them."""
        while not self._closed:
            try:
                self._wait()
                self._gather()
                with self.delivery_lock:
                    self._turn()
            except RookeryError as exc:
                if self._closed or exc.code is CLOSED:
                    break
                if exc.code is UNKNOWN_DATASOURCE:
                    # The datasource is being removed, and this worker is about to be closed.
                    time.sleep(0.1)
                    continue
                log.error("fan-out failed", datasource=self.datasource, error=exc)
                time.sleep(0.5)
            except Exception:
                log.exception("fan-out failed", datasource=self.datasource)
                time.sleep(0.5)
        for batch in (*self._in_flight, *self._queue):
            if not batch.visible.done():
                batch.visible.set_result(False)
            if batch.table:
                batch.release()

    def _wait(self) -> None:
        with self._wake:
            pause = min(POLL_SECONDS - (time.monotonic() - self._last_poll), self._groups.next_due())
            if not self._queue and not self._in_flight and pause > 0 and not self._closed:
                self._wake.wait(pause)

    def _gather(self) -> None:
        """After a slow flush, wait for batches that arrive in quick succession, so that they share the next one."""
        began = grew = time.monotonic()
        seen = 0
        with self._wake:
            while (
                self._last_flush_seconds >= SLOW_FLUSH_SECONDS
                and self._queue
                and not self._in_flight
                and not self._closed
            ):
                now = time.monotonic()
                if len(self._queue) > seen:
                    seen, grew = len(self._queue), now
                latest = began + self._last_flush_seconds * COALESCE_MAX_SHARE
                remaining = min(grew + COALESCE_QUIET_SECONDS, latest) - now
                if remaining <= 0:
                    break
                self._wake.wait(remaining)

    def _turn(self) -> None:
        """One round: the next batches, then other programs' blocks, then lagging groups until a batch arrives."""
        if self._closed:
            return
        self._flush_next()
        if time.monotonic() - self._last_poll >= POLL_SECONDS:
            self._poll()
        for group in self._groups.due():
            self._step(group)
            if self._queue:
                break

    def _flush_all(self) -> None:
        while self._in_flight or self._queue or self.main.offset.log_range is not None:
            self._flush_next()

    def _flush_next(self) -> None:
        if self.main.offset.log_range is not None:
            self._deliver_main(self.main.offset.log_range)
        if batches := self._next_batches():
            self._flush(batches)

    def recover(self) -> None:
        """Resume where the last process stopped, and redeliver what it may have delivered in part."""
        main, own = self._journal.read(self.datasource)
        reader = self._delivery.log()
        head = reader.head()
        if main is None or main.at > head:
            # Either this is the first start, or the newest blocks were removed and the engine will use their numbers
            # again.
            main = Offset.start(head)
            self._journal.write(self.datasource, main)
        nests = nest_copies(self._workspace, self.datasource)
        lagging: dict[Offset, set[str]] = {}
        for tenant, offset in own.items():
            if not nests.get(tenant, True):
                lagging.setdefault(offset if offset.at <= head else Offset.start(head), set()).add(tenant)
        self._journal.delete(self.datasource, [t for t in own if nests.get(t, True)])
        self._groups.begin(main, {t for t, view in nests.items() if not view} - own.keys(), lagging)
        for log_range in [main.log_range] if main.log_range else self._partly_delivered(reader, main):
            self.main.offset = self.main.offset.began(log_range)
            self._deliver_main(log_range)

    def _partly_delivered(self, reader: LandingLog, main: Offset) -> list[LogRange]:
        """The oldest unacknowledged batches, one range for each. Any of them may be partly delivered."""
        own = dict.fromkeys(b.batch for b in reader.blocks(main.at) if b.batch.startswith(GATEWAY_BATCH_PREFIX))
        return [LogRange(b, main.at, batches=(b,)) for b in own if b not in main.acked][:MAX_REDELIVERED_BATCHES]

    def _uncommitted(self) -> set[str]:
        """Batches that are announced, queued or in flight. Call this after reading landing, not before.

        In the other order, a batch that is committed in between would look like another program's insert.
        """
        with self._wake:
            return {*self._announced, *(b.batch for b in (*self._queue, *self._in_flight))}

    # --- the main group ---------------------------------------------------------------------------

    def _next_batches(self) -> list[CommittedBatch]:
        """The batches of the next flush. After a failure they are the same batches, because their token identifies
        exactly these rows.
        """
        with self._wake:
            batches, rows = list(self._in_flight), 0
            if not batches:
                while self._queue and (not batches or rows + self._queue[0].rows <= MAX_DELIVERY_ROWS):
                    batches.append(self._queue.pop(0))
                    rows += batches[-1].rows
            self._busy_since = batches[0].at if batches else None
        return batches

    def _range_of(self, batches: Sequence[CommittedBatch]) -> LogRange:
        names = tuple(b.batch for b in batches)
        token = names[0] if len(names) == 1 else f"f:{self.main.offset.epoch}:{names[0]}:{len(names)}"
        return LogRange(token, self.main.offset.at, batches=names)

    def _flush(self, batches: list[CommittedBatch]) -> None:
        """Deliver batches to the main group. Several are merged.

        A range of several batches is recorded first, so that a restart repeats the same range. A range of one batch
        does not need a record, because the batch's id is its token.
        """
        self._in_flight = batches
        begun = time.monotonic()
        log_range = self._range_of(batches)
        if len(batches) > 1:
            self._journal.write(self.datasource, self.main.offset.began(log_range))
        behind: set[str] = set()

        def choose(present: set[str]) -> set[str]:
            in_sync, lagging = self._groups.among(present)
            behind.update(lagging)
            return in_sync

        failed = self._delivery.push(log_range, batches, choose)
        behind |= failed.keys()
        # Done before the offset is written, so that clients that wait for the rows do not have to wait for the write.
        for batch in batches:
            if not batch.visible.done():
                batch.visible.set_result(not behind or not self._delivery.has_rows_of(batch, behind))
        self._ack_main(log_range, failed)
        self._last_flush_seconds = time.monotonic() - begun
        observe.FANOUT_FLUSH_SECONDS.labels(self.datasource).observe(self._last_flush_seconds)
        self._in_flight = []
        for batch in batches:
            if batch.table:
                batch.release()
        with self._wake:
            self._staged_bytes -= sum(b.size for b in batches)
            self._busy_since = None

    def _deliver_main(self, log_range: LogRange) -> None:
        self._ack_main(log_range, self._delivery.pull(log_range, lambda present: self._groups.among(present)[0]))

    def _ack_main(self, log_range: LogRange, failed: Mapping[str, str]) -> None:
        """Acknowledge a range. Tenants whose tables refused it leave the main group, with the offset before it."""
        failed = {t: why for t, why in failed.items() if t in self.main.members}
        if failed:
            before = self.main.offset.began(log_range)
            self._journal.write_lagging(self.datasource, failed, before)
            for tenant, why in failed.items():
                log.error("a tenant's tables refuse its rows", tenant=tenant, error=why)
            self._groups.remove(failed)
            self._groups.part(ConsumerGroup(before, set(failed)), failed)
        self.main.offset = self.main.offset.finished(log_range)
        self._journal.write(self.datasource, self.main.offset)

    def _poll(self, goal: int | None = None) -> None:
        """Advance the main offset past acknowledged blocks, and deliver blocks that other programs inserted.

        Stops at block `goal` if one is given, and when batches are queued.
        """
        self._last_poll = time.monotonic()
        reader = self._delivery.log()
        while not self._closed:
            offset = self.main.offset
            blocks = reader.blocks(offset.at)
            step = _advance(blocks, offset, self._uncommitted())
            moved = step.offset
            if step.foreign:
                last = step.foreign[-1].number
                without = tuple(b.batch for b in step.acked if b.number < last)
                token = f"b:{moved.epoch}:{step.foreign[0].number}:{last}"
                moved = moved.began(LogRange(token, moved.at, last, without=without))
            if moved != offset:
                self._journal.write(self.datasource, moved)
                self.main.offset = moved
            if moved.log_range is None:
                return
            self._deliver_main(moved.log_range)
            if goal is not None and self.main.offset.at >= goal:
                return
            if self._queue:
                # Batches of the gateway precede other programs' rows. The next round continues to poll.
                self._last_poll = 0.0
                return

    # --- lagging groups ---------------------------------------------------------------------------

    def _step(self, group: ConsumerGroup) -> None:
        """Deliver one range to a lagging group, or merge the group into the main one if it has caught up."""
        if self.main.offset.acked and group.offset.at >= self.main.offset.at:
            self._poll()
        log_range = group.offset.log_range or self._next_range(group)
        if log_range is None:
            self._join(group)
            return
        if group.offset.log_range is None:
            group.offset = group.offset.began(log_range)
            self._journal.write_lagging(self.datasource, group.members, group.offset)
        failed = self._delivery.pull_for(log_range, set(group.members))
        self._groups.part(group, {t: why for t, why in failed.items() if t in group.members})
        if not group.members:
            return
        group.offset = group.offset.finished(log_range)
        group.error, group.tries = "", 0
        self._journal.write_lagging(self.datasource, group.members, group.offset)
        if group.offset.at == self.main.offset.at:
            # Done immediately, because the next flush would advance the main group again.
            self._join(group)

    def _next_range(self, group: ConsumerGroup) -> LogRange | None:
        """The next range that the main group has received and this group has not, without blocks that it already
        has.
        """
        offset, goal = group.offset, self.main.offset.at
        if offset.at >= goal:
            if offset.acked:
                # Otherwise the offset would never pass acknowledged batches whose rows a TTL has removed from
                # landing.
                later = self._delivery.log().blocks(offset.at)
                still_there = offset.acked & {b.batch for b in later} if len(later) < MAX_BLOCKS else offset.acked
                group.offset = replace(offset, acked=still_there)
            return None
        blocks, rows = list[Block](), 0
        for block in self._delivery.log().blocks(offset.at):
            missing = 0 if block.batch in offset.acked else block.rows
            if block.number > goal or (rows and rows + missing > MAX_CATCH_UP_ROWS):
                break
            rows += missing
            blocks.append(block)
        acked = tuple(b.batch for b in blocks if b.batch in offset.acked)
        upto = blocks[-1].number if blocks else goal
        if not rows:
            group.offset = replace(offset, at=upto, acked=offset.acked - set(acked))
            return self._next_range(group)
        return LogRange(f"t:{offset.epoch}:{offset.at}:{upto}", offset.at, upto, without=acked)

    def _join(self, group: ConsumerGroup) -> None:
        """Merge a group with the offset of the main group into it."""
        main = self.main.offset
        if main.acked or group.offset.acked or group.offset.at != main.at:
            group.due = time.monotonic() + 0.02
            return
        self._journal.delete(self.datasource, group.members)
        self._groups.join(group)


@dataclass(frozen=True, slots=True)
class _Advance:
    """What the blocks after an offset mean for that offset."""

    offset: Offset
    """The offset, moved past acknowledged blocks."""
    foreign: list[Block]
    """Blocks of other programs after it, to be delivered."""
    acked: list[Block]
    """Acknowledged blocks between the foreign ones."""


def _advance(blocks: Sequence[Block], offset: Offset, in_flight: set[str]) -> _Advance:
    """Move an offset past acknowledged blocks, and collect foreign ones up to the first block `in_flight`."""
    at, pending, foreign, acked, rows = offset.at, set(offset.acked), list[Block](), list[Block](), 0
    for block in blocks:
        if block.batch in in_flight:
            break
        if block.batch in pending:
            if foreign:
                acked.append(block)
                continue
            pending.discard(block.batch)
            at = block.number
        elif foreign and rows + block.rows > MAX_DELIVERY_ROWS:
            break
        else:
            foreign.append(block)
            rows += block.rows
    else:
        if len(blocks) < MAX_BLOCKS:
            # Acknowledged batches that are not among the blocks no longer have rows in landing.
            pending.intersection_update(b.batch for b in blocks)
    return _Advance(replace(offset, at=at, acked=frozenset(pending)), foreign, acked)
