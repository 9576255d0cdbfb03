"""The routed fan-out of one landing datasource: its batches in their order, and whatever else has landed.

There is one main cohort, which keeps up with landing, and others for tenants that are new or have failed. What is
delivered, when it is written down and what is repeated after a kill is explained in `docs/INGESTION.md`.
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
from engine.fanout.landing_log import GATEWAY_BATCH_PREFIX, MAX_BLOCKS, Block, LandingLog, copies
from engine.fanout.offsets import ConsumerGroup, LogRange, Offset, OffsetJournal
from engine.plan.view_lock import ConsumedUpTo
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.fanout")

POLL_SECONDS = 1.0
MAX_DELIVERY_ROWS = 1_000_000
MAX_CATCH_UP_ROWS = 250_000
"""Rows of a piece by which others catch up, small enough that nobody who keeps up waits for it."""
MAX_STAGED_BYTES = 256 << 20
"""Bytes of batches whose stages are kept for the push; later ones are read from landing again."""
HANDOVER_TIMEOUT_SECONDS = 5.0
"""Seconds to wait, with all inserts held back, for one that has landed to be handed over."""
SLOW_FLUSH_SECONDS = 0.5
"""Seconds of a flush from which on the next one waits for batches that come in quick succession."""
COALESCE_QUIET_SECONDS = 0.05
COALESCE_MAX_SHARE = 0.25
"""It waits until none has come for so many seconds, and no longer than this share of what the last flush took."""
MAX_REDELIVERED_BATCHES = 8
"""Batches of which a killed process may have delivered one in part. They are flushed in their order, but one whose
INSERT failed when it was in landing already is left for later."""


@dataclass(frozen=True, slots=True)
class Position:
    """Rows of batches in hand and the age of the oldest in seconds; who keeps up, and who does not."""

    rows: int
    seconds: float
    main: ConsumerGroup
    lagging: list[ConsumerGroup]


class FanoutWorker(threading.Thread):
    """One datasource's fan-out."""

    def __init__(self, workspace: Workspace, datasource: str, journal: OffsetJournal, hands: Executor) -> None:
        super().__init__(name=f"fan-out {datasource}", daemon=True)
        self.datasource = datasource
        self._workspace = workspace
        self._journal = journal
        self._delivery = Delivery(workspace, datasource, hands)
        self._wake = threading.Condition()
        self._standing = ConsumerGroups(self._wake)
        self._queue: list[CommittedBatch] = []
        self._again: list[CommittedBatch] = []
        self._announced: set[str] = set()
        self._staged = 0
        self._closed = False
        self._polled = 0.0
        self._took = 0.0
        self._busy_since: float | None = None
        self.held = threading.RLock()
        """Held while anything is delivered; whoever changes views holds it with the fence."""

    @property
    def main(self) -> ConsumerGroup:
        """The tenants that keep up."""
        return self._standing.main

    @property
    def lagging(self) -> list[ConsumerGroup]:
        """The tenants that do not."""
        return self._standing.lagging

    # --- what others call ------------------------------------------------------------------------------------------

    def announce(self, batch: str) -> None:
        with self._wake:
            self._announced.add(batch)

    def withdraw(self, batch: str) -> None:
        with self._wake:
            self._announced.discard(batch)

    def landed(self, batch: CommittedBatch) -> None:
        """Take a batch over. Beyond what stages may hold, its rows are read from landing later."""
        with self._wake:
            self._announced.discard(batch.batch)
            keep = self._staged + batch.size <= MAX_STAGED_BYTES
            self._queue.append(batch if keep else replace(batch, table="", size=0))
            self._staged += batch.size if keep else 0
            self._wake.notify_all()
        if not keep:
            batch.release()

    def start_reader(self, tenants: Sequence[str], at: int = 0) -> None:
        """Let tenants read the log from behind a block up to which they have everything; from the beginning at 0."""
        cursor = Offset.start(at)
        self._journal.write_own(self.datasource, tenants, cursor)
        self._standing.add(tenants, cursor)

    def forget(self, tenants: Sequence[str]) -> None:
        """Deliver nothing more to tenants."""
        self._standing.remove(tenants)
        self._journal.strike(self.datasource, tenants)

    def retry_now(self) -> None:
        """Try again at once what is waiting for its next try."""
        self._standing.retry_now()

    def wait_for(self, tenants: Iterable[str], patience: float, progress: Callable[[int, int], None]) -> None:
        """Wait until tenants have caught up. Raises RK3010 with what keeps one of them from it."""
        self._standing.wait_for(tenants, patience, progress, lambda: self._closed)

    def settled(self) -> int:
        """The newest block, which all members have with all before it. The fence must be held.

        Raises RK6003 when a batch is in landing that its gateway does not hand over: it waits for the fence itself.
        """
        deadline = time.monotonic() + HANDOVER_TIMEOUT_SECONDS
        goal = self._delivery.log().head()
        while not self._closed:
            self._flush_all()
            self._poll(goal)
            # What other programs have inserted since is left for later.
            if not any(b.number <= goal for b in self._delivery.log().blocks(self.main.cursor.at, 1)):
                return self.main.cursor.at
            # A batch is in landing and about to be handed over.
            if time.monotonic() > deadline:
                raise RookeryError(BUSY, "a batch is not stored yet", hint="try again", headers={"Retry-After": "1"})
            time.sleep(0.001)
        raise RookeryError(CLOSED, "the server is stopping", headers={"Retry-After": "1"})

    def in_doubt(self, tenant: str) -> set[str]:
        """Tokens of what will be delivered to a tenant again. The lane must be held."""
        if self._again and tenant in self.main.members:
            return {self._piece(self._again).token}
        return self._standing.in_doubt(tenant)

    def passed(self, tenants: Collection[str]) -> dict[str, ConsumedUpTo]:
        """How much of the log each tenant's nest has received for sure. The lane must be held, and so the fence."""
        if self.main.members.intersection(tenants):
            self.settled()
        lagging = {t: c.cursor for c in self.lagging for t in c.members}
        main = ConsumedUpTo(self.main.cursor.at)
        own = {t: ConsumedUpTo(c.at, c.done) for t, c in lagging.items()}
        return {t: own.get(t) or (main if t in self.main.members else ConsumedUpTo(0)) for t in tenants}

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def position(self) -> Position:
        """Where everybody stands at this moment."""
        with self._wake:
            waiting = (*self._again, *self._queue)
            oldest = min((b.at for b in waiting), default=None)
            since = min((s for s in (oldest, self._busy_since) if s is not None), default=None)
            seconds = round(max(0.0, time.time() - since), 3) if since else 0.0
            return Position(sum(b.rows for b in waiting), seconds, *self._standing.copy())

    # --- the thread ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while not self._closed:
            try:
                self._wait()
                self._gather()
                with self.held:
                    self._turn()
            except RookeryError as exc:
                if self._closed or exc.code is CLOSED:
                    break
                if exc.code is UNKNOWN_DATASOURCE:
                    # It is being removed, and this lane with it.
                    time.sleep(0.1)
                    continue
                log.error("fan-out failed", datasource=self.datasource, error=exc)
                time.sleep(0.5)
            except Exception:
                log.exception("fan-out failed", datasource=self.datasource)
                time.sleep(0.5)
        for batch in (*self._again, *self._queue):
            if not batch.visible.done():
                batch.visible.set_result(False)
            if batch.table:
                batch.release()

    def _wait(self) -> None:
        with self._wake:
            pause = min(POLL_SECONDS - (time.monotonic() - self._polled), self._standing.next_due())
            if not self._queue and not self._again and pause > 0 and not self._closed:
                self._wake.wait(pause)

    def _gather(self) -> None:
        """Let batches that come in quick succession share a flush, where one is long because of its many tenants."""
        began = grew = time.monotonic()
        seen = 0
        with self._wake:
            while self._took >= SLOW_FLUSH_SECONDS and self._queue and not self._again and not self._closed:
                now = time.monotonic()
                if len(self._queue) > seen:
                    seen, grew = len(self._queue), now
                left = min(grew + COALESCE_QUIET_SECONDS, began + self._took * COALESCE_MAX_SHARE) - now
                if left <= 0:
                    break
                self._wake.wait(left)

    def _turn(self) -> None:
        if self._closed:
            return
        self._flush_next()
        if time.monotonic() - self._polled >= POLL_SECONDS:
            self._poll()
        for group in self._standing.due():
            self._step(group)
            if self._queue:
                break

    def _flush_all(self) -> None:
        while self._again or self._queue or self.main.cursor.piece is not None:
            self._flush_next()

    def _flush_next(self) -> None:
        if self.main.cursor.piece is not None:
            self._deliver_main(self.main.cursor.piece)
        batches = self._take()
        if batches:
            self._flush(batches)

    def recover(self) -> None:
        """Take up where the last process stopped: deliver again what it may have delivered in part."""
        main, own = self._journal.read(self.datasource)
        reader = self._delivery.log()
        head = reader.head()
        if main is None or main.at > head:
            # It is the first time; or the newest blocks were taken away, and their numbers will come again.
            main = Offset.start(head)
            self._journal.write(self.datasource, main)
        nests = copies(self._workspace, self.datasource)
        lagging: dict[Offset, set[str]] = {}
        for tenant, cursor in own.items():
            if not nests.get(tenant, True):
                lagging.setdefault(cursor if cursor.at <= head else Offset.start(head), set()).add(tenant)
        self._journal.strike(self.datasource, [t for t in own if nests.get(t, True)])
        self._standing.begin(main, {t for t, view in nests.items() if not view} - own.keys(), lagging)
        for piece in [main.piece] if main.piece else self._doubtful(reader, main):
            self.main.cursor = self.main.cursor.began(piece)
            self._deliver_main(piece)

    def _doubtful(self, reader: LandingLog, main: Offset) -> list[LogRange]:
        """The batches of which one was perhaps under way, each by itself: the oldest that are not done."""
        ours = dict.fromkeys(b.batch for b in reader.blocks(main.at) if b.batch.startswith(GATEWAY_BATCH_PREFIX))
        return [LogRange(b, main.at, batches=(b,)) for b in ours if b not in main.done][:MAX_REDELIVERED_BATCHES]

    def _in_hand(self) -> set[str]:
        """Batches that are being stored or have been handed over. To be asked after landing has been read."""
        with self._wake:
            return {*self._announced, *(b.batch for b in (*self._queue, *self._again))}

    # --- keeping up ------------------------------------------------------------------------------------------------

    def _take(self) -> list[CommittedBatch]:
        """The batches of the next flush; after a failure the same ones, so that their token means the same rows."""
        with self._wake:
            taken, rows = list(self._again), 0
            while not self._again and self._queue and (not taken or rows + self._queue[0].rows <= MAX_DELIVERY_ROWS):
                batch = self._queue.pop(0)
                taken.append(batch)
                rows += batch.rows
            self._busy_since = taken[0].at if taken else None
        return taken

    def _piece(self, batches: Sequence[CommittedBatch]) -> LogRange:
        names = tuple(b.batch for b in batches)
        token = names[0] if len(names) == 1 else f"f:{self.main.cursor.epoch}:{names[0]}:{len(names)}"
        return LogRange(token, self.main.cursor.at, batches=names)

    def _flush(self, batches: list[CommittedBatch]) -> None:
        """Deliver batches: one from its stage, several put together first, and written down before."""
        self._again = batches
        begun = time.monotonic()
        piece = self._piece(batches)
        if len(batches) > 1:
            self._journal.write(self.datasource, self.main.cursor.began(piece))
        behind: set[str] = set()

        def chosen(present: set[str]) -> set[str]:
            keeping_up, others = self._standing.among(present)
            behind.update(others)
            return keeping_up

        failed = self._delivery.push(piece, batches, chosen)
        behind |= failed.keys()
        # Whoever waits for the rows need not wait for the note of it.
        for batch in batches:
            if not batch.visible.done():
                batch.visible.set_result(not behind or not self._delivery.has_rows_of(batch, behind))
        self._done_main(piece, failed)
        self._took = time.monotonic() - begun
        observe.record("fanout_flush_seconds", self._took, datasource=self.datasource)
        self._again = []
        for batch in batches:
            if batch.table:
                batch.release()
        with self._wake:
            self._staged -= sum(b.size for b in batches)
            self._busy_since = None

    def _deliver_main(self, piece: LogRange) -> None:
        self._done_main(piece, self._delivery.pull(piece, lambda present: self._standing.among(present)[0]))

    def _done_main(self, piece: LogRange, failed: Mapping[str, str]) -> None:
        """Note that a piece has arrived. Whoever it did not arrive at goes on by itself from where it stood."""
        failed = {t: why for t, why in failed.items() if t in self.main.members}
        if failed:
            before = self.main.cursor.began(piece)
            self._journal.write_own(self.datasource, failed, before)
            for tenant, why in failed.items():
                log.error("a tenant's tables do not take its rows", tenant=tenant, error=why)
            self._standing.remove(failed)
            self._standing.part(ConsumerGroup(before, set(failed)), failed)
        self.main.cursor = self.main.cursor.finished(piece)
        self._journal.write(self.datasource, self.main.cursor)

    def _poll(self, goal: int | None = None) -> None:
        """Move the main cursor over what is done, and deliver blocks that came past the gateway, as far as a goal."""
        self._polled = time.monotonic()
        reader = self._delivery.log()
        while not self._closed:
            cursor = self.main.cursor
            blocks = reader.blocks(cursor.at)
            moved, foreign, passed = _walk(blocks, cursor, self._in_hand())
            if foreign:
                last = foreign[-1].number
                without = tuple(b.batch for b in passed if b.number < last)
                token = f"b:{moved.epoch}:{foreign[0].number}:{last}"
                moved = moved.began(LogRange(token, moved.at, last, without=without))
            if moved != cursor:
                self._journal.write(self.datasource, moved)
                self.main.cursor = moved
            if moved.piece is None:
                return
            self._deliver_main(moved.piece)
            if goal is not None and self.main.cursor.at >= goal:
                return
            if self._queue:
                # Others' rows do not keep the gateway's waiting.
                self._polled = 0.0
                return

    # --- catching up -----------------------------------------------------------------------------------------------

    def _step(self, group: ConsumerGroup) -> None:
        """Deliver one piece to a stray cohort, or take it into the main one if it has come as far."""
        if self.main.cursor.done and group.cursor.at >= self.main.cursor.at:
            self._poll()
        piece = group.cursor.piece or self._next_piece(group)
        if piece is None:
            self._join(group)
            return
        if group.cursor.piece is None:
            group.cursor = group.cursor.began(piece)
            self._journal.write_own(self.datasource, group.members, group.cursor)
        failed = self._delivery.pull_for(piece, set(group.members))
        self._standing.part(group, {t: why for t, why in failed.items() if t in group.members})
        if not group.members:
            return
        group.cursor = group.cursor.finished(piece)
        group.error, group.tries = "", 0
        self._journal.write_own(self.datasource, group.members, group.cursor)
        if group.cursor.at == self.main.cursor.at:
            # At once, since the next flush would take the main cohort further again.
            self._join(group)

    def _next_piece(self, group: ConsumerGroup) -> LogRange | None:
        """The next blocks that the main cohort has and this one lacks; where there are none, it moves on."""
        cursor, goal = group.cursor, self.main.cursor.at
        if cursor.at >= goal:
            if cursor.done:
                # What is done and has no rows in landing any more, such as those past a TTL, would never be passed.
                later = self._delivery.log().blocks(cursor.at)
                left = cursor.done & {b.batch for b in later} if len(later) < MAX_BLOCKS else cursor.done
                group.cursor = replace(cursor, done=left)
            return None
        blocks = [b for b in self._delivery.log().blocks(cursor.at) if b.number <= goal]
        taken, rows = list[Block](), 0
        for block in blocks:
            missing = 0 if block.batch in cursor.done else block.rows
            if rows and rows + missing > MAX_CATCH_UP_ROWS:
                break
            rows += missing
            taken.append(block)
        without = tuple(b.batch for b in taken if b.batch in cursor.done)
        upto = taken[-1].number if taken else goal
        if not rows:
            group.cursor = replace(cursor, at=upto, done=cursor.done - set(without))
            return self._next_piece(group)
        return LogRange(f"t:{cursor.epoch}:{cursor.at}:{upto}", cursor.at, upto, without=without)

    def _join(self, group: ConsumerGroup) -> None:
        """Make a cohort that stands where the main one does part of it."""
        main = self.main.cursor
        if main.done or group.cursor.done or group.cursor.at != main.at:
            group.due = time.monotonic() + 0.02
            return
        self._journal.strike(self.datasource, group.members)
        self._standing.join(group)


def _walk(blocks: Sequence[Block], cursor: Offset, ours: set[str]) -> tuple[Offset, list[Block], list[Block]]:
    """The cursor moved over what is done, the blocks behind it that nobody has in hand, and those done among them."""
    at, done, foreign, passed, rows = cursor.at, set(cursor.done), list[Block](), list[Block](), 0
    for block in blocks:
        if block.batch in ours:
            break
        if block.batch in done:
            if foreign:
                passed.append(block)
                continue
            done.discard(block.batch)
            at = block.number
        elif foreign and rows + block.rows > MAX_DELIVERY_ROWS:
            break
        else:
            foreign.append(block)
            rows += block.rows
    else:
        if len(blocks) < MAX_BLOCKS:
            # Whatever is done and not among the blocks has no rows in landing any more.
            done.intersection_update(b.batch for b in blocks)
    return replace(cursor, at=at, done=frozenset(done)), foreign, passed
