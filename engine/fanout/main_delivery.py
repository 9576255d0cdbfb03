"""Delivers a landing datasource to its main group: the gateway's batches, and the blocks of other programs.

A delivery runs in the worker's thread, or in a thread that changes views and needs everything delivered first. Either
holds the worker's delivery lock.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog

from engine.errors import BUSY, CLOSED, RookeryError
from engine.fanout.batch_queue import BatchQueue
from engine.fanout.groups import ConsumerGroups
from engine.fanout.handover import CommittedBatch, Reach
from engine.fanout.log_steps import advanced, partly_delivered, range_of_batches
from engine.fanout.nest_writer import NestWriter
from engine.fanout.offsets import ConsumerGroup, LogRange, Offset, OffsetJournal
from engine.observe import metrics

log = structlog.get_logger("rookery.fanout")

HANDOVER_TIMEOUT_SECONDS = 5.0
"""How many seconds `drain` waits, with inserts blocked, for the gateway to hand over a batch that is in landing."""


class MainDelivery:
    """Delivers to the main group and records its offset. Every caller holds the delivery lock."""

    def __init__(self, nests: NestWriter, journal: OffsetJournal, groups: ConsumerGroups, queue: BatchQueue) -> None:
        self._nests = nests
        self._datasource = nests.datasource
        self._journal = journal
        self._groups = groups
        self._queue = queue
        self._closed = False
        self.last_poll = 0.0
        """Monotonic time of the last look at other programs' blocks; 0 if the next one is due now."""
        self.last_flush_seconds = 0.0
        """How long the last delivery of batches took."""

    def recover(self) -> None:
        """Resume where the last process stopped, and redeliver what it may have delivered in part."""
        main, own = self._journal.read(self._datasource)
        landing = self._nests.log()
        head, exists = landing.head(), landing.exists()

        def is_known(offset: Offset) -> bool:
            return exists and offset.at <= head

        if main is None or not is_known(main):
            # Either this is the first start, or the newest blocks were removed and the engine will use their numbers
            # again; or a push that was removing the datasource was killed.
            main = Offset.start(head)
            self._journal.write(self._datasource, main)
        copies = self._nests.copies()
        lagging: dict[Offset, set[str]] = {}
        for tenant, offset in own.items():
            if not copies.get(tenant, True):
                lagging.setdefault(offset if is_known(offset) else Offset.start(head), set()).add(tenant)
        # A view fills the copy, or the copy no longer exists, so this consumer does not deliver to it.
        self._journal.delete(self._datasource, [t for t in own if copies.get(t, True)])
        self._groups.restore(main, {t for t, view in copies.items() if not view} - own.keys(), lagging)
        # The delivery of a single batch is not recorded, so any unacknowledged batch may be delivered in part.
        blocks = landing.blocks(main.at) if exists else []
        for log_range in [main.log_range] if main.log_range else partly_delivered(blocks, main):
            self._groups.main.offset = self._groups.main.offset.began(log_range)
            self._deliver(log_range)

    def flush_all(self) -> None:
        """Deliver until no batch waits. Raises the database's error; the delivery can be repeated."""
        while self._queue.in_flight or self._queue.length or self._groups.main.offset.log_range is not None:
            self.flush_next()

    def flush_next(self) -> None:
        """Repeat the recorded range, if one was interrupted, then deliver the next batches. They are merged."""
        if self._groups.main.offset.log_range is not None:
            self._deliver(self._groups.main.offset.log_range)
        if batches := self._queue.take():
            self._flush(batches)

    def _flush(self, batches: list[CommittedBatch]) -> None:
        """Deliver batches to the main group, answer the callers that wait for them, and record the offset."""
        begun = time.monotonic()
        log_range = range_of_batches(self._groups.main.offset, [b.batch for b in batches])
        if len(batches) > 1:
            # Recorded first, so that a restart repeats the same range under the same token.
            self._journal.write(self._datasource, self._groups.main.offset.began(log_range))
        behind: set[str] = set()

        def choose(present: set[str]) -> set[str]:
            in_sync, lagging = self._groups.split(present)
            behind.update(lagging)
            return in_sync

        failed = self._nests.insert_batches(log_range, batches, choose)
        behind |= failed.keys()
        # Done before the offset is written, so that clients that wait for the rows do not have to wait for the write.
        for batch in batches:
            # It is done if an earlier attempt has answered the callers and then failed to record the offset.
            if not batch.reach.done():
                appends = self._nests.appends_with_rows_of(batch, behind) if behind else frozenset()
                batch.reach.set_result(Reach(frozenset(behind), appends))
        self._acknowledge(log_range, failed)
        self.last_flush_seconds = time.monotonic() - begun
        metrics.FANOUT_FLUSH_SECONDS.labels(self._datasource).observe(self.last_flush_seconds)
        # Done last: after an error above, the same batches are delivered again with the same token.
        self._queue.acknowledge()

    def _deliver(self, log_range: LogRange) -> None:
        """Deliver a range from landing to the main group."""
        self._acknowledge(
            log_range, self._nests.insert_range(log_range, lambda present: self._groups.split(present)[0])
        )

    def _acknowledge(self, log_range: LogRange, failed: Mapping[str, str]) -> None:
        """Move the offset past a range. Tenants whose tables refused it leave the group, and lag behind."""
        main = self._groups.main
        # A tenant may have been removed during the delivery.
        failed = {t: why for t, why in failed.items() if t in main.members}
        if failed:
            before = main.offset.began(log_range)
            # Recorded before the main offset moves on. After a kill at this point, the main group repeats the range,
            # and tables that have it drop the repetition.
            self._journal.write_lagging(self._datasource, failed, before)
            for tenant, why in failed.items():
                log.error("a tenant's tables refuse its rows", tenant=tenant, error=why)
            self._groups.remove(failed)
            self._groups.separate(ConsumerGroup(before, set(failed)), failed)
        main.offset = main.offset.finished(log_range)
        self._journal.write(self._datasource, main.offset)

    def poll(self, goal: int | None = None) -> None:
        """Advance the offset past acknowledged blocks, and deliver blocks that other programs inserted.

        Stops at block `goal` if one is given, and when batches are queued.
        """
        self.last_poll = time.monotonic()
        landing, main = self._nests.log(), self._groups.main
        while not self._closed:
            moved = advanced(landing.blocks(main.offset.at), main.offset, self._queue.uncommitted())
            if moved != main.offset:
                self._journal.write(self._datasource, moved)
                main.offset = moved
            if moved.log_range is None:
                return
            self._deliver(moved.log_range)
            if goal is not None and main.offset.at >= goal:
                return
            if self._queue.length:
                # Batches of the gateway precede other programs' rows. The next round continues to poll.
                self.last_poll = 0.0
                return

    def drain(self) -> int:
        """Deliver everything in landing. Returns its newest block. The view lock must be held.

        Raises RK6003 if the ingest thread does not hand over a batch in time, because it waits for the lock.
        """
        deadline = time.monotonic() + HANDOVER_TIMEOUT_SECONDS
        goal = self._nests.log().head()
        while not self._closed:
            self.flush_all()
            self.poll(goal)
            # Blocks that other programs insert in the meantime do not count; they can be delivered later.
            if not any(b.number <= goal for b in self._nests.log().blocks(self._groups.main.offset.at, 1)):
                return self._groups.main.offset.at
            # The ingest thread is about to hand over a batch that is in landing.
            if time.monotonic() > deadline:
                raise RookeryError(
                    BUSY, "a batch is still being stored", hint="try again", headers={"Retry-After": "1"}
                )
            time.sleep(0.001)
        raise RookeryError(CLOSED, "the server is stopping", headers={"Retry-After": "1"})

    def pending_tokens(self, tenant: str) -> set[str]:
        """Tokens of ranges that may be delivered to a tenant again."""
        if self._queue.in_flight and tenant in self._groups.main.members:
            return {range_of_batches(self._groups.main.offset, [b.batch for b in self._queue.in_flight]).token}
        return self._groups.pending_tokens(tenant)

    def close(self) -> None:
        """Let `poll` and `drain` end after the delivery that runs. Any thread may call this, without the lock."""
        self._closed = True
