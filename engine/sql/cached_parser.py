"""A parser that puts each text to the engine once.

What the engine's parser makes of a text depends on the text alone, unlike the judgement on it, which also depends on
the names that are bound; so a push that adds a name parses only what is new.
"""

from __future__ import annotations

from typing import Any

import orjson

from engine.cache import LruCache
from engine.errors import SQL_SYNTAX, RookeryError
from engine.sql.verify import Parser

MAX_CACHED_BYTES = 8 << 10
"""Texts beyond this length are not remembered, so that the memory stays bounded."""
CACHED_TEXTS = 4_000


class CachedParser:
    """The parser it is given, with a memory. Trees are handed out as copies, because judging a text changes them."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser
        self._parsed: LruCache[str, tuple[bytes, str]] = LruCache(CACHED_TEXTS)
        self._formatted: LruCache[bytes, str] = LruCache(CACHED_TEXTS)

    def parse(self, sql: str) -> tuple[dict[str, Any], str]:
        known = self._parsed.get(sql)
        if known is not None:
            return orjson.loads(known[0]), known[1]
        tree, canonical = self._parser.parse(sql)
        if len(sql) <= MAX_CACHED_BYTES:
            self._parsed.put(sql, (_written(tree), canonical))
        return tree, canonical

    def format(self, tree: dict[str, Any]) -> str:
        text = _written(tree)
        known = self._formatted.get(text)
        if known is not None:
            return known
        found = self._parser.format(tree)
        return self._formatted.put(text, found) if len(found) <= MAX_CACHED_BYTES else found

    def functions(self) -> frozenset[str]:
        return self._parser.functions()


def _written(tree: dict[str, Any]) -> bytes:
    """A tree as JSON. Raises RK2001 for one that is deeper than JSON is written."""
    try:
        return orjson.dumps(tree)
    except TypeError as exc:
        raise RookeryError(
            SQL_SYNTAX, "the SQL text is nested too deeply", hint="put inner expressions in subqueries or nodes"
        ) from exc
