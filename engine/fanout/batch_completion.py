"""Completes one uncertain batch: inserts it again with its own token, from the rows that are still known.

Tables that have the batch recognize the token; the others store it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from engine.errors import IN_DOUBT, RookeryError
from engine.fanout.handover import BatchBlocks
from engine.fanout.insert_failures import InsertFailures
from engine.fanout.insert_to_all import insert_to_all
from engine.fanout.kept_rows import KeptBatch
from engine.fanout.landing_log import GATEWAY_BATCH_PREFIX, Block, LandingLog
from engine.plan.coverage import Coverage
from engine.schema import Name, quote
from engine.warehouse import ddl
from engine.warehouse.catalog import read_schema
from engine.warehouse.port import DamagedPart
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.fanout")

UNCERTAIN_KIND = "doubt"
"""Kind of the records in the registry."""
NEWEST_BATCH = ""
"""The id that means the newest batch of a datasource, whose own id is unknown: a killed process may have been storing
it.
"""
LOOK_BACK_BLOCKS = 16
"""Number of newest blocks in which the gateway's newest batch is searched, because other programs may also insert.
For older blocks, targets may have forgotten the token, so a repeated insert would duplicate the rows.
"""


@dataclass(slots=True)
class UncertainBatch:
    """One uncertain batch."""

    datasource: str
    batch: str
    """Its identity; NEWEST_BATCH if it is unknown."""
    since: float
    """When it was sent, in seconds since 1970."""
    error: str = ""
    """The last error."""
    tries: int = 0
    """Failed attempts to complete it."""
    recorded: bool = False
    """Whether it is in the registry, so that a restart knows it."""
    kept: KeptBatch | None = None
    """Its rows, if they cannot be read back from the datasource."""

    def as_dict(self) -> dict[str, Any]:
        return {"datasource": self.datasource, "batch": self.batch, "since": self.since, "error": self.error}


class BatchCompletion:
    """Completes batches of one workspace. The calling thread holds the insert lock exclusively."""

    def __init__(self, workspace: Workspace, failures: InsertFailures) -> None:
        self._workspace = workspace
        self._failures = failures

    def complete(self, uncertain: UncertainBatch) -> None:
        """Deliver a batch to every table, or drop it if its datasource does not have it.

        Raises RK5013 while the database still stores it, and the errors of `insert_to_all`.
        """
        workspace = self._workspace
        if uncertain.kept is not None:
            self._complete_kept(uncertain.kept)
            return
        relation = workspace.current.build.relations.get(uncertain.datasource)
        if relation is None or relation.kind != "landing":
            return
        landing = LandingLog(workspace.warehouse, workspace.name, relation)
        self._require_finished(uncertain.batch or f"INSERT INTO {landing.table.sql()} ")
        batch = uncertain.batch
        block = landing.block_of(batch, uncertain.since) if batch else self._newest_block(landing)
        if block is None:
            # Landing is written first, so if it does not have the block, views do not have the batch either.
            return
        # Inserted from landing, because the stage does not survive a restart and may already be used by another
        # batch.
        rows = (
            f"SELECT {', '.join(map(quote, relation.columns))} FROM {landing.table.sql()} "
            f"WHERE _block_number = {block.number}"
        )
        insert = ddl.insert_block(
            landing.table.sql(), relation.columns, block.batch, rows, **self._limits(len(relation.columns))
        )
        self._insert(insert, BatchBlocks(uncertain.datasource, block.batch))

    def _complete_kept(self, kept: KeptBatch) -> None:
        """Insert kept rows again, if the table may have some of them, and delete them."""
        workspace = self._workspace
        if kept.matches_datasource(workspace):
            self._require_finished(kept.batch)
            source = workspace.current.build.datasources[kept.datasource]
            # Rows of a landing datasource are kept only once views have them.
            if source.is_landing or kept.reached_table(workspace):
                kept.remove_damaged_rest(workspace)
                after = None if source.is_landing else kept.after
                self._insert(
                    kept.insert(workspace, **self._limits(len(kept.columns))),
                    BatchBlocks(kept.datasource, kept.batch, after=after),
                    kept,
                )
        # Also done if the datasource now has other columns, because the rows no longer fit its table.
        kept.delete(workspace)

    def _limits(self, columns: int) -> dict[str, int]:
        """The settings of an INSERT of this many columns."""
        return {"max_memory_usage": self._workspace.settings.delivery_memory(columns)}

    def _require_finished(self, query: str) -> None:
        """Raise RK5013 while the database still runs a query whose text contains this one."""
        # A second INSERT at the same time could store the rows twice, because the engine knows a token only after it
        # has stored the rows.
        if self._workspace.warehouse.is_running(query):
            raise RookeryError(IN_DOUBT, "the database is still storing the batch", headers={"Retry-After": "1"})
        self._workspace.warehouse.forget_unstored_tokens()

    def _insert(self, insert: str, block: BatchBlocks, kept: KeptBatch | None = None) -> None:
        """Run the repeated INSERT. A view that has failed for long enough is suspended."""
        before_removal = partial(secure_before_removal, self._workspace, kept) if kept is not None else None
        may_retry = self._failures.may_retry(block.datasource)
        insert_to_all(self._workspace, insert, block, may_retry=may_retry, before_removal=before_removal)
        self._failures.forget(block.datasource)

    def _newest_block(self, landing: LandingLog) -> Block | None:
        """The newest block of the gateway that is not yet known to have reached all views."""
        record = self._workspace.registry.read("settled").get("blocks", {})
        complete = int(record.get(landing.relation.name, 0))
        blocks = landing.blocks(max(complete, landing.head() - LOOK_BACK_BLOCKS))
        return next((b for b in reversed(blocks) if b.batch.startswith(GATEWAY_BATCH_PREFIX)), None)


def secure_before_removal(workspace: Workspace, kept: KeptBatch, damaged: DamagedPart) -> None:
    """If a damaged part of the batch's datasource is about to be removed: copy the rows, and record the batch.

    So after a kill, the next start completes the batch even if only views have its rows. Raises the database's
    errors.
    """
    if damaged.table != Name(workspace.name, kept.datasource):
        return
    kept.save(workspace)
    body = UncertainBatch(kept.datasource, kept.batch, time.time()).as_dict()
    workspace.registry.write(UNCERTAIN_KIND, {kept.batch: body})
    kept.removed = True


def forget_rows(workspace: Workspace, kept: KeptBatch) -> None:
    """Delete the copy of a batch that every table has, and its record. Raises the database's errors."""
    kept.delete(workspace)
    if kept.removed:
        workspace.registry.remove(UNCERTAIN_KIND, [kept.batch])


def record_repeated_insert(workspace: Workspace, datasource: str) -> None:
    """Record that failed inserts, which are complete now, have used up block numbers. Never raises."""
    try:
        live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
        views = [v for v in live.views.values() if v.source == Name(workspace.name, datasource)]
        Coverage(workspace.warehouse, workspace.registry, live).renew(views, repeated=True)
    except RookeryError as exc:
        log.warning("what views have received could not be recorded", datasource=datasource, error=exc)
