"""The contents of a registry in memory, for an engine that only this process writes to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

Bodies = dict[str, dict[str, str]]
"""Bodies as JSON, by kind and name."""


class KeptBodies:
    """The bodies that were read last, until a kind is written. Thread-safe."""

    def __init__(self, uncounted: Iterable[str]) -> None:
        """`uncounted` are the kinds that do not change the version."""
        self._uncounted = frozenset(uncounted)
        self._kinds: Bodies | None = None
        self._outdated: set[str] = set()
        self._version: int | None = None
        # A result that was read while something was written may be older, and is not kept.
        self._writes = 0
        self._lock = threading.Lock()

    def read(self, kinds: Iterable[str], query: Callable[[Iterable[str] | None], Bodies]) -> Bodies:
        """The bodies of kinds. `query` reads kinds from the table, or all if it is given None."""
        wanted = tuple(kinds)
        with self._lock:
            writes, kept = self._writes, self._kinds
            missing = None if kept is None else [k for k in wanted if k in self._outdated]
            bodies = {k: kept.get(k, {}) for k in wanted} if kept is not None else {}
        if missing == []:
            return bodies
        queried = query(missing)
        with self._lock:
            if writes != self._writes:
                pass
            elif missing is None:
                # One query for all kinds, instead of one for each when a workspace is opened.
                self._kinds = queried
                self._outdated.clear()
            else:
                self._kinds = {**(self._kinds or {}), **{k: queried.get(k, {}) for k in missing}}
                self._outdated.difference_update(missing)
        return bodies | {k: queried.get(k, {}) for k in (wanted if missing is None else missing)}

    def version(self, query: Callable[[], int]) -> int:
        """The version of the registry. `query` reads it from the table."""
        with self._lock:
            writes, version = self._writes, self._version
        if version is not None:
            return version
        version = query()
        with self._lock:
            if writes == self._writes:
                self._version = version
        return version

    @contextmanager
    def writing(self, kinds: Iterable[str]) -> Iterator[None]:
        """Held while bodies of kinds are written."""
        written = frozenset(kinds)
        self._outdate(written)
        try:
            yield
        finally:
            # Again, because another thread may have read the table before the rows were in it.
            self._outdate(written)

    def _outdate(self, kinds: frozenset[str]) -> None:
        with self._lock:
            self._writes += 1
            self._outdated |= kinds
            if kinds - self._uncounted:
                self._version = None
