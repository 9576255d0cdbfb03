"""The steps of `rookery upgrade`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cli import backup_file
from engine.backup import server_upgrade
from engine.control.upgrade import Upgrade, stopped
from engine.errors import NO_DATABASE, NOT_EMBEDDED, USAGE, RookeryError
from engine.settings import Settings
from engine.warehouse.layout_version import LAYOUT_VERSION
from engine.warehouse.server_backup import Destination
from engine.workspace.opening import has_workspace


def existing(settings: Settings) -> Settings:
    """The settings, if they name an existing workspace, not through a server. Raises NOT_EMBEDDED or NO_DATABASE."""
    if settings.url is not None:
        raise RookeryError(
            NOT_EMBEDDED,
            "`rookery upgrade` works on a data directory, or on a ClickHouse server",
            hint="unset ROOKERY_URL, and run the command where the server runs",
        )
    if not has_workspace(settings):
        place = settings.data if settings.clickhouse_url is None else "the ClickHouse server"
        raise RookeryError(
            NO_DATABASE,
            f"{place} does not contain the workspace `{settings.workspace}`",
            hint="run the command in the project's directory, or set -C DIRECTORY or --data",
        )
    return settings


def needed(settings: Settings) -> Upgrade:
    """What would be migrated. The workspace does not change."""
    if settings.clickhouse_url is not None:
        return server_upgrade.needed(settings)
    with stopped(settings) as directory:
        return directory.upgrade()


def described(settings: Settings, upgrade: Upgrade) -> dict[str, Any]:
    """An upgrade for the output."""
    return {
        **({"directory": str(settings.data)} if settings.clickhouse_url is None else {}),
        "layout": upgrade.layout,
        "current": LAYOUT_VERSION,
        "needed": upgrade.is_needed,
        "steps": list(upgrade.steps),
    }


def compared(settings: Settings, source: str | None) -> dict[str, Any]:
    """The backup on the ClickHouse server that the older version has made, compared with the workspace.

    Raises USAGE without one, NO_FILE and BACKUP_DAMAGED.
    """
    if source is None:
        raise RookeryError(
            USAGE,
            "--backup-to must name a backup on the ClickHouse server, or --no-backup skips it",
            hint="start the older version and make one with it: rookery backup disk:DISK/PATH",
        )
    return server_upgrade.compared(settings, Destination.of(source))


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
