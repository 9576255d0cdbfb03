"""Refuses a workspace whose tables were restored by a ClickHouse server's RESTORE, and not by `rookery restore`.

RESTORE gives parts new block numbers and forgets deduplication tokens. Every offset in the registry would then name
other rows, so rows would be missed or delivered twice, without an error. RESTORE also gives tables new UUIDs, so the
registry records its own. `rookery restore` adapts the offsets, and this record with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import RESTORE_UNFINISHED, RESTORED_TABLES, RookeryError
from engine.schema import Mark
from engine.warehouse.port import Warehouse
from engine.warehouse.registry import STATE_TABLE, Registry

KIND, NAME = "identity", "registry"
MARK_KIND = "restore"
"""Kind of the mark of the database that exists while a workspace is being restored."""


def check_identity(registry: Registry, warehouse: Warehouse, workspace: str) -> None:
    """Record the UUID of the registry's table on first use. Raises RESTORED_TABLES if it has another one now.

    Does nothing for an embedded engine: `rookery restore` keeps UUIDs and block numbers.
    """
    if warehouse.capabilities.embedded:
        return
    rows = warehouse.query(
        "SELECT toString(uuid) FROM system.tables WHERE database = {d:String} AND name = {t:String}",
        {"d": workspace, "t": STATE_TABLE},
    ).rows
    uuid = str(rows[0][0])
    recorded = registry.read(KIND).get(NAME, {}).get("uuid")
    if recorded is None:
        registry.write_all(identity_rows(uuid))
    elif recorded != uuid:
        raise RookeryError(
            RESTORED_TABLES,
            f"the tables of workspace `{workspace}` were restored by ClickHouse, with other block numbers",
            hint="restore with `rookery restore`, or restore a copy of the server's disk: docs/backup.md",
        )


def identity_rows(uuid: str) -> dict[str, Mapping[str, Mapping[str, Any]]]:
    """The registry's records of its table's UUID."""
    return {KIND: {NAME: {"uuid": uuid}}}


def restoring_database(workspace: str) -> str:
    """The database that exists while a workspace is being restored. It contains the registry of the backup."""
    return f"{workspace}_restore"


def is_being_restored(warehouse: Warehouse, workspace: str) -> bool:
    """Whether a restore of a workspace has begun and is not complete."""
    return temporary_database(warehouse, Mark(workspace, restoring_database(workspace), MARK_KIND)) is True


def temporary_database(warehouse: Warehouse, mark: Mark) -> bool | None:
    """Whether the database that the mark names has this mark; None without such a database."""
    rows = warehouse.query("SELECT comment FROM system.databases WHERE name = {d:String}", {"d": mark.resource}).rows
    return Mark.read(str(rows[0][0])) == mark if rows else None


def refuse_unfinished_restore(warehouse: Warehouse, workspace: str) -> None:
    """Raise RESTORE_UNFINISHED while a workspace on a ClickHouse server is being restored."""
    if not warehouse.capabilities.embedded and is_being_restored(warehouse, workspace):
        raise RookeryError(
            RESTORE_UNFINISHED,
            f"workspace `{workspace}` is being restored",
            hint="wait until `rookery restore` ends; if it was interrupted, run it again: it starts over",
        )
