"""Steps to the present layout that need the compiled workspace; the others are in `workspace/layout.py`.

They run at every start until they are recorded as complete, before the first insert, and must be idempotent. In a new
workspace they run as well and find nothing to do.
"""

from __future__ import annotations

from engine.control.view_upgrades import upgrade_views
from engine.workspace.layout import Migration, run_pending
from engine.workspace.workspace import Workspace

MIGRATIONS: tuple[Migration[Workspace], ...] = (Migration("views that re-encode columns", upgrade_views),)
"""In order. A step is added at the end, and none is ever removed."""


def migrate(workspace: Workspace) -> None:
    """Run the steps that are left. Raises MIGRATION_FAILED."""
    run_pending(workspace.registry, MIGRATIONS, workspace)
