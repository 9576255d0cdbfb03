"""Receipts: records of the outcome of appends with an idempotency key.

A receipt is written before its batch is stored in landing and names the batch. Landing therefore shows whether the
batch was stored, even after a kill. Because rows can be removed from landing by its TTL or with their tenant, the
next receipts that are written also record which earlier batches are stored. Receipts are kept for a week.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import structlog

from engine.compiler import storage
from engine.errors import IN_DOUBT, KEY_REUSED, UNKNOWN_RECEIPT, RookeryError
from engine.fanout.uncertain_batches import uncertain_batches_of
from engine.ingest import quarantine
from engine.ingest.batch import Append, AppendResult, RowFault
from engine.ingest.unknown_keys import NO_KEYS, UnknownKeys
from engine.schema import Column, Mark, Name, Table, literal
from engine.warehouse import ddl
from engine.warehouse.checked_inserts import insert_checked
from engine.warehouse.port import Warehouse
from engine.warehouse.registry import VERSION_COLUMN, VersionClock
from engine.workspace.snapshot import Snapshot, per_snapshot
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.ingest")

RECEIPTS_SUFFIX = "_rk_receipts"
RECEIPT_DAYS = 7
RESERVED_KEY_PREFIX = "\x1f"
"""A character that callers' keys cannot contain. It marks keys that rookery generates."""
NOTES_NAME = RESERVED_KEY_PREFIX + "notes"
"""The key, among the tenants of a stored receipt, under which the rest of the response is stored. It cannot be a
tenant id.
"""
STORED_KEY_PREFIX = RESERVED_KEY_PREFIX + "stored" + RESERVED_KEY_PREFIX
"""Begins the key of a record that a batch is stored."""
CHECKED_NEWEST_BATCHES = 16
"""Number of batches without such a record that are looked up in landing at startup."""
CACHED_RECEIPTS = 10_000
"""Receipts of stored batches that are kept in memory."""

Key = tuple[str, str, str]
"""The tenant that the token is bound to (or ''), the datasource, and the idempotency key."""
Batch = tuple[str, str]
"""A datasource, and the identity of one of its batches."""


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
    logged: bool = True
    """The datasource's rows contain their batch's id, so the datasource shows whether the batch is stored."""
    at: str = ""
    """When the receipt was written, UTC."""
    is_confirmed: bool = True
    """The batch is known to be stored. Otherwise it may be."""
    refused: int = 0
    """Bad rows that were discarded, because the writer's quota in quarantine is used up."""
    unknown_keys: UnknownKeys = NO_KEYS
    first_bad_row: RowFault | None = None

    @property
    def datasource(self) -> str:
        return self.key[1]

    def as_dict(self) -> dict[str, Any]:
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
        Name(workspace, RECEIPTS_SUFFIX),
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
        mark=Mark(workspace, RECEIPTS_SUFFIX, "state"),
    )


