"""The thread that delivers one landing datasource to the nests, in the order in which its batches were committed.

Tenants that have everything form the main group (`main_delivery`). The others, which are new or whose tables have
refused rows, form lagging groups with offsets of their own (`catch_up`). A tenant moves between them like this:

```text
             added                    caught up
   (none) ─────────▶ lagging group ─────────────▶ main group
                      ▲   │    ▲                     │
        retry after   │   │    └─────────────────────┘
        a pause       └───┘      its tables refuse rows
```

`batch_queue` shows the states of a batch. `docs/INGESTION.md` explains what is delivered, when offsets are written
and what is repeated after a kill; `docs/CONCURRENCY.md` explains which thread holds which lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from engine.errors import CLOSED, UNKNOWN_DATASOURCE, RookeryError
from engine.fanout.batch_queue import BatchQueue
from engine.fanout.catch_up import CatchUp
from engine.fanout.gathering import Gathering
from engine.fanout.groups import ConsumerGroups
from engine.fanout.handover import CommittedBatch
from engine.fanout.main_delivery import MainDelivery
from engine.fanout.nest_writer import NestWriter
from engine.fanout.offsets import ConsumerGroup, Offset, OffsetJournal
from engine.plan.view_lock import ConsumedUpTo
from engine.warehouse.errors import is_missing_table
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.fanout")

POLL_SECONDS = 1.0
"""Pause between two checks for blocks that other programs inserted."""
RETRY_PAUSE_SECONDS = 0.5
"""Pause after a delivery failed, for example because the database cannot be reached."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far the consumers of one datasource have read its log."""

    rows: int
    """Rows of batches that are queued or in flight."""
    seconds: float
    """Age of the oldest of these batches; 0 without any."""
    main: ConsumerGroup
    lagging: list[ConsumerGroup]
    """The groups that are behind it."""


