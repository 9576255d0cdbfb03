"""Where in a file stands what the engine does not know, and what may have been meant."""

from __future__ import annotations

import re

from engine.errors import SQL_SEMANTICS, TOO_COMPLEX, Place, RookeryError
from engine.project.model import Node

_UNKNOWN = re.compile(r"(?:identifier|with name|Identifier) [`']([^`']+)[`']")
_MEANT = re.compile(r"Maybe you meant: \['([^']+)'")


MAX_NAME_CHARACTERS = 200
"""Characters of a name that is looked for."""


def _where(name: str, sql: str) -> re.Match[str] | None:
    """Where a name stands as a word of its own. The engine cuts what is longer than names are."""
    return re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", sql) if len(name) <= MAX_NAME_CHARACTERS else None


def locate(exc: RookeryError, pipe: str, node: Node) -> RookeryError:
    """The engine's complaint about a node, with the place of the name that it does not know, and one like it."""
    unknown = _UNKNOWN.search(exc.message)
    spot = node.place
    if unknown:
        found = _where(unknown[1], node.sql)
        if found:
            before = node.sql[: found.start()]
            spot = node.position(before.count("\n") + 1, found.start() - before.rfind("\n"))
    meant = _MEANT.search(exc.detail or "")
    hint = f"did you mean `{meant[1]}`?" if meant and exc.hint is None else exc.hint
    place = Place(spot.file, spot.line, spot.column, f"pipe `{pipe}`, node `{node.name}`")
    code = exc.code if exc.code is TOO_COMPLEX else SQL_SEMANTICS
    return RookeryError(code, exc.message, hint=hint, place=place, detail=exc.detail)
