"""Deleting rows without waiting for an idle engine."""

from __future__ import annotations

import time

from engine.errors import APPLY_FAILED, RookeryError
from engine.schema import Name
from engine.warehouse.port import Warehouse

DELETE_TIMEOUT_SECONDS = 300.0
"""Seconds to wait until the engine has deleted rows."""


def wait_until_deleted(warehouse: Warehouse, table: Name) -> None:
    """Wait until a table has no unfinished mutation. Raises RK3010 if one fails or takes too long."""
    deadline = time.monotonic() + DELETE_TIMEOUT_SECONDS
    pause = 0.01
    while failures := _unfinished_mutations(warehouse, table):
        if any(failures) or time.monotonic() > deadline:
            reason = next((f for f in failures if f), "it takes too long")
            raise RookeryError(APPLY_FAILED, f"deleting rows of {table} failed", hint="run it again", detail=reason)
        if warehouse.capabilities.embedded:
            # After a merge, the engine looks for mutations only after up to 30 seconds. This makes it look
            # immediately.
            warehouse.execute(f"SYSTEM START MERGES {table.sql()}")
        time.sleep(pause)
        pause = min(pause * 2, 0.25)


def _unfinished_mutations(warehouse: Warehouse, table: Name) -> list[str]:
    """The latest failure of each unfinished mutation of a table; an empty string for one that has not failed."""
    result = warehouse.query(
        "SELECT latest_fail_reason FROM system.mutations "
        "WHERE database = {d:String} AND table = {t:String} AND NOT is_done",
        {"d": table.database, "t": table.name},
    )
    return [str(row[0]) for row in result.rows]
