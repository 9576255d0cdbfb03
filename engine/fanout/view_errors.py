"""Recognizes from the text of an error that an INSERT failed in a view, and in which.

An error may quote text of a row, which could imitate these patterns. But the beginning and the end of an error
are always written by the engine.
"""

from __future__ import annotations

import re

from engine.errors import RookeryError
from engine.schema import Name, View
from engine.warehouse.catalog import read_schema
from engine.workspace.workspace import Workspace

ERROR_TAIL_CHARACTERS = 2000
"""Number of characters at the end of an error in which the engine names views. The quoted text of a row may be much
longer.
"""
_NAME = r"while pushing to view `?([^`\s:'\".]++)`?\.`?([^`\s:'\".]++)`?(?: \([0-9a-f-]{36}\))?"
_PUSHING = re.compile(_NAME + r"(?=[:.\s]|$)")
_PUSHED = re.compile(rf"((?:: {_NAME})+)[.\s]*+(?:\([A-Z0-9_]+\))?+[.\s]*+(?:\(version .*\))?[.\s]*+$")
_TARGET = re.compile(r"(?:Code: \d+\. )?(?:DB::Exception: )?Target table '`?([^'`.]++)`?\.`?([^'`.]++)`?' of view")


def is_view_failure(exc: RookeryError) -> bool:
    """Whether an INSERT failed in a view, and not because of its own rows."""
    text = exc.detail or exc.message
    return _PUSHED.search(text[-ERROR_TAIL_CHARACTERS:]) is not None or _TARGET.match(text) is not None


def failed_view(workspace: Workspace, error: str) -> View | None:
    """The live view that an error names."""
    pushed = _PUSHED.search(error[-ERROR_TAIL_CHARACTERS:])
    # In a chain of views, the one that failed comes first.
    match = _PUSHING.search(pushed[1]) if pushed is not None else _TARGET.match(error)
    if match is None:
        return None
    name = Name(match[1], match[2])
    # rookery's views are in the database of their target. Reading only that database does not load the tables of
    # other nests.
    views = read_schema(workspace.warehouse, workspace.name, [name.database]).views
    return views.get(name) if pushed is not None else next((v for v in views.values() if v.target == name), None)
