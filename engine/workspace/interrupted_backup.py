"""Ends what a killed backup or upgrade has left of a workspace on a ClickHouse server.

Its BACKUP statement may still run. It copies one moment only if nothing changes before it holds all parts.
"""

from __future__ import annotations

from engine.schema import Mark
from engine.warehouse import ddl
from engine.warehouse.port import Warehouse
from engine.warehouse.registry import Registry
from engine.warehouse.server_backup import wait_for_beginnings
from engine.workspace.restored_tables import temporary_database

KIND, NAME = "backup", "description"
"""The record that describes a backup, and is part of it."""


def end_interrupted_backup(registry: Registry, warehouse: Warehouse, workspace: str) -> None:
    """Wait until a BACKUP that still runs holds all parts, and remove its description. Raises BACKUP_RUNNING."""
    if warehouse.capabilities.embedded or NAME not in registry.read(KIND):
        return
    wait_for_beginnings(warehouse, workspace)
    # It would also be part of later copies, which it does not describe.
    registry.remove(KIND, [NAME])


def comparison_database(workspace: str) -> Mark:
    """The mark of the database to which an upgrade restores the registry of a backup, to read its description."""
    return Mark(workspace, f"{workspace}_backup", "comparison")


def drop_comparison(warehouse: Warehouse, workspace: str) -> None:
    """Drop the database that a killed upgrade has left. It contains the keys that sign tokens."""
    mark = comparison_database(workspace)
    if not warehouse.capabilities.embedded and temporary_database(warehouse, mark):
        warehouse.execute(ddl.drop_database(mark.resource))
