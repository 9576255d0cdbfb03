"""Ends what a killed backup has left in the registry of a workspace on a ClickHouse server.

Its BACKUP statement may still run. It copies one moment only if nothing changes before it holds all parts.
"""

from __future__ import annotations

from engine.warehouse.port import Warehouse
from engine.warehouse.registry import Registry
from engine.warehouse.server_backup import wait_for_beginnings

KIND, NAME = "backup", "description"
"""The record that describes a backup, and is part of it."""


def end_interrupted_backup(registry: Registry, warehouse: Warehouse, workspace: str) -> None:
    """Wait until a BACKUP that still runs holds all parts, and remove its description. Raises BACKUP_RUNNING."""
    if warehouse.capabilities.embedded or NAME not in registry.read(KIND):
        return
    wait_for_beginnings(warehouse, workspace)
    # It would also be part of later copies, which it does not describe.
    registry.remove(KIND, [NAME])
