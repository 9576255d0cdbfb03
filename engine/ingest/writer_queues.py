"""The appends that wait for one datasource: a queue for each writer, from which batches are formed in turn.

A writer is the tenant that a token is bound to, or a token without a tenant. While a writer's bad rows are searched
for, its queue is held so that its rows stay in order. Other writers' queues continue.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from engine.ingest.batch import Append
from engine.ingest.coalescing import ENOUGH_BYTES, CoalescingDelay, Waiting
from engine.ingest.probation import Probation
from engine.warehouse.port import Input

MAX_BATCH_BYTES = 8 << 20
"""Maximum size in bytes of the bodies that share one INSERT into the datasource."""
MAX_BATCHES_IN_FLIGHT = 2
"""Maximum number of concurrent batches of one datasource: one is parsed while another is stored."""
SECOND_BATCH_BYTES = ENOUGH_BYTES
"""A second batch of the same kind starts when this many bytes are waiting. Otherwise appends wait until the first
batch is stored.
"""


@dataclass(slots=True)
class AppendGroup:
    """Appends that are to be stored together."""

    appends: list[Append]
    failed: bool
    """The group could not be stored as a whole, so it must be split or searched."""

    def halves(self) -> list[AppendGroup]:
        """Split the group in two: between writers if there are several, otherwise in the middle."""
        writers = by_writer(self.appends)
        if len(writers) > 1:
            middle = len(writers) // 2
            halves = [[a for appends in some for a in appends] for some in (writers[:middle], writers[middle:])]
        else:
            middle = len(self.appends) // 2
            halves = [self.appends[:middle], self.appends[middle:]]
        return [AppendGroup(half, failed=False) for half in halves]


@dataclass(slots=True)
class IngestQueue:
    """The queues of one datasource's writers. Not thread-safe: callers hold the gateway's lock."""

    queues: dict[str, deque[Append]] = field(default_factory=dict)
    """Waiting appends by writer. The order of the keys is the order of turns."""
    held: dict[str, deque[AppendGroup]] = field(default_factory=dict)
    """Writers whose rows are being searched, with the groups that are still to be searched."""
    probation: Probation = field(default_factory=Probation)
    """Writers whose appends are stored separately, because their rows had to be searched lately."""
    running: Counter[str | None] = field(default_factory=Counter)
    """Batches that are being stored, by what their appends share (`Append.sharing`)."""
    size: int = 0
    """Bytes of all waiting bodies."""
    waiting: int = 0
    """Waiting appends."""
    delay: CoalescingDelay = field(default_factory=CoalescingDelay)
    """Delays the next batch. It is the only part of the queue for which a thread waits without the gateway's lock."""

    def add(self, append: Append) -> None:
        """Put an append at the end of its writer's queue."""
        self.queues.setdefault(append.writer, deque()).append(append)
        self.size += len(append.body)
        self.waiting += 1
        # With its own append counted: the last of the awaited callers ends the delay.
        self.delay.note(append.sharing, self.load())

    def load(self) -> Waiting:
        """What waits now."""
        return Waiting(self.waiting, self.size)

    def may_start(self, append: Append) -> bool:
        """Whether another batch may start now that an append has arrived, or that its writer is no longer held."""
        if append.writer in self.held or not self._leaves_a_batch(append):
            return False
        # A small second batch would only take rows from the next one. Appends that could not have joined the running
        # batch do not have to wait for it.
        running = self.running.total()
        return not running or (
            running < MAX_BATCHES_IN_FLIGHT and (self.size >= SECOND_BATCH_BYTES or not self.running[append.sharing])
        )

    def batch_ended(self, sharing: str | None) -> None:
        """Record the end of a batch."""
        self.running[sharing] -= 1
        if not self.running[sharing]:
            del self.running[sharing]

    def next_writer(self) -> str | None:
        """The writer whose turn it is."""
        return next((w for w, q in self.queues.items() if w not in self.held and self._leaves_a_batch(q[0])), None)

    def _leaves_a_batch(self, append: Append) -> bool:
        """Whether an append leaves one of the batches to others: a tenant has one batch of a Parquet file at a time.

        The engine may decompress a hostile one for a minute, and cannot be interrupted.
        """
        return append.format is not Input.PARQUET or append.bound_tenant is None or not self.running[append.sharing]

    def next_batch(self) -> list[Append]:
        """Remove the next batch: the first append of the writer whose turn it is, and others that may join it.

        Those are appends of all writers with the same `sharing`, one append per writer and turn.
        """
        writer = self.next_writer()
        if writer is None:
            return []
        first = self._pop(writer)
        appends, size = [first], len(first.body)
        if first.can_be_joined:
            for append in self._pop_joining(first.sharing):
                appends.append(append)
                size += len(append.body)
                if size >= MAX_BATCH_BYTES:
                    break
        return appends

    def _pop_joining(self, sharing: str | None) -> Iterator[Append]:
        """Remove the appends that may join a batch, one per writer and turn."""
        writers = [w for w, q in self.queues.items() if q[0].sharing == sharing and w not in self.held]
        while writers:
            remaining = []
            for writer in writers:
                queue = self.queues.get(writer)
                if queue and queue[0].can_be_joined and queue[0].sharing == sharing:
                    remaining.append(writer)
                    yield self._pop(writer)
            writers = remaining

    def _pop(self, writer: str) -> Append:
        """Remove a writer's first append, and move the writer behind all others."""
        queue = self.queues.pop(writer)
        append = queue.popleft()
        if queue:
            # Inserting the key again moves the writer to the end of the dictionary's order.
            self.queues[writer] = queue
        self.size -= len(append.body)
        self.waiting -= 1
        return append

    def waiting_for(self, sharing: str | None) -> int:
        """How many appends could be in the next batch of those with this `sharing`."""
        return sum(len(q) for w, q in self.queues.items() if q[0].sharing == sharing and w not in self.held)

    def hold(self, groups: Iterable[AppendGroup]) -> list[str]:
        """Hold the writers of groups that must be searched. Returns the writers that were not held before."""
        new = []
        for group in groups:
            writer = group.appends[0].writer
            if writer not in self.held:
                self.held[writer] = deque()
                self.probation.fail(writer)
                new.append(writer)
            self.held[writer].append(group)
        return new

    def release(self, writer: str) -> Append | None:
        """Let a held writer continue. Returns its next append, if any waits."""
        del self.held[writer]
        queue = self.queues.get(writer)
        return queue[0] if queue else None


def by_writer(appends: Sequence[Append]) -> list[list[Append]]:
    """Group appends by their writer."""
    groups: dict[str, list[Append]] = {}
    for append in appends:
        groups.setdefault(append.writer, []).append(append)
    return list(groups.values())
