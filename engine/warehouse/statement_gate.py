"""A gate that statements pass: it can be closed for a moment in which no statement changes the database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from engine import errors
from engine.warehouse.errors import EngineError

CLOSE_TIMEOUT_SECONDS = 60.0
"""How long closing the gate waits for running statements. Meanwhile, new statements wait too."""


class StatementGate:
    """Lets many statements pass at the same time, or none while it is closed. Used by all threads."""

    def __init__(self, timeout: float = CLOSE_TIMEOUT_SECONDS) -> None:
        self._timeout = timeout
        self._condition = threading.Condition()
        self._running = 0
        self._closed = False
        self._nesting = threading.local()

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Held while a statement runs. A statement that is part of another one in the same thread never waits."""
        if getattr(self._nesting, "inside", False):
            yield
            return
        with self._condition:
            self._condition.wait_for(lambda: not self._closed)
            self._running += 1
        self._nesting.inside = True
        try:
            yield
        finally:
            self._nesting.inside = False
            with self._condition:
                self._running -= 1
                self._condition.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Held while no other thread's statement runs. Raises BUSY if a running statement does not end in time."""
        with self._condition:
            self._condition.wait_for(lambda: not self._closed)
            # Closed before the running statements have ended: otherwise new ones would keep it open under load.
            self._closed = True
            if not self._condition.wait_for(lambda: not self._running, self._timeout):
                self._open()
                raise EngineError(
                    errors.BUSY,
                    f"a statement still runs after {self._timeout:.0f} seconds",
                    hint="try again when no backfill, replacement or repair is running",
                    headers={"Retry-After": "30"},
                )
        self._nesting.inside = True
        try:
            yield
        finally:
            self._nesting.inside = False
            with self._condition:
                self._open()

    def _open(self) -> None:
        self._closed = False
        self._condition.notify_all()
