"""Migrations that need the compiled workspace; the others are in `workspace/layout.py`.

A migration runs at every start, before the first insert, until it is recorded as complete. So it must be idempotent.
In a new workspace it finds nothing to do.
"""

from __future__ import annotations

from engine.control.view_upgrades import upgrade_views
from engine.workspace.layout import Migration, run_pending
from engine.workspace.workspace import Workspace

MIGRATIONS: tuple[Migration[Workspace], ...] = (Migration("views that re-encode columns", upgrade_views),)
"""In order. Add new migrations at the end, and never remove one."""


def migrate(workspace: Workspace) -> None:
    """Run the migrations that are not recorded as complete. Raises MIGRATION_FAILED."""
    run_pending(workspace.registry, MIGRATIONS, workspace)
