"""Whether the rows of a stage are valid as a whole: by the fast checks or, if those fail, by the full ones."""

from __future__ import annotations

from dataclasses import replace

from engine.errors import RookeryError
from engine.ingest.batch import JudgedBatch
from engine.ingest.values.staging import StageSchema
from engine.settings import Settings
from engine.warehouse.errors import for_sender, is_transient
from engine.warehouse.port import Warehouse

FULL_CHECK_BATCHES = 200
"""Number of batches of a schema that skip the fast checks, after one that failed them and passed the full checks."""


class Validity:
    """Checks staged batches, and remembers which schemas receive unusual values. Safe for threads."""

    def __init__(self, warehouse: Warehouse, settings: Settings) -> None:
        self._warehouse = warehouse
        self._settings = settings
        # By stage schema: how many batches still skip the fast checks. No lock is needed, because a lost update only
        # costs one check.
        self._fast_checks_skipped: dict[str, int] = {}

    def tries_fast_checks(self, schema: StageSchema) -> bool:
        """Whether the next batch is tried with the fast checks. After one with unusual values, the next are not."""
        skipped = self._fast_checks_skipped.get(schema.identity, 0)
        if skipped:
            self._fast_checks_skipped[schema.identity] = skipped - 1
        return not skipped

    def with_full_checks(self, batch: JudgedBatch) -> JudgedBatch | None:
        """A batch that failed the fast checks, with the full checks. None if it fails these too, or already had
        them.
        """
        if not batch.fast:
            return None
        fully_checked = replace(batch, fast=False)
        if not self.is_valid(fully_checked):
            return None
        self._fast_checks_skipped[batch.staged.schema.identity] = FULL_CHECK_BATCHES
        return fully_checked

    def is_valid(self, batch: JudgedBatch) -> bool:
        """Whether all staged rows pass the batch's checks and none of their values throws."""
        # As much as the INSERT of the rows may take.
        memory = self._settings.commit_memory(len(batch.staged.schema.source.columns))
        try:
            result = self._warehouse.query(
                # `ignore` evaluates the values without returning them.
                f"SELECT countIf(NOT ({batch.condition})), sum(ignore({batch.projection.sql})) "
                f"FROM {batch.staged.table.sql()}",
                None,
                {"max_memory_usage": memory},
            )
        except RookeryError as exc:
            if is_transient(exc):
                raise for_sender(exc) from exc
            return False
        return not result.rows[0][0]
