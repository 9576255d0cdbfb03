"""Parses the engine's canonical definition of a table or view: clauses, settings, constraints and a view's target.

This module only parses text that the engine has printed, never text of an author. It is on one line and has only one
spelling for everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from engine.schema import Name

# An unclosed quote matches up to the end of the text. Otherwise, text with many quotes would take quadratic time.
_QUOTED = re.compile(
    r"'(?:[^'\\]|\\(?:.|\Z)|'')*+(?:'|\Z)|`(?:[^`\\]|\\(?:.|\Z)|``)*+(?:`|\Z)|\"(?:[^\"\\]|\\(?:.|\Z))*+(?:\"|\Z)",
    re.DOTALL,
)
# Everything else is skipped by the regular expression engine: definitions are long, and a push reads all of them.
_SIGN = re.compile(rf"{_QUOTED.pattern}|[()\[\]{{}} ,]", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_IDENTIFIER = r"(?:`(?:[^`\\]|\\.)*`|[A-Za-z_][A-Za-z0-9_]*)"
_TARGET = re.compile(rf" TO ({_IDENTIFIER})\.({_IDENTIFIER})")
_CONSTRAINT = re.compile(rf"CONSTRAINT ({_IDENTIFIER}) CHECK (.*)", re.DOTALL)
_KEYWORDS = ("PARTITION BY", "PRIMARY KEY", "ORDER BY", "SAMPLE BY", "TTL", "SETTINGS", "COMMENT")


@dataclass(frozen=True, slots=True)
class Clauses:
    """An engine with its arguments, and the clauses that follow it. Absent clauses are empty."""

    engine: str
    partition_key: str = ""
    primary_key: str = ""
    sorting_key: str = ""
    sampling_key: str = ""
    ttl: str = ""
    settings: tuple[tuple[str, str], ...] = ()


def read_clauses(engine_full: str) -> Clauses:
    """Split the text of `system.tables.engine_full` into its clauses."""
    starts = sorted((at, word) for word in _KEYWORDS for at in [_find(engine_full, f" {word} ")] if at >= 0)
    bounds = [*starts, (len(engine_full), "")]
    clauses = {word: engine_full[at + len(word) + 2 : end] for (at, word), (end, _) in pairwise(bounds)}
    engine = engine_full[: starts[0][0]] if starts else engine_full
    return Clauses(
        engine=unquote(engine) if engine.startswith("`") and engine.endswith("`") else engine,
        partition_key=clauses.get("PARTITION BY", ""),
        primary_key=clauses.get("PRIMARY KEY", ""),
        sorting_key=clauses.get("ORDER BY", ""),
        sampling_key=clauses.get("SAMPLE BY", ""),
        ttl=clauses.get("TTL", ""),
        settings=_settings(clauses.get("SETTINGS", "")),
    )


def as_expression(text: str) -> str:
    """An index's expression in the form that a definition needs: several columns are enclosed in brackets."""
    return f"({text})" if len(_split(text)) > 1 else text


def read_constraints(create_query: str) -> tuple[tuple[str, str], ...]:
    """The name and expression of each CHECK constraint in a CREATE TABLE."""
    start = create_query.find("(") + 1
    if "CONSTRAINT" not in create_query or start == 0:
        return ()
    body = create_query[start : _closing(create_query, start)]
    matches = (_CONSTRAINT.fullmatch(part.strip()) for part in _split(body))
    return tuple((unquote(m[1]), m[2]) for m in matches if m)


def read_target(create_query: str) -> Name | None:
    """The target of a CREATE MATERIALIZED VIEW … TO, or None."""
    match = _TARGET.search(create_query)
    return Name(unquote(match[1]), unquote(match[2])) if match else None


def unquote(identifier: str) -> str:
    """An identifier without the engine's quotes and escapes."""
    if not identifier.startswith("`"):
        return identifier
    return _ESCAPED.sub(lambda m: _ESCAPES.get(m[1], m[1]), identifier[1:-1])


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f"}


def _settings(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (part.strip().partition(" = ") for part in _split(text))
    # The engine adds the default granularity to every table, even if its definition does not have it.
    return tuple(sorted((k, v) for k, _, v in pairs if k and (k, v) != ("index_granularity", "8192")))


def _outside(text: str, start: int = 0) -> Iterator[tuple[int, str, int]]:
    """Position, character and bracket depth of the spaces, commas and brackets outside quotes.

    Brackets have their outer depth.
    """
    depth = 0
    for sign in _SIGN.finditer(text, start):
        char = sign[0]
        if char[0] in "'`\"":
            continue
        depth -= char in ")]}"
        yield sign.start(), char, depth
        depth += char in "([{"


def _find(text: str, words: str) -> int:
    """The position of words outside quotes and brackets, or -1. They must begin with a space."""
    if words not in text:
        return -1
    return next(
        (at for at, char, depth in _outside(text) if not depth and char == " " and text.startswith(words, at)), -1
    )


def _closing(text: str, start: int) -> int:
    """The position of the bracket that closes the one just before `start`."""
    return next((at for at, _, depth in _outside(text, start) if depth < 0), len(text))


def _split(text: str) -> list[str]:
    """The parts between commas outside quotes and brackets."""
    cuts = [-1, *(at for at, char, depth in _outside(text) if not depth and char == ","), len(text)]
    return [text[a + 1 : b] for a, b in pairwise(cuts)]
