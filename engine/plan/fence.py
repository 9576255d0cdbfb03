"""The fence between inserts and changes of views: many inserts, or one change.

A view that is created while an insert runs may miss its rows, or see rows that its history also delivers. Inserts
therefore hold the fence shared, and whoever creates views and notes where history ends holds it alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Fence:
    """A shared/exclusive lock that lets a waiting change go before later inserts."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._inserts = 0
        self._waiting = 0
        self._closed = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Held while rows are inserted."""
        with self._condition:
            self._condition.wait_for(lambda: not self._closed and not self._waiting)
            self._inserts += 1
        try:
            yield
        finally:
            with self._condition:
                self._inserts -= 1
                self._condition.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Held while views are created; no insert runs meanwhile."""
        with self._condition:
            self._waiting += 1
            try:
                self._condition.wait_for(lambda: not self._closed and not self._inserts)
                self._closed = True
            finally:
                self._waiting -= 1
        try:
            yield
        finally:
            with self._condition:
                self._closed = False
                self._condition.notify_all()
