"""Quarantined rows of batches that failed before a receipt was written.

Bad rows are quarantined before their batch's receipts are written. If writing the receipts fails, the sender repeats
the request, and its bad rows would be in quarantine twice. So they are removed before the next batch of the
datasource is stored, and after a kill at the next start.
"""

from __future__ import annotations

import threading

import structlog

from engine.errors import RookeryError
from engine.ingest import quarantine
from engine.ingest.idempotency.receipts import Receipts
from engine.ingest.idempotency.rejection_records import batches_without_receipt
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.ingest")


class OrphanedRejections:
    """Batches whose bad rows may be in quarantine without a receipt, by datasource. Any thread may use it."""

    def __init__(self, workspace: Workspace, receipts: Receipts) -> None:
        self._workspace = workspace
        self._receipts = receipts
        self._batches: dict[str, set[str]] = {}
        self._lock = threading.Lock()
        self._remove_those_of_last_process()

    def _remove_those_of_last_process(self) -> None:
        """Remove what a killed process has left. Never raises a RookeryError: each batch tries it again."""
        try:
            for datasource, batch in batches_without_receipt(self._workspace):
                self.add(datasource, batch)
            for datasource in list(self._batches):
                self.remove(datasource)
        except RookeryError as exc:
            log.warning("cannot remove quarantined rows of interrupted requests yet", error=exc)

    def add(self, datasource: str, batch: str) -> None:
        """Remember a batch whose rows or receipts could not be written."""
        with self._lock:
            self._batches.setdefault(datasource, set()).add(batch)

    def remove(self, datasource: str) -> None:
        """Remove the quarantined rows of a datasource's failed batches. Raises the warehouse's errors.

        Batches with a receipt are skipped, because the receipt determines their outcome. Batches whose identity is
        their idempotency key are skipped too, because a retry has the same deduplication token.
        """
        # Read without the lock, because every batch gets here. A batch that is added now belongs to a later append.
        if datasource not in self._batches:
            return
        workspace = self._workspace
        with workspace.insert_lock.exclusive():
            # The quarantine table may know the token of an INSERT that failed, and would skip the retry's rows.
            workspace.warehouse.forget_unstored_tokens()
        source = workspace.current.build.datasources.get(datasource)
        with self._lock:
            batches = sorted(self._batches.get(datasource, ()))
        for batch in batches:
            if source is not None and source.is_landing and not self._receipts.has_receipt(datasource, batch):
                quarantine.remove_batch(workspace, datasource, batch)
            with self._lock:
                self._batches[datasource].discard(batch)
        with self._lock:
            if not self._batches.get(datasource):
                self._batches.pop(datasource, None)
        log.info("removed quarantined rows of failed batches", datasource=datasource, batches=batches)
