"""Locates the name in a file that an error of the engine is about, and suggests a similar name."""

from __future__ import annotations

import re

from engine.errors import FUNCTION_REFUSED, SQL_SEMANTICS, TABLE_REFUSED, TOO_COMPLEX, Place, RookeryError
from engine.project.pipe import Node

_UNKNOWN = re.compile(r"(?:identifier|with name|Identifier) (?:`([^`]+)`|'([^']+)')")
_REFUSED = re.compile(r"(?:function|node) `([^`]+)`")
_SUGGESTED = re.compile(r"Maybe you meant: \['([^']+)'")


MAX_NAME_CHARACTERS = 200
"""Longest name, in characters, that is searched in a node's SQL."""


def _find_word(name: str, sql: str, *, before: str = "", after: str = "") -> re.Match[str] | None:
    """The first occurrence of a name as a separate word, as the group `name`, between two patterns. None for a long
    name, which the engine truncates.
    """
    word = rf"{before}(?<![\w.])(?P<name>{re.escape(name)})(?!\w){after}"
    return re.search(word, sql, re.IGNORECASE if before else 0) if len(name) <= MAX_NAME_CHARACTERS else None


def _position_of(match: re.Match[str], node: Node) -> Place:
    """The place in the node's file of a match in its SQL."""
    start = match.start("name")
    before = node.sql[:start]
    return node.position(before.count("\n") + 1, start - before.rfind("\n"))


def refused_name(exc: RookeryError, node: Node) -> Place | None:
    """The position of the function or table that an error of the verifier names; None if its SQL does not have it."""
    named = _REFUSED.search(exc.message) if exc.code in (FUNCTION_REFUSED, TABLE_REFUSED) else None
    if named is None:
        return None
    if exc.code is FUNCTION_REFUSED:
        match = _find_word(named[1], node.sql, after=r"\s{0,10}\(")
    else:
        # The same word may also be a column or a text.
        match = _find_word(named[1], node.sql, before=r"\b(?:from|join|in)\s{1,20}\(?")
    match = match or _find_word(named[1], node.sql)
    return _position_of(match, node) if match else None


def unknown_name(message: str) -> str | None:
    """The name that the engine's message says is unknown."""
    match = _UNKNOWN.search(message)
    return (match[1] or match[2]) if match else None


def quotes_hint(message: str, sql: str) -> str | None:
    """A hint if the unknown name in the engine's message is in double quotes in the SQL, as text is elsewhere."""
    unknown = unknown_name(message)
    if unknown is None or len(unknown) > MAX_NAME_CHARACTERS or f'"{unknown}"' not in sql:
        return None
    text = unknown.replace("'", "\\'")
    return f"double quotes are for names; for text use single quotes: '{text}'"


def locate(exc: RookeryError, pipe: str, node: Node) -> RookeryError:
    """The engine's error about a node, with the position of an unknown name and a similar name as hint."""
    unknown = unknown_name(exc.message)
    place = node.place
    if unknown:
        match = _find_word(unknown, node.sql)
        if match:
            place = _position_of(match, node)
    suggested = _SUGGESTED.search(exc.detail or "")
    similar = f"did you mean `{suggested[1]}`?" if suggested else None
    hint = exc.hint or quotes_hint(exc.message, node.sql) or similar
    location = Place(place.file, place.line, place.column, f"pipe `{pipe}`, node `{node.name}`")
    code = exc.code if exc.code is TOO_COMPLEX else SQL_SEMANTICS
    return RookeryError(code, exc.message, hint=hint, place=location, detail=exc.detail)
