"""Makes the embedded engine begin the mutations of a changed table.

An idle engine looks for mutations only every few seconds, and after a merge sometimes only after 30. A change that
rewrites stored rows waits for its mutation, and a dropped column blocks inserts meanwhile.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.warehouse.errors import EngineError

FIRST_PAUSE_SECONDS = 0.05
"""Most changes have ended by then."""
LONGEST_PAUSE_SECONDS = 0.25

_MUTATES = re.compile(
    r"ALTER TABLE (`[^`]+`\.`[^`]+`) "
    r"(?:ADD COLUMN|DROP INDEX|DROP COLUMN|MODIFY COLUMN|MODIFY TTL|REMOVE TTL|UPDATE|DELETE)"
)
"""Changes that may wait for a mutation, with their table."""


class MutationWake:
    """Wakes the engine while changes run. Used by all threads."""

    def __init__(self, command: Callable[[str], None]) -> None:
        """`command` executes a statement on a handle that nothing else uses."""
        self._command = command
        self._lock = threading.Lock()

    @contextmanager
    def during(self, sql: str) -> Iterator[None]:
        """Held while a statement runs."""
        change = _MUTATES.match(sql)
        if change is None:
            yield
            return
        ended = threading.Event()
        waking = threading.Thread(target=self._wake, args=(change[1], ended), name="rookery-mutations", daemon=True)
        waking.start()
        try:
            yield
        finally:
            ended.set()
            waking.join()

    def _wake(self, table: str, ended: threading.Event) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not ended.wait(pause):
            try:
                with self._lock:
                    self._command(f"SYSTEM START MERGES {table}")
            except EngineError:
                # The change itself reports what is wrong with the table.
                return
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
