"""Migrates a workspace of an earlier version of rookery to the current layout.

`MIGRATIONS` is the ordered list of steps between opening the database and reading the deployed files; steps that need
the compiled workspace are in `control/migrations.py`. A step is recorded in the registry when it is complete. If the
process is killed before that, the step runs again at the next start, so every step must be idempotent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog

from engine.errors import MIGRATION_FAILED, RookeryError
from engine.settings import Settings
from engine.warehouse.layout_version import FIRST_VERSION, LAYOUT_VERSION, STOP, STOP_NAME, newer_layout_error
from engine.warehouse.port import Warehouse
from engine.warehouse.registry import Registry
from engine.workspace.restored_tables import check_identity
from engine.workspace.time_zone import check_zone, first_zone, zone_rows

T = TypeVar("T")
VERSION_NAME = "version"

log = structlog.get_logger("rookery.layout")


@dataclass(frozen=True, slots=True)
class Opening:
    """A workspace with an open database, before its deployed files are read."""

    warehouse: Warehouse
    registry: Registry
    settings: Settings


@dataclass(frozen=True)
class Migration(Generic[T]):
    """A step to the current layout."""

    name: str
    """The name is stored, so it must never change."""
    run: Callable[[T], None]
    """Must be idempotent, because it may be killed at any point and repeated."""


def _keep_zone(opening: Opening) -> None:
    """Record the time zone in which rows were written: that of the host or of the ClickHouse server."""
    assumed = opening.settings.timezone is None and opening.warehouse.capabilities.embedded
    opening.registry.write_all(zone_rows(opening.warehouse.zone, assumed=assumed))


MIGRATIONS: tuple[Migration[Opening], ...] = (Migration("time zone", _keep_zone),)
"""In order. Add new steps at the end, and never remove one."""


def migrate(opening: Opening) -> None:
    """Migrate a workspace to the current layout; record the layout in a new workspace.

    Raises LAYOUT_NEWER, RESTORED_TABLES or ZONE before anything is written. Raises MIGRATION_FAILED; earlier steps
    stay complete.
    """
    registry = opening.registry
    version = layout_of(registry)
    if version > LAYOUT_VERSION:
        raise newer_layout_error(f"workspace `{opening.settings.workspace}`", version)
    marks: dict[str, Mapping[str, Mapping[str, Any]]] = {
        "layout": {VERSION_NAME: {"version": LAYOUT_VERSION}},
        "resource": {STOP_NAME: STOP},
    }
    if registry.empty():
        zone = first_zone(opening.warehouse, opening.settings)
        # In one insert: after a kill, the registry is still empty, or it is complete.
        registry.write_all({**marks, **zone_rows(zone), "migration": {m.name: {} for m in MIGRATIONS}})
        check_identity(registry, opening.warehouse, opening.settings.workspace)
        return
    check_identity(registry, opening.warehouse, opening.settings.workspace)
    check_zone(registry, opening.warehouse, opening.settings)
    if version < LAYOUT_VERSION:
        # From here on, earlier versions refuse the workspace, so they never see it half migrated.
        registry.write_all(marks)
    run_pending(registry, MIGRATIONS, opening)


def layout_of(registry: Registry) -> int:
    """The layout version in the registry."""
    return int(registry.read("layout").get(VERSION_NAME, {}).get("version", FIRST_VERSION))


def run_pending(registry: Registry, migrations: Sequence[Migration[T]], subject: T) -> None:
    """Run the steps that are not recorded as complete, in order. Raises MIGRATION_FAILED."""
    done = registry.read("migration")
    for migration in migrations:
        if migration.name in done:
            continue
        log.info("migrating the stored layout", step=migration.name)
        try:
            migration.run(subject)
        except RookeryError as exc:
            raise RookeryError(
                MIGRATION_FAILED,
                f"migrating to layout {LAYOUT_VERSION} failed in step `{migration.name}`: {exc.message}",
                hint=exc.hint or "remove the cause and start again: completed steps are not repeated",
                detail=exc.detail,
            ) from exc
        registry.write("migration", {migration.name: {}})
