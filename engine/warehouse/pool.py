"""A pool of database handles with a bounded wait."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

from engine import errors
from engine.warehouse.errors import EngineError
from engine.warehouse.port import Usage

H = TypeVar("H")


class Pool(Generic[H]):
    """A pool of at most `size` handles, which are created when first needed. Thread-safe.

    A borrower must return each handle, or retire it if it may contain output of a failed query.
    """

    def __init__(self, make: Callable[[], H], dispose: Callable[[H], None], *, size: int, timeout: float) -> None:
        self._make = make
        self._dispose = dispose
        self._timeout = timeout
        self._closed = False
        self._lock = threading.Lock()
        # None is a slot without a handle, because it was not created yet or was retired. The handle that was returned
        # last is lent first, so a new one is only created if all others are in use.
        self._places: queue.LifoQueue[H | None] = queue.LifoQueue()
        for _ in range(size):
            self._places.put(None)
        self.size = size
        self._waiting = 0

    def usage(self) -> Usage:
        return Usage(self.size, self.size - self._places.qsize(), self._waiting)

    def borrow(self) -> H:
        """Take a handle for exclusive use. Raises BUSY if none becomes free in time, CLOSED after `close`."""
        if self._closed:
            raise EngineError(errors.CLOSED, "the warehouse is closed")
        try:
            handle = self._next_place()
        except queue.Empty:
            raise EngineError(
                errors.BUSY,
                f"no database handle became free within {self._timeout:g} seconds",
                hint="try again, or raise ROOKERY_READERS or ROOKERY_WRITERS",
                headers={"Retry-After": "1"},
            ) from None
        if handle is not None:
            return handle
        try:
            return self._make()
        except BaseException:
            self._places.put(None)
            raise

    def _next_place(self) -> H | None:
        """A free place. Raises queue.Empty if none becomes free in time."""
        with suppress(queue.Empty):
            return self._places.get_nowait()
        with self._lock:
            self._waiting += 1
        try:
            return self._places.get(timeout=self._timeout)
        finally:
            with self._lock:
                self._waiting -= 1

    def give_back(self, handle: H) -> None:
        """Return a handle to the pool."""
        with self._lock:
            # A handle must not enter a pool that `close` has already emptied.
            if not self._closed:
                self._places.put(handle)
                return
        self._dispose(handle)
        self._places.put(None)

    def retire(self, handle: H) -> None:
        """Close a handle instead of returning it. A new one is created when needed."""
        try:
            self._dispose(handle)
        finally:
            self._places.put(None)

    @contextmanager
    def lend(self) -> Iterator[H]:
        """Borrow a handle for a `with` block. An exception in the block retires it."""
        handle = self.borrow()
        try:
            yield handle
        except BaseException:
            self.retire(handle)
            raise
        self.give_back(handle)

    def close(self, wait: float = 2.0) -> None:
        """Close all handles, and wait up to `wait` seconds for borrowed ones. The remaining ones are closed when they
        are returned.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        deadline = time.monotonic() + wait
        for _ in range(self.size):
            try:
                handle = self._places.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return
            if handle is not None:
                self._dispose(handle)
