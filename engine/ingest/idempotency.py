"""Receipts: what became of appends that have an idempotency key.

A receipt is written before its batch goes into landing and names it, so that landing itself tells, also after a
kill, whether it happened. Rows leave landing by its TTL, or with their tenant: so a batch that has happened is noted
here too, with the receipts that are written next. Receipts are kept for a week.
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
from engine.ingest.batch import Fault
from engine.ingest.unknown_keys import NO_KEYS, UnknownKeys
from engine.schema import Column, Mark, Name, Table, literal
from engine.warehouse import ddl
from engine.warehouse.checked_inserts import insert_checked
from engine.warehouse.registry import VERSION_COLUMN, VersionClock
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.serve")

RECEIPTS_SUFFIX = "_rk_receipts"
RECEIPT_DAYS = 7
RESERVED_KEY_PREFIX = "\x1f"
"""A character that no caller's key has, for keys that are made here."""
NOTES_NAME = RESERVED_KEY_PREFIX + "notes"
"""Stands among the tenants of a stored receipt, for what else the answer says. No tenant's id looks like it."""
STORED_KEY_PREFIX = RESERVED_KEY_PREFIX + "stored" + RESERVED_KEY_PREFIX
"""Begins the key of a note that a batch has happened."""
CHECKED_NEWEST_BATCHES = 16
"""Batches that are looked for in landing after a start, if there is no note that they have happened."""
CACHED_RECEIPTS = 10_000
"""Receipts of batches that are known to have happened, kept in memory."""

Key = tuple[str, str, str]
"""Whose key (the tenant that the token writes for, or ''), for which datasource, and the key itself."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an append came to. `digest` is its body's; `logged` whether landing tells if it happened.

    `refused`, `unknown` and `first` are an `Outcome`'s.
    """

    key: Key
    digest: str
    batch: str
    rows: int
    quarantined: int
    tenants: dict[str, int] = field(default_factory=dict)
    logged: bool = True
    at: str = ""
    stands: bool = True
    refused: int = 0
    unknown: UnknownKeys = NO_KEYS
    first: Fault | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "datasource": self.key[1],
            "batch": self.batch,
            "successful_rows": self.rows,
            "quarantined_rows": self.quarantined,
            **({"refused_rows": self.refused} if self.refused else {}),
            "tenants": self.tenants,
            "received_at": self.at,
        }


