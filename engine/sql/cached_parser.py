"""A parser that caches the engine's results.

The syntax tree depends only on the SQL, while the verification also depends on the bound names. So a text that is
verified again with other names is not parsed again.
"""

from __future__ import annotations

from typing import Any

import orjson

from engine.cache import LruCache, size_of
from engine.errors import SQL_SYNTAX, RookeryError
from engine.sql.verify import Parser

CACHED_TEXTS = 4_000
"""Maximum number of cached results of `parse`, and of `format`."""


class CachedParser:
    """Wraps a parser with a cache. Each call returns a new tree, because verification changes the tree."""

    def __init__(self, parser: Parser) -> None:
        self.uncached = parser
        self._parsed: LruCache[str, tuple[bytes, str]] = LruCache(CACHED_TEXTS, weigh=size_of)
        self._formatted: LruCache[bytes, str] = LruCache(CACHED_TEXTS, weigh=size_of)

    def parse(self, sql: str) -> tuple[dict[str, Any], str]:
        cached = self._parsed.get(sql)
        if cached is not None:
            return orjson.loads(cached[0]), cached[1]
        tree, canonical = self.uncached.parse(sql)
        self._parsed.put(sql, (_as_json(tree), canonical))
        return tree, canonical

    def format(self, tree: dict[str, Any]) -> str:
        key = _as_json(tree)
        cached = self._formatted.get(key)
        if cached is not None:
            return cached
        return self._formatted.put(key, self.uncached.format(tree))

    def functions(self) -> frozenset[str]:
        return self.uncached.functions()


def _as_json(tree: dict[str, Any]) -> bytes:
    """A tree as JSON. Raises RK2001 for a tree that is too deep for the JSON library."""
    try:
        return orjson.dumps(tree)
    except TypeError as exc:
        raise RookeryError(
            SQL_SYNTAX, "the SQL text is nested too deeply", hint="put inner expressions in subqueries or nodes"
        ) from exc
