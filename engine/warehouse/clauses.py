"""Reading the engine's own canonical text of a table: its clauses, settings, constraints and a view's target.

Only text that the engine printed is read here, never an author's: it is on one line, with one spelling of each thing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from engine.schema import Name

# Quotes that never close go to the end, so that no text is looked through once for each quote in it.
_QUOTED = re.compile(
    r"'(?:[^'\\]|\\(?:.|\Z)|'')*+(?:'|\Z)|`(?:[^`\\]|\\(?:.|\Z)|``)*+(?:`|\Z)|\"(?:[^\"\\]|\\(?:.|\Z))*+(?:\"|\Z)",
    re.DOTALL,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_IDENTIFIER = r"(?:`(?:[^`\\]|\\.)*`|[A-Za-z_][A-Za-z0-9_]*)"
_TARGET = re.compile(rf" TO ({_IDENTIFIER})\.({_IDENTIFIER})")
_CONSTRAINT = re.compile(rf"CONSTRAINT ({_IDENTIFIER}) CHECK (.*)", re.DOTALL)
_KEYWORDS = ("PARTITION BY", "PRIMARY KEY", "ORDER BY", "SAMPLE BY", "TTL", "SETTINGS", "COMMENT")


@dataclass(frozen=True, slots=True)
class Clauses:
    """An engine with its arguments, and the clauses behind it."""

    engine: str
    partition_key: str = ""
    primary_key: str = ""
    sorting_key: str = ""
    sampling_key: str = ""
    ttl: str = ""
    settings: tuple[tuple[str, str], ...] = ()


def read_clauses(engine_full: str) -> Clauses:
    """The clauses of `system.tables.engine_full`."""
    cuts = sorted((at, word) for word in _KEYWORDS for at in [_find(engine_full, f" {word} ")] if at >= 0)
    ends = [*cuts, (len(engine_full), "")]
    found = {word: engine_full[at + len(word) + 2 : end] for (at, word), (end, _) in pairwise(ends)}
    engine = engine_full[: cuts[0][0]] if cuts else engine_full
    return Clauses(
        engine=unquote(engine) if engine.startswith("`") and engine.endswith("`") else engine,
        partition_key=found.get("PARTITION BY", ""),
        primary_key=found.get("PRIMARY KEY", ""),
        sorting_key=found.get("ORDER BY", ""),
        sampling_key=found.get("SAMPLE BY", ""),
        ttl=found.get("TTL", ""),
        settings=_settings(found.get("SETTINGS", "")),
    )


def as_expression(text: str) -> str:
    """An index's expression as it must stand in a definition: several columns stand in brackets."""
    return f"({text})" if len(_split(text)) > 1 else text


def read_constraints(create_query: str) -> tuple[tuple[str, str], ...]:
    """Name and expression of each CHECK constraint in a CREATE TABLE."""
    start = create_query.find("(") + 1
    if "CONSTRAINT" not in create_query or start == 0:
        return ()
    body = create_query[start : _closing(create_query, start)]
    matches = (_CONSTRAINT.fullmatch(part.strip()) for part in _split(body))
    return tuple((unquote(m[1]), m[2]) for m in matches if m)


def read_target(create_query: str) -> Name | None:
    """The table that a CREATE MATERIALIZED VIEW … TO fills."""
    found = _TARGET.search(create_query)
    return Name(unquote(found[1]), unquote(found[2])) if found else None


def unquote(identifier: str) -> str:
    """An identifier without the quotes and escapes that the engine gave it."""
    if not identifier.startswith("`"):
        return identifier
    return _ESCAPED.sub(lambda m: _ESCAPES.get(m[1], m[1]), identifier[1:-1])


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f"}


def _settings(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (part.strip().partition(" = ") for part in _split(text))
    # The engine writes the default granularity into every table, asked or not.
    return tuple(sorted((k, v) for k, _, v in pairs if k and (k, v) != ("index_granularity", "8192")))


def _outside(text: str, start: int = 0) -> Iterator[tuple[int, str, int]]:
    """Position, character and depth of brackets for everything outside quotes."""
    depth, at = 0, start
    while at < len(text):
        quoted = _QUOTED.match(text, at)
        if quoted:
            at = quoted.end()
            continue
        char = text[at]
        depth -= char in ")]}"
        yield at, char, depth
        depth += char in "([{"
        at += 1


def _find(text: str, words: str) -> int:
    """Where words stand outside quotes and brackets, or -1."""
    return next(
        (at for at, char, depth in _outside(text) if not depth and char == " " and text.startswith(words, at)), -1
    )


def _closing(text: str, start: int) -> int:
    return next((at for at, _, depth in _outside(text, start) if depth < 0), len(text))


def _split(text: str) -> list[str]:
    """The parts between commas outside quotes and brackets."""
    cuts = [-1, *(at for at, char, depth in _outside(text) if not depth and char == ","), len(text)]
    return [text[a + 1 : b] for a, b in pairwise(cuts)]
