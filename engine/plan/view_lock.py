"""The lock that a change of views holds, and what it needs to know of rows that are still under way.

Two kinds of writers bring rows to views: inserts, which are one statement each, and deliveries of the fan-out, which
are several. A change of views excludes both. The fan-out lives in a higher layer and is known here by two protocols.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from engine.plan.insert_lock import InsertLock
from engine.schema import Mark, Name


@dataclass(frozen=True, slots=True)
class ConsumedUpTo:
    """How much of a log has passed through a table that keeps nothing: blocks up to a number, and some batches."""

    upto: int
    batches: frozenset[str] = frozenset()


class Deliveries(Protocol):
    """The fan-out, as a change of views sees it. All methods but `paused` need the lock to be held."""

    def paused(self) -> AbstractContextManager[object]:
        """Hold this to keep every delivery from being half done."""
        ...

    def pending_tokens(self, source: Name, mark: Mark | None) -> set[str] | None:
        """Tokens of rows in a source that will be delivered to its views again; None if its rows have no tokens."""
        ...

    def consumed(self, sources: Mapping[Name, Mark | None]) -> dict[Name, ConsumedUpTo]:
        """What has passed through sources that keep nothing, for those that no view feeds."""
        ...


class Completion(Protocol):
    """Batches whose INSERT may have reached only some of the views."""

    def settle_all(self) -> None:
        """Complete all of them. Raises what keeps one from being complete."""
        ...


class _NoDeliveries:
    """A workspace without fan-out."""

    def paused(self) -> AbstractContextManager[object]:
        return nullcontext()

    def pending_tokens(self, source: Name, mark: Mark | None) -> set[str] | None:
        return set()

    def consumed(self, sources: Mapping[Name, Mark | None]) -> dict[Name, ConsumedUpTo]:
        return {}


class _NothingUncertain:
    def settle_all(self) -> None:
        pass


class ViewLock:
    """Excludes inserts and deliveries while views change."""

    def __init__(self) -> None:
        self.inserts = InsertLock()
        self.deliveries: Deliveries = _NoDeliveries()
        self.completion: Completion = _NothingUncertain()

    def attach_deliveries(self, deliveries: Deliveries) -> None:
        """Name the fan-out of the workspace. Called once, before it delivers anything."""
        self.deliveries = deliveries

    def attach_completion(self, completion: Completion) -> None:
        """Name what completes uncertain batches. Called once, before the first insert."""
        self.completion = completion

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Held while views are created or dropped: no insert runs, and no delivery is half done.

        The order matters: a delivery holds its own lock while it waits for the insert lock.
        """
        with self.deliveries.paused(), self.inserts.exclusive():
            yield
