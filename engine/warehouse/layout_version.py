"""The version of the stored layout: of a workspace, in its registry, and of an embedded engine's directory.

A program opens what was written in its own layout or an earlier one, and refuses a later one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import errors
from engine.warehouse.errors import EngineError

LAYOUT_VERSION = 2
"""The layout that this program writes. Programs before there was a version wrote layout 1."""
FIRST_VERSION = 1

VERSION_FILE = "rookery.layout"
STOP_NAME = "written_by_a_newer_rookery"
STOP: Mapping[str, str] = {
    "text": (
        "columns: [{name: x, type: String}]\n"
        '"written by a newer rookery: upgrade this program to open the workspace": true\n'
    ),
    "file": f"stored layout {LAYOUT_VERSION}",
}
"""A deployed file that programs of layout 1, which look for no version, refuse by its unknown key before they write.
This program never reads it."""


def newer_layout_error(what: str, found: int) -> EngineError:
    """LAYOUT_NEWER for a workspace or directory of a later layout."""
    return EngineError(
        errors.LAYOUT_NEWER,
        f"{what} was written by a newer rookery: it has layout {found}, this program knows up to {LAYOUT_VERSION}",
        hint="upgrade rookery, or restore a backup from before the upgrade",
    )


@dataclass(frozen=True, slots=True)
class DirectoryMark:
    """What a directory is marked with: its layout, and once it is known the time zone of its rows."""

    layout: int = FIRST_VERSION
    zone: str | None = None


def read_mark(path: Path) -> DirectoryMark:
    """A directory's mark. Raises LAYOUT_NEWER, or LAYOUT_UNREADABLE for a damaged one."""
    try:
        body: Any = json.loads((path / VERSION_FILE).read_text(encoding="utf-8"))
        found, zone = body["layout"], body.get("timezone")
        if not isinstance(found, int) or not isinstance(zone, str | None):
            raise TypeError(f"{body!r}")
    except FileNotFoundError:
        return DirectoryMark()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise EngineError(
            errors.LAYOUT_UNREADABLE,
            f"the layout version in {path / VERSION_FILE} cannot be read",
            hint="restore the file from a backup, or write "
            f'{{"layout": {LAYOUT_VERSION}, "timezone": "UTC"}} into it, with the time zone of the stored rows',
            detail=repr(exc),
        ) from exc
    if found > LAYOUT_VERSION:
        raise newer_layout_error(f"data directory {path}", found)
    return DirectoryMark(found, zone)


def write_mark(path: Path, zone: str) -> None:
    """Mark a directory with this program's layout and a time zone, durably. Raises OSError."""
    temporary = path / f".{VERSION_FILE}"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"layout": LAYOUT_VERSION, "timezone": zone}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path / VERSION_FILE)
