"""The lock that a change to views holds, and the information that the change needs about rows not yet delivered.

Two kinds of operations bring rows to views: inserts, which are one statement each, and deliveries of the fan-out,
which are several. A change to views excludes both. The fan-out is in a higher layer, so this module describes it by
two protocols.
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
    """How much of a landing log passed through a table without stored rows: blocks up to `upto`, and `batches`."""

    upto: int
    batches: frozenset[str] = frozenset()


class Deliveries(Protocol):
    """What a change to views uses of the fan-out. Every method except `paused` requires the view lock."""

    def paused(self) -> AbstractContextManager[object]:
        """Hold all workers between two deliveries."""
        ...

    def pending_tokens(self, source: Name, mark: Mark | None) -> set[str] | None:
        """Tokens of rows in a source that will be delivered to its views again; None if the rows carry no tokens."""
        ...

    def consumed(self, sources: Mapping[Name, Mark | None]) -> dict[Name, ConsumedUpTo]:
        """What has passed through sources without stored rows, for those that a fan-out worker feeds."""
        ...


class Completion(Protocol):
    """Completes uncertain batches: those whose INSERT may have reached only some of the views."""

    def complete_all(self) -> None:
        """Complete all of them. Raises the error that prevents it."""
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
    def complete_all(self) -> None:
        pass


class ViewLock:
    """Excludes inserts and deliveries while views change. One per workspace."""

    def __init__(self) -> None:
        self.inserts = InsertLock()
        self.deliveries: Deliveries = _NoDeliveries()
        self.completion: Completion = _NothingUncertain()

    def attach_deliveries(self, deliveries: Deliveries) -> None:
        """Set the fan-out of the workspace. Called once, before its first delivery."""
        self.deliveries = deliveries

    def attach_completion(self, completion: Completion) -> None:
        """Set what completes uncertain batches. Called once, before the first insert."""
        self.completion = completion

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Held while views are created or dropped: no insert runs, and no delivery is half complete."""
        # In this order: a worker holds its delivery lock while it waits for the insert lock.
        with self.deliveries.paused(), self.inserts.exclusive():
            yield
