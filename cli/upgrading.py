"""The steps of `rookery upgrade`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cli import backup_file
from engine.control.upgrade import Upgrade, stopped
from engine.errors import NO_DATABASE, NOT_EMBEDDED, RookeryError
from engine.settings import Settings
from engine.warehouse.layout_version import LAYOUT_VERSION
from engine.workspace.opening import has_workspace


def embedded(settings: Settings) -> Settings:
    """The settings, if they name an existing workspace in an embedded engine. Raises NOT_EMBEDDED or NO_DATABASE."""
    if settings.clickhouse_url is not None or settings.url is not None:
        raise RookeryError(
            NOT_EMBEDDED,
            "`rookery upgrade` works on a data directory",
            hint="unset ROOKERY_URL and ROOKERY_CLICKHOUSE_URL; with a ClickHouse server, the start migrates",
        )
    if not has_workspace(settings):
        raise RookeryError(
            NO_DATABASE,
            f"{settings.data} does not contain the workspace `{settings.workspace}`",
            hint="run the command in the project's directory, or set -C DIRECTORY or --data",
        )
    return settings


def needed(settings: Settings) -> Upgrade:
    """What would be migrated. The directory does not change."""
    with stopped(settings) as directory:
        return directory.upgrade()


def described(settings: Settings, upgrade: Upgrade) -> dict[str, Any]:
    """An upgrade for the output."""
    return {
        "directory": str(settings.data),
        "layout": upgrade.layout,
        "current": LAYOUT_VERSION,
        "needed": upgrade.is_needed,
        "steps": list(upgrade.steps),
    }


def back_up(settings: Settings, target: Path | None) -> Path:
    """Back up the directory, and migrate a copy restored from the backup. Returns the file.

    Raises BACKUP_UNUSABLE if the copy cannot be migrated. Then the directory is unchanged, and no file is left.
    """
    file = backup_file.new_file(target or settings.state_directory)
    with backup_file.written(file) as partial:
        with stopped(settings) as directory, partial.open("wb") as opened:
            opened.writelines(directory.backup())
        backup_file.verify(partial, {"workspace": settings.workspace})
    return file
