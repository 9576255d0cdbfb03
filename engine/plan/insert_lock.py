"""The lock between inserts and changes to views: many inserts, or one change.

A view that is created while an insert runs may miss its rows, or see rows that its backfill also delivers. Inserts
therefore share this lock. A thread that creates views, and records where their backfills end, holds it exclusively.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, get_ident


class InsertLock:
    """A shared/exclusive lock with upgrades. A waiting exclusive holder goes ahead of later shared ones."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._shared = 0
        """Shared holders, including those that wait for an upgrade."""
        self._upgrading = 0
        """Shared holders that wait for an upgrade or hold it."""
        self._waiting = 0
        """Threads that wait to hold the lock exclusively."""
        self._exclusive = False
        self._owner: int | None = None
        """The thread that holds the lock exclusively."""

    @property
    def is_owner(self) -> bool:
        """Whether the calling thread holds the lock exclusively."""
        # Needs no lock: only this thread sets the field to its own number, and clears it again.
        return self._owner == get_ident()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Held while rows are inserted. The exclusive holder may also insert; in its thread, this does nothing."""
        if self.is_owner:
            yield
            return
        with self._condition:
            # New inserts wait for a waiting change, which would otherwise never run under load.
            self._condition.wait_for(lambda: not self._exclusive and not self._waiting)
            self._shared += 1
        try:
            yield
        finally:
            with self._condition:
                self._shared -= 1
                self._condition.notify_all()

    @contextmanager
    def upgraded(self) -> Iterator[None]:
        """Held exclusively by a shared holder, which keeps its share.

        Only other threads that wait for an upgrade may hold it first. They run no insert, so their shares
        do not count. Deliveries are not paused: the workers' delivery locks precede the insert lock.
        """
        if self.is_owner:
            yield
            return
        with self._condition:
            # Another thread's upgrade may be waiting for this thread's share, which no longer counts.
            self._upgrading += 1
            self._condition.notify_all()
        try:
            with self._acquire(lambda: self._shared == self._upgrading):
                yield
        finally:
            with self._condition:
                self._upgrading -= 1
                self._condition.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Holds the lock exclusively: no insert runs. A delivery may be half complete; see `ViewLock.changing`."""
        if self.is_owner:
            yield
            return
        with self._acquire(lambda: not self._shared):
            yield

    @contextmanager
    def _acquire(self, ready: Callable[[], bool]) -> Iterator[None]:
        """Hold the lock exclusively, as soon as no other thread holds it and `ready` is true."""
        with self._condition:
            self._waiting += 1
            try:
                self._condition.wait_for(lambda: not self._exclusive and ready())
                self._exclusive = True
                self._owner = get_ident()
            finally:
                self._waiting -= 1
        try:
            yield
        finally:
            with self._condition:
                self._exclusive = False
                self._owner = None
                self._condition.notify_all()