class Receipts:
    """Writes receipts and finds those of stored batches. Any thread may use it."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._table = Name(workspace.name, RECEIPTS_SUFFIX).sql()
        self._uncertain = uncertain_batches_of(workspace)
        # Protects the two dictionaries below. Both have the id of the datasource's table as (part of) their values.
        self._lock = threading.Lock()
        self._confirmed: dict[Key, tuple[Receipt, str]] = {}
        self._unrecorded: dict[Batch, str] = {}
        workspace.warehouse.execute(ddl.create_table(receipts_table(workspace.name)))
        self._versions = VersionClock(self._newest_version)
        self._record_newest()

    def write(self, receipts: Iterable[Receipt]) -> None:
        """Write receipts, before their batch is stored, and record with them which earlier batches are stored."""
        rows: list[dict[str, Any]] = [
            {
                "owner": r.key[0],
                "datasource": r.key[1],
                "key": r.key[2],
                "digest": r.digest,
                "batch": r.batch,
                "rows": r.rows,
                "quarantined": r.quarantined,
                "tenants": orjson.dumps(r.tenants | _notes(r)).decode(),
                "logged": int(r.logged),
                "version": self._versions.next(),
            }
            for r in receipts
        ]
        if rows:
            self._insert(rows)

    def flush(self) -> None:
        """Record which batches have been stored since the last receipts were written. Never raises a RookeryError."""
        try:
            self._insert([])
        except RookeryError as exc:
            # Landing still shows it, and the next start records it.
            log.warning("cannot record which batches are stored", error=exc)

    def _insert(self, rows: list[dict[str, Any]]) -> None:
        """Insert receipts, and records of the batches that have none yet."""
        with self._lock:
            unrecorded = dict(self._unrecorded)
        records = [
            {
                "owner": "",
                "datasource": datasource,
                "key": STORED_KEY_PREFIX + batch,
                "digest": table,
                "version": self._versions.next(),
            }
            for (datasource, batch), table in unrecorded.items()
        ]
        if rows or records:
            body = b"\n".join(orjson.dumps(row) for row in (*rows, *records))
            insert_checked(self._workspace.warehouse, Name(self._workspace.name, RECEIPTS_SUFFIX), body)
        # Done only now: if the INSERT fails, the next one must record these batches.
        with self._lock:
            for batch in unrecorded:
                self._unrecorded.pop(batch, None)

    def _record_newest(self) -> None:
        """At startup, record that the newest batches are stored, while landing still has their rows."""
        newest = self._workspace.warehouse.query(
            f"SELECT datasource, batch, toString(min(at)) FROM {self._table} WHERE rows > 0 AND logged "
            f"AND (datasource, concat({literal(STORED_KEY_PREFIX)}, batch)) NOT IN "
            f"(SELECT datasource, key FROM {self._table} "
            f"WHERE owner = '' AND startsWith(key, {literal(STORED_KEY_PREFIX)})) "
            f"GROUP BY datasource, batch ORDER BY max(version) DESC LIMIT {CHECKED_NEWEST_BATCHES}"
        )
        for datasource, batch, at in newest.rows:
            if datasource in self._workspace.current.build.datasources and self._is_in_landing(
                datasource, batch, str(at)
            ):
                self._unrecorded[datasource, batch] = self._table_id(datasource)
        self.flush()

    def _table_id(self, datasource: str) -> str:
        """The engine's id of a datasource's table. A datasource that is removed and created again has another id."""

        return _table_id(self._workspace.current, self._workspace.warehouse, datasource) or ""

    def _newest_version(self) -> int:
        return int(self._workspace.warehouse.query(f"SELECT max(version) FROM {self._table}").rows[0][0])

    def mark_stored(self, receipts: Iterable[Receipt]) -> None:
        """Remember that the batch of these receipts is stored."""
        # The ids are read without the lock, as they may need a query.
        tables = [(r, self._table_id(r.datasource)) for r in receipts]
        with self._lock:
            for receipt, table in tables:
                self._confirmed[receipt.key] = (receipt, table)
                if receipt.logged and receipt.rows:
                    self._unrecorded[receipt.datasource, receipt.batch] = table
            while len(self._confirmed) > CACHED_RECEIPTS:
                del self._confirmed[next(iter(self._confirmed))]

    def find(self, keys: Sequence[Key]) -> dict[Key, Receipt]:
        """The receipts of keys whose batch is stored, or (not `is_confirmed`) may be.

        The caller ensures that no append with one of the keys is being stored. Quarantined rows of a batch that was
        never stored are removed: the same request sends them again.
        """
        with self._lock:
            cached = {k: self._confirmed[k] for k in keys if k in self._confirmed}
        receipts = {k: receipt for k, (receipt, table) in cached.items() if table == self._table_id(k[1])}
        missing = [k for k in keys if k not in receipts]
        for receipt in self._read(missing) if missing else ():
            if self._is_stored(receipt):
                receipts[receipt.key] = receipt
                self.mark_stored([receipt])
            elif receipt.logged:
                quarantine.remove_batch(self._workspace, receipt.datasource, receipt.batch)
            else:
                # It is unknown whether the batch was stored. A retry with the same body is stored again, and the
                # engine's deduplication window drops its rows if they exist.
                receipts[receipt.key] = replace(receipt, is_confirmed=False)
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
        stored = [r for r in receipts if self._is_stored(r)]
        if not stored:
            raise RookeryError(
                UNKNOWN_RECEIPT, "nothing was stored under this key", hint="send the request again with the key"
            )
        return {"key": key, "receipts": [r.as_dict() | ({"tenant": r.key[0]} if r.key[0] else {}) for r in stored]}

    def has_receipt(self, datasource: str, batch: str) -> bool:
        """Whether a receipt names a batch."""
        return bool(self._select("datasource = {d:String} AND batch = {b:String}", {"d": datasource, "b": batch}))

    def _is_stored(self, receipt: Receipt) -> bool:
        """Whether the batch of a receipt is known to be stored."""
        if receipt.datasource not in self._workspace.current.build.datasources:
            return True
        if not receipt.rows:
            # Bad rows are quarantined before receipts are written, and may have been replayed or removed since.
            return True
        if not receipt.logged:
            return False
        return self._is_in_landing(receipt.datasource, receipt.batch, receipt.at) or self._is_recorded(receipt)

    def _is_in_landing(self, datasource: str, batch: str, at: str) -> bool:
        # The arrival time lets the engine skip partitions. A day is allowed for clocks that differ.
        result = self._workspace.warehouse.query(
            f"SELECT 1 FROM {Name(self._workspace.name, datasource).sql()} "
            f"PREWHERE {storage.BATCH_COLUMN} = {{b:String}} "
            f"AND {storage.ARRIVAL_COLUMN} >= {{at:String}}::DateTime - 86400 LIMIT 1",
            {"b": batch, "at": at[:19]},
        )
        return bool(result.rows)

    def _is_recorded(self, receipt: Receipt) -> bool:
        """Whether it is recorded that a batch, which landing no longer has, was stored in the present table."""
        table = self._table_id(receipt.datasource)
        with self._lock:
            if self._unrecorded.get((receipt.datasource, receipt.batch)) == table:
                return True
        result = self._workspace.warehouse.query(
            f"SELECT 1 FROM {self._table} WHERE owner = '' AND datasource = {{d:String}} AND key = {{k:String}} "
            "AND digest = {t:String} LIMIT 1",
            {"d": receipt.datasource, "k": STORED_KEY_PREFIX + receipt.batch, "t": table},
        )
        return bool(result.rows)

    def _read(self, keys: Sequence[Key]) -> list[Receipt]:
        """The newest receipts of keys, stored or not."""
        bindings: dict[str, Any] = {n: list(v) for n, v in zip("odk", zip(*keys, strict=True), strict=True)}
        tuples = "arrayZip({o:Array(String)}, {d:Array(String)}, {k:Array(String)})"
        return self._select(f"key IN {{k:Array(String)}} AND has({tuples}, (owner, datasource, key))", bindings)

    def _select(self, condition: str, bindings: dict[str, Any]) -> list[Receipt]:
        newest = ", ".join(
            f"argMax({c}, version)" for c in ("digest", "batch", "rows", "quarantined", "tenants", "logged", "at")
        )
        result = self._workspace.warehouse.query(
            f"SELECT owner, datasource, key, {newest} FROM {self._table} WHERE {condition} "
            "GROUP BY owner, datasource, key ORDER BY datasource, owner",
            bindings,
        )
        return [_receipt_of(row) for row in result.rows]


@per_snapshot
def _table_id(snapshot: Snapshot, warehouse: Warehouse, datasource: str) -> str | None:
    """The engine's id of a datasource's table; None if the table does not exist yet."""
    result = warehouse.query(
        "SELECT toString(uuid) FROM system.tables WHERE database = {d:String} AND name = {n:String}",
        {"d": snapshot.build.workspace, "n": datasource},
    )
    return str(result.rows[0][0]) if result.rows else None


def _notes(receipt: Receipt) -> dict[str, Any]:
    """What a stored receipt has in addition to its counts, if anything. The names are those of stored receipts."""
    if not (receipt.refused or receipt.unknown_keys.count or receipt.first_bad_row):
        return {}
    notes = {"refused": receipt.refused, "unknown": receipt.unknown_keys, "first": receipt.first_bad_row}
    return {NOTES_NAME: notes}


def _receipt_of(row: Sequence[Any]) -> Receipt:
    """The receipt in a row of `_select`."""
    owner, datasource, key, digest, batch, stored, quarantined, text, logged, at = row
    tenants: dict[str, Any] = orjson.loads(text)
    notes = tenants.pop(NOTES_NAME, None)
    receipt = Receipt(
        (owner, datasource, key), digest, batch, int(stored), int(quarantined), tenants, bool(logged), str(at)
    )
    if not isinstance(notes, dict):
        return receipt
    unknown, first = notes["unknown"], notes["first"]
    return replace(
        receipt,
        refused=notes["refused"],
        unknown_keys=UnknownKeys(tuple(unknown["names"]), unknown["count"]),
        first_bad_row=first and RowFault(first["row"], tuple(first["columns"]), tuple(first["reasons"])),
    )


def key_of(append: Append) -> Key:
    """The key of an append's receipt."""
    return (append.bound_tenant or "", append.datasource, append.key or "")


def part_key(key: str, number: int) -> str:
    """The key of one part of a file that was sent with a key."""
    return f"{key}{RESERVED_KEY_PREFIX}{number}"


def row_key(id: str) -> str:
    """The key with which a quarantined row is replayed."""
    return f"{RESERVED_KEY_PREFIX}{id}"


def require_same_body(first_digest: str, digest: str) -> None:
    """Raise RK5008 if a key is used for another body than the first time."""
    if first_digest != digest:
        raise RookeryError(
            KEY_REUSED,
            "the idempotency key was used for another body",
            hint="use one key per body, and repeat it only in retries",
        )
