"""Finds keys of events that no column reads. Otherwise a misspelled key would leave its column empty without notice.

Small bodies are parsed before the engine reads them, so all of their keys are known. Of large bodies a sample is
parsed, unless the datasource is strict. Names are compared as in the engine: case-insensitively at the top level of
an event, and exactly below it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from engine.ingest.formats.body_rows import has_no_known_key, strict_ndjson_lines
from engine.ingest.formats.json_values import BLANK, JsonElements, has_too_many_values
from engine.ingest.values.rejections import parse_json
from engine.project.datasource import Datasource

MAX_NAMED_KEYS = 10
"""Maximum number of unknown keys that a response names."""
MAX_KEY_CHARACTERS = 80
"""Maximum number of characters of a key that a response shows."""
SAMPLED_ROWS = 64
"""Maximum number of rows of a large body that are parsed."""
SAMPLED_BYTES = 64 << 10
"""Bytes at the beginning of a large JSON array from which rows are parsed."""
MAX_COUNTED_KEYS = 1000
"""Maximum number of distinct unknown keys that are counted."""

Tree = Mapping[str, "Tree | None"]
"""The keys that columns read, each with the keys below it, or None if a column reads the whole value."""


@dataclass(frozen=True, slots=True)
class UnknownKeys:
    """Keys that no column reads."""

    names: tuple[str, ...] = ()
    """The paths of the first few."""
    count: int = 0
    """The number of distinct ones."""

    def merged(self, other: UnknownKeys) -> UnknownKeys:
        """The unknown keys of two parts of one body. The count is a lower bound: some keys may be in both."""
        if not other.count or self == other:
            return self
        names = tuple(dict.fromkeys((*self.names, *other.names)))
        return UnknownKeys(names[:MAX_NAMED_KEYS], max(len(names), self.count, other.count))


NO_KEYS = UnknownKeys()


class KnownKeys:
    """The keys of events that a datasource's columns read."""

    def __init__(self, source: Datasource) -> None:
        self._top: Tree = _tree(c.path for c in source.columns)
        self._nested: list[tuple[str, Tree]] = [(n, below) for n, below in self._top.items() if below is not None]
        self._lower_case = {name.lower(): below for name, below in self._top.items()}
        self._exact = frozenset(self._top)
        self._all = self._exact | self._lower_case.keys()

    def unknown(self, event: Mapping[str, Any]) -> Sequence[str]:
        """The paths of keys in an event that no column reads."""
        if event.keys() <= self._exact:
            # The usual case, with a single comparison of sets.
            return self._unknown_below(event) if self._nested else ()
        return list(_unknown_in_object(event, self._lower_case, "", top=True))

    def _unknown_below(self, event: Mapping[str, Any]) -> Sequence[str]:
        paths: list[str] = []
        for name, below in self._nested:
            paths += _unknown_in(event.get(name), below, name)
        return paths

    def summary(self, rows: Iterable[Sequence[str]]) -> UnknownKeys:
        """The unknown keys of several rows, each with its own paths."""
        names: dict[str, None] = {}
        for paths in rows:
            # Bounded, since a hostile body can have a new key in every row.
            if paths and len(names) < MAX_COUNTED_KEYS:
                names.update(dict.fromkeys(paths))
        if not names:
            return NO_KEYS
        return UnknownKeys(tuple(n[:MAX_KEY_CHARACTERS] for n in list(names)[:MAX_NAMED_KEYS]), len(names))

    def lines_of(self, body: bytes) -> tuple[list[bytes] | None, UnknownKeys, bool]:
        """Split a body of complete objects, one per line.

        Returns the lines (None for any other body), the unknown keys in them, and whether an event has only unknown
        keys.
        """
        rows: list[Sequence[str]] = []
        has_unrelated_event = False

        def examine(event: dict[str, Any]) -> None:
            nonlocal has_unrelated_event
            paths = self.unknown(event)
            if paths or not event:
                rows.append(paths)
                has_unrelated_event = has_unrelated_event or has_no_known_key(event, self._all)

        lines = strict_ndjson_lines(body, examine)
        return lines, NO_KEYS if lines is None else self.summary(rows), has_unrelated_event

    def within(self, rows: Iterable[bytes]) -> UnknownKeys:
        """The unknown keys in rows of JSON."""
        return self.summary(self.unknown(event) for row in rows if type(event := parse_json(row)) is dict)

    def sampled(self, body: bytes) -> UnknownKeys:
        """The unknown keys in some rows of a large body: its first ones and, if each row is a line, others from all
        parts of it."""
        head = body[:SAMPLED_BYTES]
        is_array = head.lstrip(BLANK).startswith(b"[")
        rows = _first_elements(head) if is_array else _sampled_lines(body)
        return self.within(row for row in rows if not has_too_many_values(row))


def _tree(paths: Iterable[Sequence[str]]) -> dict[str, Any]:
    all_paths = {tuple(path) for path in paths}
    tree: dict[str, Any] = {}
    for path in all_paths:
        if any(path[:n] in all_paths for n in range(1, len(path))):
            continue  # another column reads the whole value around it
        level = tree
        for key in path[:-1]:
            level = level.setdefault(key, {})
        level[path[-1]] = None
    return tree


def _unknown_in_object(value: Mapping[str, Any], known: Tree, prefix: str, *, top: bool = False) -> Iterator[str]:
    """The paths of unknown keys in an object."""
    for key, inner in value.items():
        name = key.lower() if top else key
        if name not in known:
            yield prefix + key
            continue
        below = known[name]
        if below is not None:
            yield from _unknown_in(inner, below, prefix + key)


def _unknown_in(value: Any, known: Tree, path: str) -> Iterator[str]:
    """The paths of unknown keys in the value at a path: an object, a list of objects, or any other value."""
    # Without recursion: lists can be nested more deeply than Python calls.
    pending = [(value, path)]
    while pending:
        current, at = pending.pop()
        if type(current) is dict:
            yield from _unknown_in_object(current, known, f"{at}.")
        elif type(current) is list:
            inner = f"{at}[:]"
            pending += [(element, inner) for element in reversed(current)]


def _sampled_lines(body: bytes) -> Iterator[bytes]:
    """The first lines of a body, its last one, and lines at regular distances in between."""
    at = 0
    for _ in range(SAMPLED_ROWS // 2):
        end = body.find(b"\n", at)
        yield body[at : end if end >= 0 else len(body)]
        if end < 0:
            return
        at = end + 1
    yield body[body.rstrip(BLANK).rfind(b"\n") + 1 :]
    # A line break after each position begins a row, so a row that is cut off is never examined.
    distance = (len(body) - at) // (SAMPLED_ROWS // 2 + 1)
    for number in range(1, SAMPLED_ROWS // 2 + 1):
        start = body.find(b"\n", at + number * distance)
        end = body.find(b"\n", start + 1)
        if start < 0 or end < 0:
            return
        yield body[start + 1 : end]


def _first_elements(head: bytes) -> Iterator[bytes]:
    """The first elements of a JSON array."""
    elements = JsonElements(sys.maxsize)
    elements.append(head.lstrip(BLANK)[1:])
    return islice(elements.complete(), SAMPLED_ROWS)
