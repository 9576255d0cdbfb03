"""What an upgrade of a workspace on a ClickHouse server would change, and the backup that it relies on.

The older program makes the backup, because only a running one can complete its deliveries. Here it is only compared
with the workspace.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from engine.backup import description as descriptions
from engine.backup.description import Description, own_databases, stored_tables
from engine.control.upgrade import Upgrade, pending
from engine.errors import ALREADY_EXISTS, BACKUP_DAMAGED, RookeryError
from engine.schema import Name
from engine.settings import Settings
from engine.warehouse import ddl
from engine.warehouse.port import Warehouse
from engine.warehouse.registry import STATE_TABLE, Registry
from engine.warehouse.server_backup import Destination, started
from engine.workspace.interrupted_backup import comparison_database
from engine.workspace.opening import open_warehouse
from engine.workspace.restored_tables import temporary_database


def needed(settings: Settings) -> Upgrade:
    """What would be migrated. The workspace does not change. Raises LAYOUT_NEWER."""
    with closing(open_warehouse(settings)) as warehouse:
        return pending(warehouse, settings.workspace)


def compared(settings: Settings, source: Destination) -> dict[str, Any]:
    """When a backup of the workspace was made, and how many rows its tables have received since.

    Raises BACKUP_DAMAGED if it is not a backup of this workspace, NO_FILE and the errors of the engine.
    """
    with closing(open_warehouse(settings)) as warehouse:
        description = _read(warehouse, settings.workspace, source)
        tables = stored_tables(warehouse, own_databases(warehouse, settings.workspace))
    state = Name(settings.workspace, STATE_TABLE)
    if state not in description.tables or description.tables[state].uuid != tables[state].uuid:
        raise RookeryError(
            BACKUP_DAMAGED,
            f"{source} is not a backup of this workspace, but of another one of the same name",
            hint="make one with `rookery backup`, with the older version",
        )
    since = sum(
        max(0, table.rows - description.tables[name].rows if name in description.tables else table.rows)
        for name, table in tables.items()
        if table.keeps_rows
    )
    return {"destination": str(source), "created_at": description.created_at, "rows_since": since}


def _read(warehouse: Warehouse, workspace: str, source: Destination) -> Description:
    """Read the description of a backup, through a database that is dropped again."""
    mark = comparison_database(workspace)
    temporary = mark.resource
    if temporary_database(warehouse, mark) is False:
        raise RookeryError(
            ALREADY_EXISTS, f"database `{temporary}` already exists", hint="drop it, or use --no-backup"
        )
    # A command that was killed has left it.
    warehouse.execute(ddl.drop_database(temporary))
    warehouse.execute(ddl.create_database(temporary, mark))
    try:
        copied, original = Name(temporary, STATE_TABLE), Name(workspace, STATE_TABLE)
        sql = f"RESTORE TABLE {original.sql()} AS {copied.sql()} FROM {source.sql()}"
        with started(warehouse, sql, source, workspace) as statement:
            statement.wait("reading the backup", lambda *_: None)
        return descriptions.read(Registry(warehouse, temporary), workspace)
    finally:
        warehouse.execute(ddl.drop_database(temporary))
