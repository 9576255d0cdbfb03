"""Writes keys without escapes on the paths that the engine reads as tuples, where it does not decode a key's escapes.

Only keys on these paths are changed. The values at their ends are kept as they were sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import orjson

from engine.ingest.formats.json_values import BLANK, string_end, value_end
from engine.ingest.values.shared_keys import members
from engine.ingest.values.staging_rules import StagedColumn

_ESCAPED_KEY = re.compile(rb'\\(?:\\"|"?+[^"\\]*+")\s*+:')
"""Matches the end of a key with an escape, and some strings that contain JSON themselves."""

_ELEMENT = re.compile(rb'["\[{]')


@dataclass(frozen=True, slots=True)
class PathTree:
    """The paths of columns from one point of an event."""

    keys: dict[bytes, PathTree] = field(default_factory=dict)
    """What follows each key, in lower case."""
    elements: list[PathTree] = field(default_factory=list)
    """What follows in every element of an array: one tree, or none."""

    def add(self, steps: Iterable[str | None]) -> None:
        """Add a path; None means every element of an array."""
        tree = self
        for step in steps:
            if step is not None:
                tree = tree.keys.setdefault(step.encode().lower(), PathTree())
                continue
            if not tree.elements:
                tree.elements.append(PathTree())
            tree = tree.elements[0]


def tuple_paths(columns: Iterable[StagedColumn]) -> Mapping[bytes, PathTree]:
    """The paths that are read as tuples, by the name of the stage's column in lower case."""
    trees: dict[bytes, PathTree] = {}
    for column in columns:
        if column.path and column.type != "JSON":
            trees.setdefault(column.name.encode().lower(), PathTree()).add(column.path)
    return trees


def may_have_escaped_keys(text: bytes) -> bool:
    """Return whether a text may have a key with an escape."""
    return b"\\" in text and _ESCAPED_KEY.search(text) is not None


def with_plain_keys(row: bytes, trees: Mapping[bytes, PathTree]) -> bytes:
    """Return an event in which keys on these paths have no escapes. An event that is not an object is unchanged."""
    return _rewritten(row, PathTree(dict(trees))) if may_have_escaped_keys(row) else row


def _rewritten(value: bytes, tree: PathTree) -> bytes:
    start = len(value) - len(value.lstrip(BLANK))
    if tree.elements and value[start : start + 1] == b"[":
        return _rewritten_elements(value, start + 1, tree.elements[0])
    if not tree.keys or value[start : start + 1] != b"{":
        return value
    parts: list[bytes] = []
    at = 0
    for member in members(value) or ():
        tail = tree.keys.get(member.name)
        if tail is None:
            continue
        key = orjson.dumps(member.text) if b"\\" in member.key else b'"%s"' % member.key
        key_end = member.start + len(member.key) + 2
        parts += (value[at : member.start], key, value[key_end : member.end - len(member.value)])
        parts.append(_rewritten(member.value, tail))
        at = member.end
    return b"".join((*parts, value[at:]))


def _rewritten_elements(value: bytes, at: int, tree: PathTree) -> bytes:
    """Rewrite the objects and arrays in an array whose elements begin at a position."""
    parts: list[bytes] = []
    copied = 0
    while (begin := _ELEMENT.search(value, at)) is not None:
        if begin.group() == b'"':
            at = string_end(value, begin.end())
        else:
            at = value_end(value, begin.start())
            if at >= 0:
                parts += (value[copied : begin.start()], _rewritten(value[begin.start() : at], tree))
                copied = at
        if at < 0:
            break
    return b"".join((*parts, value[copied:]))
