"""Locates the name in a file that an error of the engine is about, and suggests a similar name."""

from __future__ import annotations

import re

from engine.errors import SQL_SEMANTICS, TOO_COMPLEX, Place, RookeryError
from engine.project.pipe import Node

_UNKNOWN = re.compile(r"(?:identifier|with name|Identifier) (?:`([^`]+)`|'([^']+)')")
_SUGGESTED = re.compile(r"Maybe you meant: \['([^']+)'")


MAX_NAME_CHARACTERS = 200
"""Longest name, in characters, that is searched in a node's SQL."""


def _find_word(name: str, sql: str) -> re.Match[str] | None:
    """The first occurrence of a name as a separate word; None for a long name, which the engine truncates."""
    return re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", sql) if len(name) <= MAX_NAME_CHARACTERS else None


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
            before = node.sql[: match.start()]
            place = node.position(before.count("\n") + 1, match.start() - before.rfind("\n"))
    suggested = _SUGGESTED.search(exc.detail or "")
    similar = f"did you mean `{suggested[1]}`?" if suggested else None
    hint = exc.hint or quotes_hint(exc.message, node.sql) or similar
    location = Place(place.file, place.line, place.column, f"pipe `{pipe}`, node `{node.name}`")
    code = exc.code if exc.code is TOO_COMPLEX else SQL_SEMANTICS
    return RookeryError(code, exc.message, hint=hint, place=location, detail=exc.detail)