def receipts_table(workspace: str) -> Table:
    """The table of receipts."""
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
    """Writes receipts and finds those of batches that happened."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._table = Name(workspace.name, RECEIPTS_SUFFIX).sql()
        self._known: dict[Key, tuple[Receipt, str]] = {}
        self._doubts = uncertain_batches_of(workspace)
        self._lock = threading.Lock()
        workspace.warehouse.execute(ddl.create_table(receipts_table(workspace.name)))
        self._versions = VersionClock(self._newest)
        self._unnoted: dict[tuple[str, str], str] = {}
        self._take_up()

    def write(self, receipts: Iterable[Receipt]) -> None:
        """Write receipts down, before their batch is stored; with them, which earlier batches have happened."""
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
        """Note which batches have happened since receipts were written last."""
        try:
            self._insert([])
        except RookeryError as exc:
            # Landing tells it, and after a start it is noted.
            log.warning("it is not noted which batches have happened", error=exc)

    def _insert(self, rows: list[dict[str, Any]]) -> None:
        with self._lock:
            noted = dict(self._unnoted)
        told = [
            {
                "owner": "",
                "datasource": d,
                "key": STORED_KEY_PREFIX + b,
                "digest": table,
                "version": self._versions.next(),
            }
            for (d, b), table in noted.items()
        ]
        if rows or told:
            body = b"\n".join(orjson.dumps(row) for row in (*rows, *told))
            insert_checked(self._workspace.warehouse, Name(self._workspace.name, RECEIPTS_SUFFIX), body)
        with self._lock:
            for which in noted:
                self._unnoted.pop(which, None)

    def _take_up(self) -> None:
        """After a start: note that the newest batches have happened, while landing still has their rows."""
        newest = self._workspace.warehouse.query(
            f"SELECT datasource, batch, toString(min(at)) FROM {self._table} WHERE rows > 0 AND logged "
            f"AND (datasource, concat({literal(STORED_KEY_PREFIX)}, batch)) NOT IN (SELECT datasource, key FROM {self._table} "
            f"WHERE owner = '' AND startsWith(key, {literal(STORED_KEY_PREFIX)})) "
            f"GROUP BY datasource, batch ORDER BY max(version) DESC LIMIT {CHECKED_NEWEST_BATCHES}"
        )
        for datasource, batch, at in newest.rows:
            if datasource in self._workspace.current.build.datasources and self._landed(datasource, batch, str(at)):
                self._unnoted[datasource, batch] = self._table_id(datasource)
        self.flush()

    def _table_id(self, datasource: str) -> str:
        """The engine's id of a datasource's table; another one after the datasource was removed and made again."""

        def ask() -> str | None:
            found = self._workspace.warehouse.query(
                "SELECT toString(uuid) FROM system.tables WHERE database = {d:String} AND name = {n:String}",
                {"d": self._workspace.name, "n": datasource},
            )
            return str(found.rows[0][0]) if found.rows else None

        return self._workspace.current.derived((Receipts, datasource), ask) or ""

    def _newest(self) -> int:
        return int(self._workspace.warehouse.query(f"SELECT max(version) FROM {self._table}").rows[0][0])

    def happened(self, receipts: Iterable[Receipt]) -> None:
        """Remember receipts whose batch is stored."""
        tables = [(r, self._table_id(r.key[1])) for r in receipts]
        with self._lock:
            for receipt, table in tables:
                self._known[receipt.key] = (receipt, table)
                if receipt.logged and receipt.rows:
                    self._unnoted[receipt.key[1], receipt.batch] = table
            while len(self._known) > CACHED_RECEIPTS:
                del self._known[next(iter(self._known))]

    def find(self, keys: Sequence[Key]) -> dict[Key, Receipt]:
        """Receipts of those keys, none of which is under way, whose batch happened or (if not `stands`) may have.

        What a batch that did not happen left in quarantine is taken out; it is the same request's alone.
        """
        with self._lock:
            known = {k: self._known[k] for k in keys if k in self._known}
        found = {k: receipt for k, (receipt, table) in known.items() if table == self._table_id(k[1])}
        unknown = [k for k in keys if k not in found]
        for receipt in self._read(unknown) if unknown else ():
            if self._happened(receipt):
                found[receipt.key] = receipt
                self.happened([receipt])
            elif receipt.logged:
                quarantine.forget(self._workspace, receipt.key[1], receipt.batch)
            else:
                # It may have happened: its key is used, and the engine's window tells the same body again.
                found[receipt.key] = replace(receipt, stands=False)
        return found

    def show(self, seen: tuple[str, Collection[str]] | None, key: str) -> dict[str, Any]:
        """The receipts of a key as plain data: of one owner and some datasources, or (None) all.

        Raises RK5009, and RK5013 while it is not known whether the rows have reached every table.
        """
        # The pieces of a file have keys of their own, numbered after it.
        condition = "(key = {k:String} OR startsWith(key, concat({k:String}, {ours:String})))"
        bindings: dict[str, Any] = {"k": key, "ours": RESERVED_KEY_PREFIX}
        if seen is not None:
            condition += " AND owner = {o:String} AND datasource IN {d:Array(String)}"
            bindings |= {"o": seen[0], "d": sorted(seen[1])}
        rows = self._select(condition, bindings)
        if any(self._doubts.contains(r.key[1], r.batch) for r in rows):
            raise RookeryError(
                IN_DOUBT,
                "the rows are not in every table yet",
                hint="ask again after the time in Retry-After, or send the request again under its key",
                headers={"Retry-After": "2"},
            )
        stored = [r for r in rows if self._happened(r)]
        if not stored:
            raise RookeryError(
                UNKNOWN_RECEIPT, "nothing was stored under this key", hint="send the request again, with the key"
            )
        return {"key": key, "receipts": [r.as_dict() | ({"tenant": r.key[0]} if r.key[0] else {}) for r in stored]}

    def tell_of(self, datasource: str, batch: str) -> bool:
        """Whether a receipt names a batch."""
        return bool(self._select("datasource = {d:String} AND batch = {b:String}", {"d": datasource, "b": batch}))

    def _happened(self, receipt: Receipt) -> bool:
        if receipt.key[1] not in self._workspace.current.build.datasources:
            return True
        if not receipt.rows:
            # Bad rows are kept before receipts are written, and may have been dealt with since.
            return True
        if not receipt.logged:
            return False
        return self._landed(receipt.key[1], receipt.batch, receipt.at) or self._noted(receipt)

    def _landed(self, datasource: str, batch: str, at: str) -> bool:
        found = self._workspace.warehouse.query(
            f"SELECT 1 FROM {Name(self._workspace.name, datasource).sql()} "
            f"PREWHERE {storage.BATCH_COLUMN} = {{b:String}} AND {storage.ARRIVAL_COLUMN} >= {{at:String}}::DateTime - 86400 "
            "LIMIT 1",
            {"b": batch, "at": at[:19]},
        )
        return bool(found.rows)

    def _noted(self, receipt: Receipt) -> bool:
        """Whether it is noted that a batch has happened, which landing no longer shows."""
        table = self._table_id(receipt.key[1])
        with self._lock:
            if self._unnoted.get((receipt.key[1], receipt.batch)) == table:
                return True
        found = self._workspace.warehouse.query(
            f"SELECT 1 FROM {self._table} WHERE owner = '' AND datasource = {{d:String}} AND key = {{k:String}} "
            "AND digest = {t:String} LIMIT 1",
            {"d": receipt.key[1], "k": STORED_KEY_PREFIX + receipt.batch, "t": table},
        )
        return bool(found.rows)

    def _read(self, keys: Sequence[Key]) -> list[Receipt]:
        lists: dict[str, Any] = {n: list(v) for n, v in zip("odk", zip(*keys, strict=True), strict=True)}
        tuples = "arrayZip({o:Array(String)}, {d:Array(String)}, {k:Array(String)})"
        names = "key IN {k:Array(String)}"
        return self._select(f"{names} AND has({tuples}, (owner, datasource, key))", lists)

    def _select(self, condition: str, bindings: dict[str, Any]) -> list[Receipt]:
        newest = ", ".join(
            f"argMax({c}, version)" for c in ("digest", "batch", "rows", "quarantined", "tenants", "logged", "at")
        )
        found = self._workspace.warehouse.query(
            f"SELECT owner, datasource, key, {newest} FROM {self._table} WHERE {condition} "
            "GROUP BY owner, datasource, key ORDER BY datasource, owner",
            bindings,
        )
        return [
            _read_back(Receipt((o, d, k), digest, batch, int(n), int(q), orjson.loads(t), bool(log), str(at)))
            for o, d, k, digest, batch, n, q, t, log, at in found.rows
        ]


def _notes(receipt: Receipt) -> dict[str, Any]:
    """What a stored receipt has beside its counts, if there is anything."""
    found = {"refused": receipt.refused, "unknown": receipt.unknown, "first": receipt.first}
    return {NOTES_NAME: found} if receipt.refused or receipt.unknown.count or receipt.first else {}


def _read_back(receipt: Receipt) -> Receipt:
    found: Any = receipt.tenants.pop(NOTES_NAME, None)
    if not isinstance(found, dict):
        return receipt
    unknown, first = found["unknown"], found["first"]
    return replace(
        receipt,
        refused=found["refused"],
        unknown=UnknownKeys(tuple(unknown["names"]), unknown["count"]),
        first=first and Fault(first["row"], tuple(first["columns"]), tuple(first["reasons"])),
    )


def part_key(key: str, number: int) -> str:
    """The key of a part of what a caller sent under a key."""
    return f"{key}{RESERVED_KEY_PREFIX}{number}"


def row_key(id: str) -> str:
    """The key under which a row comes back out of quarantine."""
    return f"{RESERVED_KEY_PREFIX}{id}"


def same_body(receipt: Receipt, digest: str) -> None:
    """Refuse another body under a key that has been used. Raises RK5008."""
    if receipt.digest != digest:
        raise RookeryError(
            KEY_REUSED,
            "the idempotency key was used for another body",
            hint="one key for one body; retries repeat it",
        )
