"""Writes receipts and finds those of stored batches.

A receipt is written before its batch is stored in landing and names the batch. Landing therefore shows whether the
batch was stored, even after a kill; `stored_batches` explains what shows it later. Receipts are kept for a week.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import orjson
import structlog

from engine.cache import LruCache, size_of
from engine.compiler.storage import RECEIPTS_TABLE
from engine.errors import IN_DOUBT, UNKNOWN_RECEIPT, RookeryError
from engine.fanout.uncertain_batches import uncertain_batches_of
from engine.ingest import quarantine
from engine.ingest.idempotency.keys import RESERVED_KEY_PREFIX, Key
from engine.ingest.idempotency.receipt import (
    READ_COLUMNS,
    Receipt,
    receipt_of,
    receipts_table,
    row_of,
)
from engine.ingest.idempotency.rejection_records import record_of as rejection_record_of
from engine.ingest.idempotency.stored_batches import Batch, StoredBatches, record_of
from engine.schema import Name
from engine.warehouse import ddl
from engine.warehouse.checked_inserts import insert_checked
from engine.warehouse.registry import VersionClock
from engine.workspace.snapshot import Snapshot
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.ingest")

CACHED_RECEIPTS = 10_000
"""Maximum number of receipts of stored batches that are kept in memory."""

Era = tuple[str, int]
"""The id of a datasource's table, and the version at which one of a receipt's tenants last changed. A receipt may be
gone in the next era: keys are removed with the table, and with a purged tenant.
"""


class Receipts:
    """Writes receipts and finds those of stored batches. Any thread may use it."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._table = Name(workspace.name, RECEIPTS_TABLE).sql()
        self._uncertain = uncertain_batches_of(workspace)
        self._stored = StoredBatches(workspace)
        self._confirmed: LruCache[Key, tuple[Receipt, Era]] = LruCache(CACHED_RECEIPTS, weigh=size_of)
        """Receipts of stored batches, each with the era in which it was read."""
        workspace.warehouse.execute(ddl.create_table(receipts_table(workspace.name)))
        self._versions = VersionClock(self._newest_version)
        # Done at startup, because the last process may have been killed before it recorded them.
        self._stored.note_newest()
        self.flush()

    def write(self, receipts: Iterable[Receipt]) -> None:
        """Write receipts, before their batch is stored, and record with them which earlier batches are stored."""
        rows = [row_of(receipt, self._versions.next()) for receipt in receipts]
        if rows:
            self._insert(rows)

    def announce_rejections(self, batch: Batch) -> None:
        """Record that a batch's bad rows are about to be stored in quarantine. Its receipt must follow."""
        self._insert([rejection_record_of(batch, self._versions.next())])

    def flush(self) -> None:
        """Record which batches have been stored since the last receipts were written. Never raises a RookeryError."""
        try:
            self._insert([])
        except RookeryError as exc:
            # Landing still shows it, and the next start records it.
            log.warning("cannot record which batches are stored", error=exc)

    def _insert(self, rows: list[dict[str, Any]]) -> None:
        """Insert receipts, and records of the batches that have none yet."""
        unrecorded = self._stored.unrecorded()
        records = [record_of(batch, table_id, self._versions.next()) for batch, table_id in unrecorded.items()]
        if rows or records:
            body = b"\n".join(orjson.dumps(row) for row in (*rows, *records))
            insert_checked(self._workspace.warehouse, Name(self._workspace.name, RECEIPTS_TABLE), body)
        # Done only now: if the INSERT fails, the next one must record these batches.
        self._stored.forget(unrecorded)

    def _newest_version(self) -> int:
        """The greatest version of a stored row."""
        return int(self._workspace.warehouse.query(f"SELECT max(version) FROM {self._table}").rows[0][0])

    def mark_stored(self, receipts: Iterable[Receipt]) -> None:
        """Remember that the batch of these receipts is stored."""
        snapshot = self._workspace.current
        for receipt in receipts:
            self._remember(receipt, snapshot)

    def _remember(self, receipt: Receipt, snapshot: Snapshot) -> None:
        """Remember a stored receipt that is at least as new as a snapshot."""
        self._stored.note(receipt, self._stored.table_id(receipt.datasource))
        self._confirmed.put(receipt.key, (receipt, self._era(receipt, snapshot)))

    def _era(self, receipt: Receipt, snapshot: Snapshot) -> Era:
        tenants = (receipt.key[0], *receipt.tenants)
        return self._stored.table_id(receipt.datasource), max(snapshot.touched.get(t, 0) for t in tenants)

    def find(self, keys: Sequence[Key]) -> dict[Key, Receipt]:
        """The receipts of keys whose batch is stored, or (not `is_confirmed`) may be.

        The caller ensures that no append with one of the keys is being stored. Quarantined rows of a batch that was
        never stored are removed: the same request sends them again.
        """
        # Read first: a receipt that is removed meanwhile must not be remembered for the next era.
        snapshot = self._workspace.current
        cached = [found for k in keys if (found := self._confirmed.get(k)) is not None]
        receipts = {r.key: r for r, era in cached if era == self._era(r, snapshot)}
        missing = [k for k in keys if k not in receipts]
        for receipt in self._read(missing) if missing else ():
            is_stored = self._stored.contains(receipt)
            if is_stored:
                receipts[receipt.key] = receipt
                self._remember(receipt, snapshot)
            elif is_stored is None:
                # A retry with the same body is stored again, and the engine's deduplication window drops its rows if
                # they exist.
                receipts[receipt.key] = replace(receipt, is_confirmed=False)
            elif receipt.is_landing:
                quarantine.remove_batch(self._workspace, receipt.datasource, receipt.batch)
        return receipts

    def show(self, seen_by: tuple[str, Collection[str]] | None, key: str) -> dict[str, Any]:
        """The receipts of a key as plain data: those of one owner and some datasources, or (None) all.

        Raises RK5009 if there are none, and RK5013 while the rows may not have reached every table.
        """
        # The parts of a file have keys of their own, which begin with the file's.
        condition = "(key = {k:String} OR startsWith(key, concat({k:String}, {prefix:String})))"
        bindings: dict[str, Any] = {"k": key, "prefix": RESERVED_KEY_PREFIX}
        if seen_by is not None:
            condition += " AND owner = {o:String} AND datasource IN {d:Array(String)}"
            bindings |= {"o": seen_by[0], "d": sorted(seen_by[1])}
        receipts = self._select(condition, bindings)
        if any(self._uncertain.contains(r.datasource, r.batch) for r in receipts):
            raise RookeryError(
                IN_DOUBT,
                "the rows are not in every table yet",
                hint="ask again after the time in Retry-After, or send the request again with its key",
                headers={"Retry-After": "2"},
            )
        stored = [r for r in receipts if self._stored.contains(r)]
        if not stored:
            raise RookeryError(
                UNKNOWN_RECEIPT, "nothing was stored under this key", hint="send the request again with the key"
            )
        return {"key": key, "receipts": [r.as_dict() | ({"tenant": r.key[0]} if r.key[0] else {}) for r in stored]}

    def has_receipt(self, datasource: str, batch: str) -> bool:
        """Whether a receipt names a batch."""
        return bool(self._select("datasource = {d:String} AND batch = {b:String}", {"d": datasource, "b": batch}))

    def _read(self, keys: Sequence[Key]) -> list[Receipt]:
        """The newest receipts of keys, stored or not."""
        bindings: dict[str, Any] = {n: list(v) for n, v in zip("odk", zip(*keys, strict=True), strict=True)}
        tuples = "arrayZip({o:Array(String)}, {d:Array(String)}, {k:Array(String)})"
        return self._select(f"key IN {{k:Array(String)}} AND has({tuples}, (owner, datasource, key))", bindings)

    def _select(self, condition: str, bindings: dict[str, Any]) -> list[Receipt]:
        """The newest receipt of each key that satisfies a SQL condition."""
        newest = ", ".join(f"argMax({column}, version)" for column in READ_COLUMNS)
        result = self._workspace.warehouse.query(
            f"SELECT owner, datasource, key, {newest} FROM {self._table} WHERE {condition} "
            "GROUP BY owner, datasource, key ORDER BY datasource, owner",
            bindings,
        )
        return [receipt_of(row) for row in result.rows]
