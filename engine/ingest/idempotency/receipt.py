"""A receipt: the record of the outcome of one append with an idempotency key. Its value, and its row in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from engine.compiler.storage import RECEIPTS_TABLE
from engine.ingest.batch import AppendResult, RowFault
from engine.ingest.idempotency.keys import RESERVED_KEY_PREFIX, Key
from engine.ingest.unknown_keys import NO_KEYS, UnknownKeys
from engine.schema import Column, Mark, Name, Table
from engine.warehouse.registry import VERSION_COLUMN

RECEIPT_DAYS = 7
"""Days after which a receipt is deleted, and its key may be used again."""
NOTES_NAME = RESERVED_KEY_PREFIX + "notes"
"""The key, among the tenants of a stored receipt, under which the rest of the response is stored. It cannot be a
tenant id.
"""
READ_COLUMNS = ("digest", "batch", "rows", "quarantined", "tenants", "logged", "at")
"""The columns that `receipt_of` reads in addition to the key."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The outcome of one append."""

    key: Key
    digest: str
    """The SHA-256 of the body."""
    batch: str
    """The identity of the batch that the rows were stored with."""
    rows: int
    """Rows stored in the datasource."""
    quarantined: int
    """Rows stored in quarantine."""
    tenants: dict[str, int] = field(default_factory=dict)
    """Stored rows by tenant id."""
    is_landing: bool = True
    """Whether the datasource is a landing datasource, whose rows show whether the batch is stored."""
    at: str = ""
    """When the receipt was written, UTC."""
    is_confirmed: bool = True
    """The batch is known to be stored. Otherwise it may be."""
    refused: int = 0
    """Bad rows that were discarded, because the writer's quota in quarantine is used up."""
    unknown_keys: UnknownKeys = NO_KEYS
    """Keys of the events that no column reads."""
    first_bad_row: RowFault | None = None
    """The first row that could not be stored."""

    @property
    def datasource(self) -> str:
        return self.key[1]

    def as_dict(self) -> dict[str, Any]:
        """An item of the response of `GET /v0/events/KEY`."""
        return {
            "datasource": self.datasource,
            "batch": self.batch,
            "successful_rows": self.rows,
            "quarantined_rows": self.quarantined,
            **({"refused_rows": self.refused} if self.refused else {}),
            "tenants": self.tenants,
            "received_at": self.at,
        }

    def as_repeated_result(self) -> AppendResult:
        """The result of a retry."""
        return AppendResult(
            self.batch,
            self.rows,
            self.quarantined,
            self.refused,
            self.tenants,
            repeated=True,
            unknown_keys=self.unknown_keys,
            first_bad_row=self.first_bad_row,
        )


def receipts_table(workspace: str) -> Table:
    """The table of receipts, and of records that batches are stored (with the owner '')."""
    return Table(
        # Rows of records that batches are stored have the same columns, see `stored_batches`.
        Name(workspace, RECEIPTS_TABLE),
        (
            Column("owner", "String"),
            Column("datasource", "String"),
            Column("key", "String"),
            Column("digest", "String"),
            Column("batch", "String"),
            Column("rows", "UInt64"),
            Column("quarantined", "UInt64"),
            Column("tenants", "String"),
            Column("logged", "UInt8"),
            Column("at", "DateTime64(3)", "DEFAULT", "now64(3)"),
            VERSION_COLUMN,
        ),
        engine="ReplacingMergeTree(version)",
        sorting_key="(owner, datasource, key)",
        ttl=f"toDateTime(at) + INTERVAL {RECEIPT_DAYS} DAY",
        mark=Mark(workspace, RECEIPTS_TABLE, "state"),
    )


def row_of(receipt: Receipt, version: int) -> dict[str, Any]:
    """A receipt as a row of `receipts_table`."""
    return {
        "owner": receipt.key[0],
        "datasource": receipt.key[1],
        "key": receipt.key[2],
        "digest": receipt.digest,
        "batch": receipt.batch,
        "rows": receipt.rows,
        "quarantined": receipt.quarantined,
        "tenants": orjson.dumps(receipt.tenants | _notes(receipt)).decode(),
        "logged": int(receipt.is_landing),
        "version": version,
    }


def _notes(receipt: Receipt) -> dict[str, Any]:
    """What a stored receipt has in addition to its counts, if anything. The names are those of stored receipts."""
    if not (receipt.refused or receipt.unknown_keys.count or receipt.first_bad_row):
        return {}
    notes = {"refused": receipt.refused, "unknown": receipt.unknown_keys, "first": receipt.first_bad_row}
    return {NOTES_NAME: notes}


def receipt_of(row: Sequence[Any]) -> Receipt:
    """The receipt in a row with the three columns of its key, followed by READ_COLUMNS."""
    owner, datasource, key, digest, batch, stored, quarantined, text, is_landing, at = row
    tenants: dict[str, Any] = orjson.loads(text)
    notes = tenants.pop(NOTES_NAME, None)
    receipt = Receipt(
        (owner, datasource, key), digest, batch, int(stored), int(quarantined), tenants, bool(is_landing), str(at)
    )
    # Most receipts have no notes.
    if not isinstance(notes, dict):
        return receipt
    unknown, first = notes["unknown"], notes["first"]
    return replace(
        receipt,
        refused=notes["refused"],
        unknown_keys=UnknownKeys(tuple(unknown["names"]), unknown["count"]),
        first_bad_row=first and RowFault(first["row"], tuple(first["columns"]), tuple(first["reasons"])),
    )
