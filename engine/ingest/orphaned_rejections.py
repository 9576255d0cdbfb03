"""Rows in quarantine of batches that failed before anything told that they happened.

Bad rows are kept before their batch's receipts are written. If a write in between fails, the sender sends the request
again, and its bad rows would be in quarantine twice; so they are taken out before anything else is stored.
"""

from __future__ import annotations

import threading

import structlog

from engine.ingest import quarantine
from engine.ingest.idempotency import Receipts
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.serve")


class OrphanedRejections:
    """Batches whose bad rows may be in quarantine, by datasource."""

    def __init__(self, workspace: Workspace, receipts: Receipts) -> None:
        self._workspace = workspace
        self._receipts = receipts
        self._batches: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def add(self, datasource: str, batch: str) -> None:
        """Remember that noting a batch has failed."""
        with self._lock:
            self._batches.setdefault(datasource, set()).add(batch)

    def remove_part(self, datasource: str) -> None:
        """Take out what failed batches of a datasource have left. Raises what the database fails with.

        A batch that has a receipt stays: the receipt tells what becomes of it. One whose identity is its key stays
        too, since its next try is the same insert.
        """
        if datasource not in self._batches:
            return
        workspace = self._workspace
        with workspace.insert_lock.exclusive():
            # The quarantine may remember a token without the rows, and would skip the next try.
            workspace.warehouse.forget_unstored_tokens()
        source = workspace.current.build.datasources.get(datasource)
        with self._lock:
            batches = sorted(self._batches.get(datasource, ()))
        for batch in batches:
            if source is not None and source.is_landing and not self._receipts.tell_of(datasource, batch):
                quarantine.forget(workspace, datasource, batch)
            with self._lock:
                self._batches[datasource].discard(batch)
        with self._lock:
            if not self._batches.get(datasource):
                self._batches.pop(datasource, None)
        log.info("rows of failed batches were taken out of quarantine", datasource=datasource, batches=batches)
