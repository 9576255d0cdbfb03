"""Which writers' appends are stored separately, because their rows were bad lately.

A bad row splits the batch in which it arrives, which delays the other writers of the batch. So a writer whose rows
were bad does not share the next batches. Each time that this happens again, it takes twice as many batches.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Set
from dataclasses import dataclass

MAX_BATCHES = 64
"""Maximum number of batches without bad rows after which a writer shares batches again, and number of shared batches
after which its earlier bad rows are forgotten.
"""
MAX_WRITERS = 10_000
"""Maximum number of writers that are remembered; beyond that, the one whose rows were bad longest ago is
forgotten.
"""


@dataclass(slots=True)
class _State:
    batches: int
    """Batches without bad rows that the writer needs before it shares batches again."""
    left: int
    """How many of them are left; negative if it has shared batches since."""


class Probation:
    """The writers of one datasource whose rows were bad. Not thread-safe: callers hold the gateway's lock."""

    def __init__(self) -> None:
        self.writers: set[str] = set()
        """Writers that share no batches now. May be read without the lock."""
        self._states: OrderedDict[str, _State] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._states)

    def fail(self, writer: str) -> None:
        """Note bad rows of a writer."""
        state = self._states.pop(writer, None)
        if state is None:
            state = _State(1, 1)
        elif writer not in self.writers:
            # Only now did it split a batch of others.
            state.batches = min(2 * state.batches, MAX_BATCHES)
        state.left = state.batches
        self._states[writer] = state
        self.writers.add(writer)
        if len(self._states) > MAX_WRITERS:
            forgotten, _ = self._states.popitem(last=False)
            self.writers.discard(forgotten)

    def succeed(self, writers: Set[str]) -> None:
        """Note a batch of these writers without bad rows."""
        for writer in self._states.keys() & writers:
            state = self._states[writer]
            state.left -= 1
            if not state.left:
                self.writers.discard(writer)
            elif state.left == -MAX_BATCHES:
                del self._states[writer]
