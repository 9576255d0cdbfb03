"""Stages: in-memory tables, each of which is lent to one batch at a time and emptied before it is lent again."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from functools import partial

import structlog

from engine.errors import RookeryError
from engine.ingest.values.staging import StageSchema, stage_ddl
from engine.schema import Name
from engine.warehouse import ddl
from engine.warehouse.errors import is_lost_stage
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.ingest")

KEPT_TABLES = 8
"""Maximum number of empty tables that the pool keeps for each stage schema."""


class BorrowedStage:
    """A stage on loan to one batch. Leaving its `with` block returns it, unless it was handed over."""

    def __init__(self, pool: StagingPool, schema: StageSchema, table: Name) -> None:
        self.table = table
        self._return = partial(pool.give_back, schema, table)
        self._forget = pool.forget
        self._is_handed_over = False

    def hand_over(self) -> Callable[[], None]:
        """Pass the stage on to another owner, who must call the returned function once to return it."""
        self._is_handed_over = True
        return self._return

    def __enter__(self) -> BorrowedStage:
        return self

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> None:
        if is_lost_stage(exc):
            self._forget()
        elif not self._is_handed_over:
            self._return()


class StagingPool:
    """Lends stages. The number of concurrent batches bounds the number of tables. Any thread may use it."""

    def __init__(self, workspace: Workspace) -> None:
        self._warehouse = workspace.warehouse
        self._database = f"{workspace.name}_stage"
        self._free: dict[str, list[Name]] = {}
        self._lock = threading.Lock()
        # A ClickHouse server still has the stages of the last process.
        self._warehouse.execute(ddl.drop_database(self._database))
        # The database keeps no files: a table definition that a failing disk truncates prevents the engine's start.
        self._warehouse.execute(ddl.create_database(self._database, in_memory=True))

    def borrow(self, schema: StageSchema) -> BorrowedStage:
        """Lend an empty table with the schema's columns."""
        with self._lock:
            free = self._free.get(schema.identity)
            if free:
                return BorrowedStage(self, schema, free.pop())
        table = Name(self._database, f"{schema.source.name[:80]}_{schema.identity}_{secrets.token_hex(4)}")
        self._warehouse.execute(stage_ddl(schema, table))
        return BorrowedStage(self, schema, table)

    def give_back(self, schema: StageSchema, table: Name) -> None:
        """Empty a table and keep it for the next batch. Never raises: one that cannot be emptied is not reused."""
        try:
            # The lock is not held during the engine's work, so two threads may keep one table too many, which is
            # harmless.
            with self._lock:
                drop = not schema.reusable or len(self._free.setdefault(schema.identity, [])) >= KEPT_TABLES
            self._warehouse.execute(ddl.drop_table(table) if drop else f"TRUNCATE TABLE {table.sql()}")
        except RookeryError as exc:
            log.error("cannot empty a stage", table=str(table), error=exc)
            if is_lost_stage(exc):
                self.forget()
            return
        if not drop:
            with self._lock:
                self._free.setdefault(schema.identity, []).append(table)

    def forget(self) -> None:
        """Forget the tables that are kept: a ClickHouse server loses them when it is restarted."""
        with self._lock:
            self._free.clear()
