"""The version of the stored layout, which is recorded in a workspace's registry and in an embedded engine's
directory.

A program opens its own layout and earlier ones, and refuses later ones.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import errors
from engine.settings import canonical_zone
from engine.warehouse.errors import EngineError

LAYOUT_VERSION = 2
"""The layout that this program writes. Programs that did not record a version wrote layout 1."""
FIRST_VERSION = 1

VERSION_FILE = "rookery.layout"
MAX_MARK_BYTES = 4096
"""Maximum size of the file with the version."""
STOP_NAME = "written_by_a_newer_rookery"
STOP: Mapping[str, str] = {
    "text": (
        "columns: [{name: x, type: String}]\n"
        '"written by a newer rookery: upgrade this program to open the workspace": true\n'
    ),
    "file": f"stored layout {LAYOUT_VERSION}",
}
"""A deployed file that makes programs of layout 1 refuse the workspace before they write to it.

Those programs do not check for a version, but they refuse the file because of its unknown key. This program ignores
it.
"""


def newer_layout_error(subject: str, version: int) -> EngineError:
    """LAYOUT_NEWER for the workspace or directory named by `subject`."""
    return EngineError(
        errors.LAYOUT_NEWER,
        (
            f"{subject} was written by a newer rookery: it has layout {version}, and "
            f"this version supports layouts up to {LAYOUT_VERSION}"
        ),
        hint="upgrade rookery, or restore a backup from before the upgrade",
    )


@dataclass(frozen=True, slots=True)
class DirectoryMark:
    """The file in a data directory that records how its data is stored."""

    layout: int = FIRST_VERSION
    """The version of the layout, which migrations raise."""
    zone: str | None = None
    """The time zone of the stored rows; None for a directory of an older program, which did not record it."""
    assumed: bool = False
    """Whether the zone is that of the host that first opened a directory of an older program."""


def read_mark(path: Path) -> DirectoryMark:
    """Read a directory's mark. Raises LAYOUT_NEWER, or LAYOUT_UNREADABLE if the file is damaged."""
    try:
        body: Any = json.loads(_text(path / VERSION_FILE))
        version, zone, assumed = body["layout"], body.get("timezone"), body.get("assumed", False)
        if not isinstance(version, int) or not isinstance(zone, str | None) or not isinstance(assumed, bool):
            raise TypeError(f"{body!r}")
        if zone is not None:
            # The engine's configuration contains it.
            canonical_zone(zone)
    except FileNotFoundError:
        return DirectoryMark()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise EngineError(
            errors.LAYOUT_UNREADABLE,
            f"the layout version in {path / VERSION_FILE} cannot be read",
            hint="restore the file from a backup, or write "
            f'{{"layout": {LAYOUT_VERSION}, "timezone": "UTC"}} into it, with the time zone of the stored rows',
            detail=repr(exc),
        ) from exc
    if version > LAYOUT_VERSION:
        raise newer_layout_error(f"data directory {path}", version)
    return DirectoryMark(version, zone, assumed)


def _text(file: Path) -> str:
    """The text of a small file. Raises OSError, and ValueError for another kind of file, which might never end."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_MARK_BYTES:
        raise ValueError("this is not a small file")
    return file.read_text(encoding="utf-8")


def write_mark(path: Path, mark: DirectoryMark) -> None:
    """Write a directory's mark, durably and atomically. Raises OSError."""
    temporary = path / f".{VERSION_FILE}"
    # A link of this name would lead elsewhere.
    temporary.unlink(missing_ok=True)
    with temporary.open("x", encoding="utf-8") as file:
        assumed = {"assumed": True} if mark.assumed else {}
        json.dump({"layout": mark.layout, "timezone": mark.zone, **assumed}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path / VERSION_FILE)
