"""What waits for one datasource: a queue for each writer, from which batches are taken by turns.

A writer is the tenant that a token is bound to, or a token without one. While a writer's bad rows are searched for,
its queue is held, so that its rows stay in order; the queues of all others move on.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from engine.ingest.batch import Append

MAX_BATCH_BYTES = 8 << 20
"""Bytes of requests that share an INSERT into the datasource."""
MAX_BATCHES_IN_FLIGHT = 2
"""Batches of one datasource under way at once: one is parsed while another is stored."""
SECOND_BATCH_BYTES = 512 << 10
"""Waiting bytes that start a second batch of the same writers: fewer gather until the first is stored."""


@dataclass(slots=True)
class Group:
    """Appends that are stored together; if `failed`, they cannot be as they are."""

    appends: list[Append]
    failed: bool

    def parts(self) -> list[Group]:
        """Two halves of the group, between writers if there are several; neither of them is tried."""
        writers = by_writer(self.appends)
        if len(writers) > 1:
            middle = len(writers) // 2
            halves = [[a for each in some for a in each] for some in (writers[:middle], writers[middle:])]
        else:
            middle = len(self.appends) // 2
            halves = [self.appends[:middle], self.appends[middle:]]
        return [Group(half, failed=False) for half in halves]


@dataclass(slots=True)
class IngestQueue:
    """The queues of one datasource's writers, in the order of their turns. Not locked: the gateway does that.

    `held` are the writers whose rows are searched, with what is still to be searched; `running` counts batches under
    way by the tenant that they are for. `expected` is the number of appends for which the next batch waits.
    """

    queues: dict[str, deque[Append]] = field(default_factory=dict)
    held: dict[str, deque[Group]] = field(default_factory=dict)
    running: Counter[str | None] = field(default_factory=Counter)
    size: int = 0
    waiting: int = 0
    expected: int = 0
    gathering: str | None = None
    enough: threading.Event = field(default_factory=threading.Event)

    def add(self, append: Append) -> None:
        """Put an append at the end of its writer's queue."""
        self.queues.setdefault(append.writer, deque()).append(append)
        self.size += len(append.body)
        self.waiting += 1
        if self.complete or append.bound != self.gathering:
            self.enough.set()

    @property
    def complete(self) -> bool:
        """Whether all callers that are expected are there, or enough of them for a batch."""
        return self.waiting >= self.expected or self.size >= SECOND_BATCH_BYTES

    def may_start(self, append: Append) -> bool:
        """Whether another batch may begin now that an append has come, or its writer is no longer held."""
        if append.writer in self.held:
            return False
        under_way = self.running.total()
        return not under_way or (
            under_way < MAX_BATCHES_IN_FLIGHT and (self.size >= SECOND_BATCH_BYTES or not self.running[append.bound])
        )

    def ended(self, bound: str | None) -> None:
        """Note the end of a batch."""
        self.running[bound] -= 1
        if not self.running[bound]:
            del self.running[bound]

    def first_ready(self) -> str | None:
        """The writer whose turn it is."""
        return next((writer for writer in self.queues if writer not in self.held), None)

    def take(self) -> list[Append]:
        """The next batch: the first append of the writer whose turn it is, and others that may be stored with it.

        Those are appends under the same tenant, or of other writers without one, each of which adds one in turn.
        """
        writer = self.first_ready()
        if writer is None:
            return []
        first = self._pop(writer)
        taken, size = [first], len(first.body)
        if first.joins:
            for append in self._fellows(writer, first.bound):
                taken.append(append)
                size += len(append.body)
                if size >= MAX_BATCH_BYTES:
                    break
        return taken

    def _fellows(self, writer: str, bound: str | None) -> Iterator[Append]:
        """What may join a batch, one of each writer in turn; each is taken off its queue."""
        writers = [w for w, q in self.queues.items() if q[0].bound == bound and w not in self.held]
        while writers:
            left = []
            for each in writers:
                queue = self.queues.get(each)
                if queue and queue[0].joins:
                    left.append(each)
                    yield self._pop(each)
            writers = left

    def _pop(self, writer: str) -> Append:
        """A writer's first append; its next turn comes after those of all others."""
        queue = self.queues.pop(writer)
        append = queue.popleft()
        if queue:
            self.queues[writer] = queue
        self.size -= len(append.body)
        self.waiting -= 1
        return append

    def waiting_for(self, bound: str | None) -> int:
        """Appends that could be in the next batch under a tenant."""
        return sum(len(q) for w, q in self.queues.items() if q[0].bound == bound and w not in self.held)

    def hold(self, groups: Iterable[Group]) -> list[str]:
        """Hold the writers of groups that have to be searched. Returns those that were not held before."""
        new = []
        for group in groups:
            writer = group.appends[0].writer
            if writer not in self.held:
                self.held[writer] = deque()
                new.append(writer)
            self.held[writer].append(group)
        return new

    def release(self, writer: str) -> Append | None:
        """Let a writer go on. Returns its next append, if one waits."""
        del self.held[writer]
        queue = self.queues.get(writer)
        return queue[0] if queue else None


def by_writer(appends: Sequence[Append]) -> list[list[Append]]:
    """Appends apart by their writers."""
    found: dict[str, list[Append]] = {}
    for append in appends:
        found.setdefault(append.writer, []).append(append)
    return list(found.values())