class FanoutWorker(threading.Thread):
    """Schedules the deliveries of one datasource.

    Other threads call the methods above `run`; `run` and those below it run in this thread.
    """

    def __init__(self, workspace: Workspace, datasource: str, journal: OffsetJournal, pool: Executor) -> None:
        super().__init__(name=f"fan-out {datasource}", daemon=True)
        self.datasource = datasource
        self._journal = journal
        self._wake = threading.Condition()
        """Protects the queue and the groups, and wakes this thread. It is a leaf lock: the database is not called
        while it is held. It is reentrant, so a method that holds it may call others that take it.
        """
        self._queue = BatchQueue(self._wake)
        self._groups = ConsumerGroups(self._wake)
        self._nests = NestWriter(workspace, datasource, pool)
        self._main = MainDelivery(self._nests, journal, self._groups, self._queue)
        self._catch_up = CatchUp(self._nests, journal, self._groups, self._main)
        self._closed = False
        self.delivery_lock = threading.RLock()
        """Held during a delivery, and by changes to views together with the insert lock."""

    @property
    def lagging(self) -> list[ConsumerGroup]:
        """The groups of tenants that are behind."""
        return self._groups.lagging

    # --- called by ingest threads -----------------------------------------------------------------

    def begin_commit(self, batch: str) -> None:
        """Announce a batch, so that its block in landing is not mistaken for another program's insert."""
        self._queue.announce(batch)

    def abort_commit(self, batch: str) -> None:
        """Retract an announced batch."""
        self._queue.retract(batch)

    def committed(self, batch: CommittedBatch) -> None:
        """Take over a batch that is in landing, with its stage."""
        self._queue.put(batch)

    # --- called when resources change, and by commands --------------------------------------------

    def recover(self) -> None:
        """Before the thread starts: resume where the last process stopped. The view lock must be held."""
        self._main.recover()

    def add_tenants(self, tenants: Sequence[str], at: int = 0) -> None:
        """Deliver the log to tenants that have everything up to block `at`; the whole log with 0."""
        offset = Offset.start(at)
        self._journal.write_lagging(self.datasource, tenants, offset)
        self._groups.add(tenants, offset)

    def remove_tenants(self, tenants: Sequence[str]) -> None:
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
        """Deliver everything in landing to the main group, in the calling thread. Returns landing's newest block.

        The view lock must be held. Raises RK6003 if the ingest thread does not hand over a batch in time, because it
        waits for the lock.
        """
        return self._main.drain()

    def pending_tokens(self, tenant: str) -> set[str]:
        """Tokens of ranges that may be delivered to a tenant again. The delivery lock must be held."""
        return self._main.pending_tokens(tenant)

    def consumed(self, tenants: Collection[str]) -> dict[str, ConsumedUpTo]:
        """How much of the log each tenant's nest is known to have received. The view lock must be held."""
        if self._groups.main.members.intersection(tenants):
            # Acknowledged batches after the offset are not a block number, so the main group must have everything.
            self.drain()
        main = ConsumedUpTo(self._groups.main.offset.at)
        own = {t: ConsumedUpTo(g.offset.at, g.offset.acked) for g in self.lagging for t in g.members}
        members = self._groups.main.members
        return {t: own.get(t) or (main if t in members else ConsumedUpTo(0)) for t in tenants}

    def close(self) -> None:
        """Ask the thread to end. It completes a running delivery first."""
        with self._wake:
            self._closed = True
            self._main.close()
            self._wake.notify_all()

    def position(self) -> Position:
        """The offsets of all groups at this moment."""
        # One lock for both: between them, a batch could be acknowledged and the offset move.
        with self._wake:
            return Position(*self._queue.backlog(), *self._groups.copy())

    # --- the thread -------------------------------------------------------------------------------

    def run(self) -> None:
        """Until closed, wait for work, let batches accumulate, and deliver them. Failed work is repeated."""
        while not self._closed:
            try:
                self._wait()
                self._gather()
                with self.delivery_lock, self._unless_removed():
                    self._turn()
            except RookeryError as exc:
                if self._closed or exc.code is CLOSED:
                    break
                if exc.code is UNKNOWN_DATASOURCE:
                    # The datasource is being removed, and this worker is about to be closed.
                    with self._wake:
                        self._wake.wait(RETRY_PAUSE_SECONDS)
                    continue
                log.error("fan-out failed", datasource=self.datasource, error=exc)
                time.sleep(RETRY_PAUSE_SECONDS)
            except Exception:
                log.exception("fan-out failed", datasource=self.datasource)
                time.sleep(RETRY_PAUSE_SECONDS)
        self._queue.abandon()

    @contextmanager
    def _unless_removed(self) -> Iterator[None]:
        """Raise RK5005 instead of the database's error if landing's table no longer exists."""
        try:
            yield
        except RookeryError as exc:
            if is_missing_table(exc) and not self._nests.log().exists():
                raise RookeryError(UNKNOWN_DATASOURCE, f"the table of `{self.datasource}` no longer exists") from exc
            raise

    def _wait(self) -> None:
        """Wait for a batch, the next poll, or the next attempt of a lagging group."""
        with self._wake:
            pause = min(POLL_SECONDS - (time.monotonic() - self._main.last_poll), self._groups.next_due())
            # After a failure, batches are in flight: they are repeated without waiting.
            if not self._queue.length and not self._queue.in_flight and pause > 0 and not self._closed:
                self._wake.wait(pause)

    def _gather(self) -> None:
        """After a slow delivery, wait for batches that arrive in quick succession: they share the next one."""
        with self._wake:
            gathering = Gathering(self._main.last_flush_seconds)
            # Batches in flight are those of a failed delivery, which is repeated without waiting.
            while self._queue.length and not self._queue.in_flight and not self._closed:
                remaining = gathering.remaining(self._queue.length)
                if remaining <= 0:
                    break
                self._wake.wait(remaining)

    def _turn(self) -> None:
        """One round: the next batches, then other programs' blocks, then lagging groups until a batch arrives."""
        if self._closed:
            return
        self._main.flush_next()
        if time.monotonic() - self._main.last_poll >= POLL_SECONDS:
            self._main.poll()
        for group in self._groups.due():
            self._catch_up.step(group)
            # The main group comes first, because clients wait for its batches.
            if self._queue.length:
                break
