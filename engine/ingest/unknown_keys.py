"""Keys of events that no column takes: a misspelled key would otherwise leave its column empty without a word.

Small requests are parsed before the engine gets them, so theirs are known exactly; of large ones a sample is looked
at, unless the datasource is strict. Names go by the engine's rules: without regard to case at the top of an event, as
they are written below.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from engine.ingest.formats.body_rows import has_no_known_key, strict_ndjson_lines
from engine.ingest.formats.json_values import BLANK, JsonElements
from engine.ingest.values.rejections import loaded
from engine.project.model import Datasource

MAX_NAMED_KEYS = 10
"""Unknown keys that an answer names."""
MAX_KEY_CHARACTERS = 80
"""Characters of a key in an answer."""
SAMPLED_ROWS = 64
"""Rows of a large request that are looked at."""
SAMPLED_BYTES = 64 << 10
"""Bytes of a large JSON array whose elements are looked at."""
MAX_COUNTED_KEYS = 1000
"""Different unknown keys that are counted."""

Tree = Mapping[str, "Tree | None"]
"""Keys that columns take: None for a value that is taken whole, or the keys below."""


@dataclass(frozen=True, slots=True)
class UnknownKeys:
    """Keys that no column takes: the first few by their paths, and how many different ones were seen."""

    names: tuple[str, ...] = ()
    count: int = 0

    def with_others(self, other: UnknownKeys) -> UnknownKeys:
        """Those of two pieces of one body. The count is that of the names, or the larger of both."""
        if not other.count or self == other:
            return self
        names = tuple(dict.fromkeys((*self.names, *other.names)))
        return UnknownKeys(names[:MAX_NAMED_KEYS], max(len(names), self.count, other.count))


NO_KEYS = UnknownKeys()


class KnownKeys:
    """The keys that a datasource's columns take from an event."""

    def __init__(self, source: Datasource) -> None:
        self._top: Tree = _tree(c.path for c in source.columns)
        self._deeper: list[tuple[str, Tree]] = [(n, below) for n, below in self._top.items() if below is not None]
        self._lower = {name.lower(): below for name, below in self._top.items()}
        self._plain = frozenset(self._top)
        self._all = self._plain | self._lower.keys()

    def unknown(self, event: Mapping[str, Any]) -> Sequence[str]:
        """Paths in an event that no column takes."""
        if event.keys() <= self._plain:
            return self._below(event) if self._deeper else ()
        return list(_astray(event, self._lower, "", top=True))

    def _below(self, event: Mapping[str, Any]) -> Sequence[str]:
        found: list[str] = []
        for name, below in self._deeper:
            found += _inside(event.get(name), below, name)
        return found

    def summary(self, found: Iterable[Sequence[str]]) -> UnknownKeys:
        """What an answer says of rows' unknown keys."""
        names: dict[str, None] = {}
        for row in found:
            if row and len(names) < MAX_COUNTED_KEYS:
                names.update(dict.fromkeys(row))
        return (
            UnknownKeys(tuple(n[:MAX_KEY_CHARACTERS] for n in list(names)[:MAX_NAMED_KEYS]), len(names))
            if names
            else NO_KEYS
        )

    def lines_of(self, body: bytes) -> tuple[list[bytes] | None, UnknownKeys, bool]:
        """The lines of a body of complete objects (else None), the unknown keys in them, and whether one has no
        other keys."""
        found: list[Sequence[str]] = []
        strange = False

        def look(event: dict[str, Any]) -> None:
            nonlocal strange
            names = self.unknown(event)
            if names or not event:
                found.append(names)
                strange = strange or has_no_known_key(event, self._all)

        lines = strict_ndjson_lines(body, look)
        return lines, NO_KEYS if lines is None else self.summary(found), strange

    def within(self, rows: Iterable[bytes]) -> UnknownKeys:
        """Unknown keys in rows of JSON."""
        return self.summary(self.unknown(event) for row in rows if type(event := loaded(row)) is dict)

    def sampled(self, body: bytes) -> UnknownKeys:
        """Unknown keys in some rows of a large body: its first ones and, where rows are lines, others all over it."""
        head = body[:SAMPLED_BYTES]
        return self.within(_listed(head) if head.lstrip(BLANK).startswith(b"[") else _sample(body))


def _tree(paths: Iterable[Sequence[str]]) -> dict[str, Any]:
    listed = {tuple(path) for path in paths}
    tree: dict[str, Any] = {}
    for path in listed:
        if any(path[:n] in listed for n in range(1, len(path))):
            continue  # another column takes all of it
        place = tree
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = None
    return tree


def _astray(value: Mapping[str, Any], known: Tree, prefix: str, *, top: bool = False) -> Iterator[str]:
    for key, inner in value.items():
        name = key.lower() if top else key
        if name not in known:
            yield prefix + key
            continue
        below = known[name]
        if below is not None:
            yield from _inside(inner, below, prefix + key)


def _inside(value: Any, known: Tree, place: str) -> Iterator[str]:
    """The same for what stands at a place: an object, or a list of objects."""
    if type(value) is dict:
        yield from _astray(value, known, f"{place}.")
    elif type(value) is list:
        for element in value:
            yield from _inside(element, known, f"{place}[:]")


def _sample(body: bytes) -> Iterator[bytes]:
    at = 0
    for _ in range(SAMPLED_ROWS // 2):
        end = body.find(b"\n", at)
        yield body[at : end if end >= 0 else len(body)]
        if end < 0:
            return
        at = end + 1
    yield body[body.rstrip(BLANK).rfind(b"\n") + 1 :]
    step = (len(body) - at) // (SAMPLED_ROWS // 2 + 1)
    for number in range(1, SAMPLED_ROWS // 2 + 1):
        start = body.find(b"\n", at + number * step)
        end = body.find(b"\n", start + 1)
        if start < 0 or end < 0:
            return
        yield body[start + 1 : end]


def _listed(head: bytes) -> Iterator[bytes]:
    elements = JsonElements(sys.maxsize)
    elements.append(head.lstrip(BLANK)[1:])
    return islice(elements.complete(), SAMPLED_ROWS)
