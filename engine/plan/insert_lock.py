"""The lock between inserts and changes of views: many inserts, or one change.

A view that is created while an insert runs may miss its rows, or see rows that its backfill also delivers. Inserts
therefore share this lock, and whatever creates views and records where their backfill ends holds it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, get_ident


class InsertLock:
    """A shared/exclusive lock. A waiting exclusive holder goes before later shared ones."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._shared = 0
        self._upgrading = 0
        self._waiting = 0
        self._closed = False
        self._owner: int | None = None

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread holds the lock alone."""
        return self._owner == get_ident()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Held while rows are inserted. The thread that holds the lock alone may insert as well."""
        if self.is_mine:
            yield
            return
        with self._condition:
            self._condition.wait_for(lambda: not self._closed and not self._waiting)
            self._shared += 1
        try:
            yield
        finally:
            with self._condition:
                self._shared -= 1
                self._condition.notify_all()

    @contextmanager
    def upgraded(self) -> Iterator[None]:
        """Held alone by a thread that shares the lock and keeps its share: no other thread holds it alone in between.

        Other threads that wait for an upgrade run no insert, so their shares do not count. Deliveries need not be
        paused: an upgrade comes from an insert, which a paused delivery never interrupts half done.
        """
        if self.is_mine:
            yield
            return
        with self._condition:
            self._upgrading += 1
            self._condition.notify_all()
        try:
            with self._alone(lambda: self._shared == self._upgrading):
                yield
        finally:
            with self._condition:
                self._upgrading -= 1
                self._condition.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Held alone: no insert runs. Deliveries of several inserts may be half done; see `ViewLock.changing`."""
        if self.is_mine:
            yield
            return
        with self._alone(lambda: not self._shared):
            yield

    @contextmanager
    def _alone(self, ready: Callable[[], bool]) -> Iterator[None]:
        with self._condition:
            self._waiting += 1
            try:
                self._condition.wait_for(lambda: not self._closed and ready())
                self._closed = True
                self._owner = get_ident()
            finally:
                self._waiting -= 1
        try:
            yield
        finally:
            with self._condition:
                self._closed = False
                self._owner = None
                self._condition.notify_all()
