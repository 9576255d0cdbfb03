"""The fence between inserts and changes of views: many inserts, or one change.

A view that is created while an insert runs may miss its rows, or see rows that its history also delivers. Inserts
therefore hold the fence shared, and whoever creates views and notes where history ends holds it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from threading import Condition, get_ident

from engine.schema import Mark, Name


@dataclass(frozen=True, slots=True)
class ConsumedUpTo:
    """How much of a log has passed through a table that keeps nothing: blocks `upto` a number, and some batches."""

    upto: int
    batches: frozenset[str] = frozenset()


class InsertLock:
    """A shared/exclusive lock that lets a waiting change go before later inserts."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._inserts = 0
        self._upgrading = 0
        self._waiting = 0
        self._closed = False
        self._owner: int | None = None
        self.guards: list[AbstractContextManager[object]] = []
        """Held together with the fence: those who deliver rows in several inserts, and must not be in between."""
        self.doubts: Callable[[Name, Mark | None], set[str] | None] = lambda _source, _mark: set()
        """Tokens of rows in a source that will be delivered again to what hangs on it; None if rows do not tell."""
        self.passed: Callable[[Mapping[Name, Mark | None]], dict[Name, ConsumedUpTo]] = lambda _sources: {}
        """What has passed through sources that keep nothing, for those that no view feeds."""
        self.settle: Callable[[], None] = lambda: None
        """Completes batches that are in landing and perhaps not in every view on it, and raises if it cannot.

        Called with the fence held, before it is noted that everything has reached its views."""

    @property
    def mine(self) -> bool:
        """Whether the calling thread holds the fence alone."""
        return self._owner == get_ident()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Held while rows are inserted. Whoever holds the fence alone may insert as well."""
        if self.mine:
            yield
            return
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
    def upgraded(self) -> Iterator[None]:
        """Held alone by somebody who holds it shared, and keeps it so: nobody else has it alone in between.

        Others that wait for the same count as no inserts, for they run none.
        """
        if self.mine:
            yield
            return
        with self._condition:
            self._upgrading += 1
            self._condition.notify_all()
        try:
            with self._alone(lambda: self._inserts == self._upgrading):
                yield
        finally:
            with self._condition:
                self._upgrading -= 1
                self._condition.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Held while views are created; no insert runs meanwhile."""
        with ExitStack() as guards:
            for guard in list(self.guards):
                guards.enter_context(guard)
            with self._alone(lambda: not self._inserts):
                yield

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Held alone while views stay as they are, and those who deliver in several inserts may be in between."""
        if self.mine:
            yield
            return
        with self._alone(lambda: not self._inserts):
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
