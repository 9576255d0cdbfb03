"""The batches of one landing datasource, from the announcement of their INSERT to their delivery.

```text
   announce ──▶ announced ──put──▶ [queued] ──take──▶ [in flight] ──acknowledge──▶ (released)
                    │                                   │     ▲
                    └──retract──▶ (forgotten)           └─────┘ the database failed: same range, same token
```
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from engine.fanout.handover import NOWHERE, CommittedBatch

MAX_STAGED_BYTES = 256 << 20
"""Bytes of batches whose stages are kept. Rows of later batches are read from landing."""
MAX_DELIVERY_ROWS = 1_000_000
"""Rows of one delivery to the main group. A larger batch is a delivery of its own."""


class BatchQueue:
    """Ingest threads announce and add batches; the worker's thread takes and acknowledges them.

    `changed` guards all fields. It is shared with the consumer groups, so the worker's thread waits for both at once.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._announced: set[str] = set()
        """Ids of batches whose INSERT into landing is running."""
        self._queued: deque[CommittedBatch] = deque()
        self._in_flight: list[CommittedBatch] = []
        """Batches of the current delivery, or of one that failed and is repeated."""
        self._staged_bytes = 0
        """Bytes of the stages of queued batches and of those in flight."""

    def announce(self, batch: str) -> None:
        """Record that the INSERT of a batch starts."""
        with self._changed:
            self._announced.add(batch)

    def retract(self, batch: str) -> None:
        """Forget an announced batch whose INSERT failed."""
        with self._changed:
            self._announced.discard(batch)

    def put(self, batch: CommittedBatch) -> None:
        """Queue a batch, with its stage. Beyond MAX_STAGED_BYTES, the stage is returned immediately."""
        with self._changed:
            # Under one lock with the next line: a batch that is neither announced nor queued would look like another
            # program's insert.
            self._announced.discard(batch.batch)
            keep = self._staged_bytes + batch.size <= MAX_STAGED_BYTES
            self._queued.append(batch if keep else replace(batch, table="", size=0))
            self._staged_bytes += batch.size if keep else 0
            self._changed.notify_all()
        if not keep:
            # Without the lock, since it calls the database.
            batch.release()

    def take(self) -> list[CommittedBatch]:
        """The batches of the next delivery, now in flight.

        After a failure they are the same batches, because the token of their range identifies exactly these rows.
        """
        with self._changed:
            rows = sum(b.rows for b in self._in_flight)
            is_repeated = bool(self._in_flight)
            while self._queued and not is_repeated:
                if self._in_flight and rows + self._queued[0].rows > MAX_DELIVERY_ROWS:
                    break
                rows += self._queued[0].rows
                self._in_flight.append(self._queued.popleft())
            return list(self._in_flight)

    def acknowledge(self) -> None:
        """Forget the batches in flight, which are delivered, and return their stages."""
        with self._changed:
            delivered, self._in_flight = self._in_flight, []
        # Without the lock, since it calls the database. Their bytes count until their stages are empty.
        _release(delivered)
        with self._changed:
            self._staged_bytes -= sum(b.size for b in delivered)

    def abandon(self) -> None:
        """Return all stages, and report to the callers that their rows are not visible yet. The worker is closed."""
        with self._changed:
            batches = (*self._in_flight, *self._queued)
        for batch in batches:
            # Callers have an answer already if a delivery failed after it.
            if not batch.reach.done():
                batch.reach.set_result(NOWHERE)
        _release(batches)

    @property
    def length(self) -> int:
        """The number of queued batches. May be read without the lock, where an outdated number does no harm."""
        return len(self._queued)

    @property
    def in_flight(self) -> list[CommittedBatch]:
        """The batches in flight. Only the holder of the delivery lock changes them."""
        return self._in_flight

    def uncommitted(self) -> set[str]:
        """Ids of batches that are announced, queued or in flight. Call this after reading landing, not before.

        In the other order, a batch that is committed in between would look like another program's insert.
        """
        with self._changed:
            return {*self._announced, *(b.batch for b in (*self._queued, *self._in_flight))}

    def backlog(self) -> tuple[int, float]:
        """The rows of batches that are queued or in flight, and the age of the oldest in seconds; 0 without any."""
        with self._changed:
            waiting = (*self._in_flight, *self._queued)
            oldest = min((b.at for b in waiting), default=None)
            age = round(max(0.0, time.time() - oldest), 3) if oldest else 0.0
            return sum(b.rows for b in waiting), age


def _release(batches: Iterable[CommittedBatch]) -> None:
    """Return the stages that batches still have."""
    for batch in batches:
        if batch.table:
            batch.release()
