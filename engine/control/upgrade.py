"""What an upgrade of the embedded engine's directory would change, and a backup of the directory before it.

The directory is only read, so the program that wrote it can still open it. The engine opens a copy, made of hard
links, to read the registry.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from engine.control import migrations
from engine.settings import Settings
from engine.version import version
from engine.warehouse.archive import pack
from engine.warehouse.directory import locked
from engine.warehouse.directory_copy import DirectoryCopy, remove_copies
from engine.warehouse.errors import file_error
from engine.warehouse.layout_version import LAYOUT_VERSION, newer_layout_error, read_mark
from engine.warehouse.port import Warehouse
from engine.warehouse.registry import Registry
from engine.workspace import layout
from engine.workspace.opening import open_warehouse


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What this program would change in a directory."""

    layout: int
    """The layout version of the directory."""
    steps: tuple[str, ...]
    """Names of the migrations, in order."""

    @property
    def is_needed(self) -> bool:
        return bool(self.steps) or self.layout < LAYOUT_VERSION


class StoppedDirectory:
    """The data directory of a stopped workspace, and a copy of it."""

    def __init__(self, settings: Settings, copy: DirectoryCopy) -> None:
        self._settings = settings
        self._copy = copy
        self.mark = read_mark(settings.data)

    def backup(self) -> Iterator[bytes]:
        """The bytes of a backup of the directory. Must be read before `upgrade` is called. Raises OSError."""
        tables = {f"{t.name.database}.{t.name.name}": t for t in self._copy.tables()}
        description: dict[str, Any] = {
            "rookery": version(),
            "layout": self.mark.layout,
            "timezone": self.mark.zone,
            "workspace": self._settings.workspace,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "tables": {name: {"rows": t.rows, "parts": t.parts} for name, t in tables.items()},
        }
        return pack(self._copy.path, description)

    def upgrade(self) -> Upgrade:
        """What would be migrated. Opens the copy. Raises LAYOUT_NEWER and the errors of opening a database."""
        warehouse = open_warehouse(self._settings.model_copy(update={"data": self._copy.path}))
        try:
            found = pending(warehouse, self._settings.workspace)
        finally:
            warehouse.close()
        return replace(found, layout=min(found.layout, self.mark.layout))


def pending(warehouse: Warehouse, workspace: str) -> Upgrade:
    """What would be migrated in an open database. Raises LAYOUT_NEWER."""
    registry = Registry(warehouse, workspace)
    done = registry.read("migration")
    written = layout.layout_of(registry)
    if written > LAYOUT_VERSION:
        raise newer_layout_error(f"workspace `{workspace}`", written)
    names = (*(m.name for m in layout.MIGRATIONS), *(m.name for m in migrations.MIGRATIONS))
    return Upgrade(written, tuple(n for n in names if n not in done))


@contextmanager
def stopped(settings: Settings) -> Iterator[StoppedDirectory]:
    """The data directory of the settings, which no process may have open meanwhile.

    Raises DIRECTORY_BUSY, LAYOUT_NEWER, LAYOUT_UNREADABLE, DISK_FULL and STORAGE.
    """
    with locked(settings.data):
        read_mark(settings.data)
        remove_copies(settings.data)
        try:
            copy = DirectoryCopy(settings.data)
            try:
                copy.finish()
                yield StoppedDirectory(settings, copy)
            finally:
                copy.remove()
                shutil.rmtree(copy.path.parent, ignore_errors=True)
        except OSError as exc:
            raise file_error(exc) from exc
