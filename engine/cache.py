"""A bounded cache, shared by all modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from sys import getsizeof
from threading import Lock
from typing import Generic, TypeVar

DEFAULT_MAX_ENTRIES = 20_000
DEFAULT_MAX_BYTES = 64 << 20

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def size_of(*roots: object) -> int:
    """The approximate memory of values in bytes. A value that is reachable in several ways counts once."""
    total, pending, seen = 0, list(roots), set[int]()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        total += getsizeof(current)
        if isinstance(current, Mapping):
            pending.extend(current.keys())
            pending.extend(current.values())
        elif isinstance(current, tuple | list | frozenset | set):
            pending.extend(current)
        elif is_dataclass(current) and not isinstance(current, type):
            pending.extend(getattr(current, f.name) for f in fields(current))
    return total


def weigh_nothing(key: object, value: object) -> int:
    """The weight for a cache whose entries have a bounded size, so that the number of entries bounds its memory."""
    return 0


class LruCache(Generic[K, V]):
    """A thread-safe cache that evicts the least recently used entries. Values are never None.

    `weigh` returns the approximate size of an entry in bytes. Together the entries have at most `max_bytes`; an entry
    that alone has more than a quarter of that is not kept, because it would evict too many others.
    """

    def __init__(
        self,
        max_entries: int = DEFAULT_MAX_ENTRIES,
        *,
        weigh: Callable[[K, V], int] = weigh_nothing,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._weigh = weigh
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __contains__(self, key: K) -> bool:
        """Whether the key is cached. Counts as a use of the entry."""
        return self.get(key) is not None

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """The weight of all entries."""
        return self._bytes

    def get(self, key: K) -> V | None:
        """The value of a key, or None. Counts as a use of the entry."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: K, value: V) -> V:
        """Store a value and return it."""
        weight = self._weigh(key, value)
        with self._lock:
            self._forget(key)
            if weight > self._max_bytes // 4:
                return value
            self._entries[key] = value, weight
            self._bytes += weight
            while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
                self._forget(next(iter(self._entries)))
        return value

    def _forget(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry[1]
