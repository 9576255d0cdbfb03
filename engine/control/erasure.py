"""Taking one tenant's rows out of tables that others share."""

from __future__ import annotations

import time
from dataclasses import replace

from engine.compiler import storage
from engine.compiler.views import pool_table
from engine.errors import APPLY_FAILED, RookeryError
from engine.schema import Name
from engine.warehouse import ddl
from engine.workspace.workspace import Workspace

DELETE_TIMEOUT_SECONDS = 300.0
"""Seconds to wait for the engine to have taken rows out."""


def leave_pool(workspace: Workspace, tenant: str) -> None:
    """Strike a tenant off the pool, between two inserts.

    The table of ids is small and is put in place whole: a mutation would keep all inserts waiting until the engine
    gets to it, which under load may be half a minute.
    """
    pool = pool_table(workspace.name)
    fresh = replace(pool, name=Name(workspace.name, f"{storage.POOL_TABLE}_next"))
    warehouse = workspace.warehouse
    with workspace.view_lock.changing():
        warehouse.execute(ddl.drop_table(fresh.name))
        warehouse.execute(ddl.create_table(fresh))
        kept = f"SELECT id FROM {pool.name.sql()} WHERE id != {{id:String}}"
        warehouse.execute(f"INSERT INTO {fresh.name.sql()} {kept}", {"id": tenant})
        warehouse.execute(f"EXCHANGE TABLES {fresh.name.sql()} AND {pool.name.sql()}")
    warehouse.execute(ddl.drop_table(fresh.name))


def delete_rows(workspace: Workspace, table: Name, condition: str) -> None:
    """Delete rows for good, and wait until they are gone. Raises RK3010 when the engine does not manage to."""
    workspace.warehouse.execute(f"ALTER TABLE {table.sql()} DELETE WHERE {condition} SETTINGS mutations_sync = 0")
    wait_until_deleted(workspace, table)


def wait_until_deleted(workspace: Workspace, table: Name) -> None:
    """Wait until all deletions of a table's rows are done. Raises RK3010 when the engine does not manage to."""
    deadline = time.monotonic() + DELETE_TIMEOUT_SECONDS
    pause = 0.01
    while reasons := _unfinished(workspace, table):
        if any(reasons) or time.monotonic() > deadline:
            why = next((r for r in reasons if r), "it takes too long")
            raise RookeryError(APPLY_FAILED, f"deleting rows of {table} failed", hint="run it again", detail=why)
        if workspace.warehouse.capabilities.embedded:
            # With few threads for background work, the engine looks for it again only after seconds, unless told to.
            workspace.warehouse.execute(f"SYSTEM START MERGES {table.sql()}")
        time.sleep(pause)
        pause = min(pause * 2, 0.25)


def _unfinished(workspace: Workspace, table: Name) -> list[str]:
    """For each unfinished mutation of a table, why it failed last, if it did."""
    found = workspace.warehouse.query(
        "SELECT latest_fail_reason FROM system.mutations "
        "WHERE database = {d:String} AND table = {t:String} AND NOT is_done",
        {"d": table.database, "t": table.name},
    )
    return [str(row[0]) for row in found.rows]
