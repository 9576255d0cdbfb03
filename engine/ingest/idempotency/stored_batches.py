"""Determines which batches with receipts are stored in landing, even after a kill and after their rows have been
removed from it.

Landing itself shows that a batch is stored while it has the rows. Because rows can be removed from landing by its TTL
or with their tenant, a record is also written: with the next receipts, or when the server stops or starts. The
records are rows of the table of receipts with the owner '' and a reserved key. `digest` is the id of the datasource's
table.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from engine.compiler import storage
from engine.ingest.idempotency.keys import RESERVED_KEY_PREFIX
from engine.ingest.idempotency.receipt import Receipt
from engine.schema import Name, literal
from engine.warehouse.port import Warehouse
from engine.workspace.snapshot import Snapshot, per_snapshot
from engine.workspace.workspace import Workspace

STORED_KEY_PREFIX = RESERVED_KEY_PREFIX + "stored" + RESERVED_KEY_PREFIX
"""Begins the key of a record that a batch is stored."""
CHECKED_NEWEST_BATCHES = 16
"""Number of batches without such a record that are looked up in landing at startup."""

Batch = tuple[str, str]
"""A datasource, and the identity of one of its batches."""


class StoredBatches:
    """Knows which batches are stored. Any thread may use it."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._table = Name(workspace.name, storage.RECEIPTS_TABLE).sql()
        self._lock = threading.Lock()
        self._unrecorded: dict[Batch, str] = {}
        """Stored batches without a record, each with the id of its datasource's table."""

    def note(self, receipt: Receipt, table_id: str) -> None:
        """Remember that the batch of a receipt is stored, so that the next records name it."""
        with self._lock:
            self._unrecorded[receipt.datasource, receipt.batch] = table_id

    def note_newest(self) -> None:
        """At startup, remember the newest stored batches without a record, while landing still has their rows."""
        newest = self._workspace.warehouse.query(
            f"SELECT datasource, batch, toString(min(at)) FROM {self._table} WHERE rows > 0 AND logged "
            f"AND (datasource, concat({literal(STORED_KEY_PREFIX)}, batch)) NOT IN "
            f"(SELECT datasource, key FROM {self._table} "
            f"WHERE owner = '' AND startsWith(key, {literal(STORED_KEY_PREFIX)})) "
            f"GROUP BY datasource, batch ORDER BY max(version) DESC LIMIT {CHECKED_NEWEST_BATCHES}"
        )
        for datasource, batch, at in newest.rows:
            # The datasource may have been removed since.
            if datasource in self._workspace.current.build.datasources and self._is_in_landing(
                datasource, batch, str(at)
            ):
                self._unrecorded[datasource, batch] = self.table_id(datasource)

    def unrecorded(self) -> dict[Batch, str]:
        """The stored batches without a record, each with the id of its datasource's table."""
        with self._lock:
            return dict(self._unrecorded)

    def forget(self, batches: Iterable[Batch]) -> None:
        """Forget batches that have a record now."""
        with self._lock:
            for batch in batches:
                self._unrecorded.pop(batch, None)

    def table_id(self, datasource: str) -> str:
        """The engine's id of a datasource's table. A datasource that is removed and created again has another id."""
        return _table_id(self._workspace.current, self._workspace.warehouse, datasource) or ""

    def contains(self, receipt: Receipt) -> bool | None:
        """Whether the batch of a receipt was stored in the datasource's present table; None if that is not known."""
        if receipt.datasource not in self._workspace.current.build.datasources:
            return True
        if receipt.rows and receipt.is_landing and self._is_in_landing(receipt.datasource, receipt.batch, receipt.at):
            return True
        tables = self._recorded_tables(receipt)
        if tables:
            return self.table_id(receipt.datasource) in tables
        if not receipt.rows:
            # Bad rows are quarantined before receipts are written, and may have been replayed or removed since.
            return True
        # Rows of other datasources do not contain the id of their batch.
        return False if receipt.is_landing else None

    def _is_in_landing(self, datasource: str, batch: str, at: str) -> bool:
        """Whether landing has rows of a batch, whose receipt was written at the time `at`."""
        # The arrival time lets the engine skip partitions. A day is allowed for clocks that differ.
        result = self._workspace.warehouse.query(
            f"SELECT 1 FROM {Name(self._workspace.name, datasource).sql()} "
            f"PREWHERE {storage.BATCH_COLUMN} = {{b:String}} "
            f"AND {storage.ARRIVAL_COLUMN} >= {{at:String}}::DateTime - 86400 LIMIT 1",
            {"b": batch, "at": at[:19]},
        )
        return bool(result.rows)

    def _recorded_tables(self, receipt: Receipt) -> set[str]:
        """The ids of the datasource's tables, present and removed, that are recorded to have a batch."""
        result = self._workspace.warehouse.query(
            f"SELECT DISTINCT digest FROM {self._table} "
            "WHERE owner = '' AND datasource = {d:String} AND key = {k:String}",
            {"d": receipt.datasource, "k": STORED_KEY_PREFIX + receipt.batch},
        )
        with self._lock:
            unrecorded = self._unrecorded.get((receipt.datasource, receipt.batch))
        return {str(id) for (id,) in result.rows} | ({unrecorded} if unrecorded else set())


@per_snapshot
def _table_id(snapshot: Snapshot, warehouse: Warehouse, datasource: str) -> str | None:
    """The engine's id of a datasource's table; None if the table does not exist yet."""
    result = warehouse.query(
        "SELECT toString(uuid) FROM system.tables WHERE database = {d:String} AND name = {n:String}",
        {"d": snapshot.build.workspace, "n": datasource},
    )
    return str(result.rows[0][0]) if result.rows else None


def record_of(batch: Batch, table_id: str, version: int) -> dict[str, Any]:
    """The row which records that a batch is stored."""
    datasource, id = batch
    return {
        "owner": "",
        "datasource": datasource,
        "key": STORED_KEY_PREFIX + id,
        "digest": table_id,
        "version": version,
    }
