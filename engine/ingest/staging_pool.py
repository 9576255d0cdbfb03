"""Stage tables in memory: lent to one batch at a time, emptied in between."""

from __future__ import annotations

import secrets
import threading

import structlog

from engine.errors import RookeryError
from engine.ingest.values.staging import StageSchema, stage_ddl
from engine.schema import Name
from engine.warehouse import ddl
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.ingest")

KEPT_TABLES = 8
"""Empty tables kept per kind of stage."""


class StagingPool:
    """Lends stage tables. Whoever borrows one bounds how many there are."""

    def __init__(self, workspace: Workspace) -> None:
        self._warehouse = workspace.warehouse
        self._database = f"{workspace.name}_stage"
        self._free: dict[str, list[Name]] = {}
        self._lock = threading.Lock()
        self._warehouse.execute(ddl.drop_database(self._database))
        # An engine whose write of a table's definition failed half-way would not start any more.
        self._warehouse.execute(ddl.create_database(self._database, in_memory=True))

    def borrow(self, stage: StageSchema) -> Name:
        """An empty table of the stage's columns."""
        with self._lock:
            free = self._free.get(stage.identity)
            if free:
                return free.pop()
        table = Name(self._database, f"{stage.source.name[:80]}_{stage.identity}_{secrets.token_hex(4)}")
        self._warehouse.execute(stage_ddl(stage, table))
        return table

    def give_back(self, stage: StageSchema, table: Name) -> None:
        """Take a table back and empty it; one that cannot be emptied is never lent again."""
        try:
            with self._lock:
                enough = not stage.kept or len(self._free.setdefault(stage.identity, [])) >= KEPT_TABLES
            self._warehouse.execute(ddl.drop_table(table) if enough else f"TRUNCATE TABLE {table.sql()}")
        except RookeryError as exc:
            log.error("a stage could not be emptied", table=str(table), error=exc)
            return
        if not enough:
            with self._lock:
                self._free[stage.identity].append(table)
