"""Refuses a workspace whose tables were restored by a ClickHouse server's RESTORE.

RESTORE gives parts new block numbers and forgets deduplication tokens. Every offset in the registry would then name
other rows, so rows would be missed or delivered twice, without an error. RESTORE also gives tables new UUIDs, so the
registry records its own.
"""

from __future__ import annotations

from engine.errors import RESTORED_TABLES, RookeryError
from engine.warehouse.port import Warehouse
from engine.warehouse.registry import STATE_TABLE, Registry

KIND, NAME = "identity", "registry"


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
        registry.write(KIND, {NAME: {"uuid": uuid}})
    elif recorded != uuid:
        raise RookeryError(
            RESTORED_TABLES,
            f"the tables of workspace `{workspace}` were restored by ClickHouse, with other block numbers",
            hint="restore a copy of the server's disk instead: docs/backup.md, ClickHouse servers",
        )
