"""The version of the stored layout: of a workspace, in its registry, and of an embedded engine's directory.

A program opens what was written in its own layout or an earlier one, and refuses a later one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine import errors
from engine.warehouse.errors import EngineError

LAYOUT = 2
"""The layout that this program writes. Programs before there was a version wrote layout 1."""
FIRST = 1

FILE = "rookery.layout"
STOP_NAME = "written_by_a_newer_rookery"
STOP: Mapping[str, str] = {
    "text": (
        "columns: [{name: x, type: String}]\n"
        '"written by a newer rookery: upgrade this program to open the workspace": true\n'
    ),
    "file": f"stored layout {LAYOUT}",
}
"""A deployed file that programs of layout 1, which look for no version, refuse by its unknown key before they write.
This program never reads it."""


def newer(what: str, found: int) -> EngineError:
    """LAYOUT_NEWER for a workspace or directory of a later layout."""
    return EngineError(
        errors.LAYOUT_NEWER,
        f"{what} was written by a newer rookery: it has layout {found}, and this program knows up to {LAYOUT}",
        hint="upgrade rookery, or restore a backup from before the upgrade",
    )


def check_directory(path: Path) -> int:
    """The layout that a directory is marked with. Raises LAYOUT_NEWER, or LAYOUT_UNREADABLE for a damaged mark."""
    try:
        body: Any = json.loads((path / FILE).read_text(encoding="utf-8"))
        found = body["layout"]
        if not isinstance(found, int):
            raise TypeError(f"a layout is a number, not {found!r}")
    except FileNotFoundError:
        return FIRST
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise EngineError(
            errors.LAYOUT_UNREADABLE,
            f"the layout version in {path / FILE} cannot be read",
            hint='restore the file from a backup; it holds {"layout": N}, where N is the layout of the last program',
            detail=repr(exc),
        ) from exc
    if found > LAYOUT:
        raise newer(f"data directory {path}", found)
    return found


def mark_directory(path: Path) -> None:
    """Mark a directory with this program's layout, durably. Raises OSError."""
    temporary = path / f".{FILE}"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"layout": LAYOUT}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path / FILE)
