"""Appends that were accepted and have no result yet, so that an erasure can wait for them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any

from engine.errors import BUSY, RookeryError

DRAIN_TIMEOUT_SECONDS = 120.0
"""How long an erasure waits. Bad rows of a large request may have to be searched for."""


class PendingAppends:
    """The futures of appends that wait or are being stored. Any thread may use it.

    It needs no lock: adding to a set, removing from it and copying it are atomic, because futures are compared by
    identity.
    """

    def __init__(self) -> None:
        self._futures: set[Future[Any]] = set()

    def add(self, future: Future[Any]) -> None:
        """Remember an append until its future is done."""
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)

    def discard(self, future: Future[Any]) -> None:
        """Forget an append that was refused."""
        self._futures.discard(future)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Counts as an append while it is entered: rows that were read from a table are about to be appended."""
        future = Future[None]()
        self.add(future)
        try:
            yield
        finally:
            future.set_result(None)

    def drain(self, timeout: float = DRAIN_TIMEOUT_SECONDS) -> None:
        """Wait until all appends of this moment have their results. Later ones do not count.

        Raises RK6003 if that takes too long.
        """
        if wait(self._futures.copy(), timeout).not_done:
            raise RookeryError(
                BUSY, "appends are still being stored", hint="run the command again", headers={"Retry-After": "5"}
            )
