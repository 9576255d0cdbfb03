"""Records of batches whose bad rows are about to be stored in quarantine, for requests with idempotency keys.

The receipt is written after the bad rows. If the process is killed in between, a repeated request is treated as a new
one, and its bad rows would be in quarantine twice. A record without a receipt shows such a batch at the next start.

The records are rows of the table of receipts with the owner '' and a reserved key.
"""

from __future__ import annotations

from typing import Any

from engine.compiler.storage import RECEIPTS_TABLE
from engine.ingest.idempotency.keys import RESERVED_KEY_PREFIX
from engine.ingest.idempotency.receipt import RECEIPT_DAYS
from engine.ingest.idempotency.stored_batches import Batch
from engine.schema import Name, literal
from engine.workspace.workspace import Workspace

REJECTED_KEY_PREFIX = RESERVED_KEY_PREFIX + "rejected" + RESERVED_KEY_PREFIX
"""Begins the key of such a record; the batch's identity follows."""


def record_of(batch: Batch, version: int) -> dict[str, Any]:
    """The record that a batch's bad rows are about to be stored."""
    datasource, id = batch
    # The column `batch` is empty, because only receipts have one.
    return {"owner": "", "datasource": datasource, "key": REJECTED_KEY_PREFIX + id, "version": version}


def batches_without_receipt(workspace: Workspace) -> list[Batch]:
    """The batches that have such a record and no receipt. The process was killed before their receipt was written."""
    table = Name(workspace.name, RECEIPTS_TABLE).sql()
    # Receipts expire after RECEIPT_DAYS, and the engine may remove one before the older record.
    result = workspace.warehouse.query(
        f"SELECT DISTINCT datasource, substring(key, {len(REJECTED_KEY_PREFIX) + 1}) AS id FROM {table} "
        f"WHERE owner = '' AND startsWith(key, {literal(REJECTED_KEY_PREFIX)}) "
        f"AND at > now() - INTERVAL {RECEIPT_DAYS - 1} DAY "
        f"AND (datasource, id) NOT IN (SELECT datasource, batch FROM {table} WHERE batch != '')"
    )
    return [(str(datasource), str(id)) for datasource, id in result.rows]
