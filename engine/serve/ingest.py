"""A batch on its way into a datasource: staged, searched if need be, noted, and stored by one INSERT.

Only the engine decides what a value is and whose row it is. The stage keeps the tenant as the text that arrived, so
that a value which is missing, null, out of range or not canonical is seen as it is. Such a row, and one that cannot
be read, goes to quarantine; its neighbours are stored. The order of steps is explained in `docs/INGESTION.md`.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import structlog

from engine.compiler import storage
from engine.compiler.scope import tenant_literal
from engine.errors import (
    FOREIGN_TENANT,
    NOT_WRITABLE,
    UNDELIVERED,
    UNKNOWN_DATASOURCE,
    RookeryError,
)
from engine.fanout.landed import Landed
from engine.fanout.suspend import failed_behind, suspend_culprit
from engine.plan.state import Snapshot, Workspace
from engine.schema import Name, literal, quote
from engine.serve import quarantine
from engine.serve.batch import Append, Bad, Outcome, Portion
from engine.serve.bodies import csv_rows, json_rows
from engine.serve.lines import bad_row, check_header
from engine.serve.receipts import Key, Receipt, Receipts
from engine.serve.search import Search, reason, values_of
from engine.serve.stages import Stages
from engine.serve.staging import NUMBER, Stage, checks, has_long_number, stage_of, tenant_kind
from engine.warehouse.port import STRICT, Input

log = structlog.get_logger("rookery.ingest")

PARSING: dict[str, int | str] = {
    "input_format_skip_unknown_fields": 1,
    # Null means absent: the column's default. The tenant is staged so that null stays null, and is refused.
    "input_format_null_as_default": 1,
    "date_time_input_format": "best_effort",
    "date_time_overflow_behavior": "throw",
    "input_format_allow_errors_num": 0,
    "max_insert_threads": 1,
    "async_insert": 0,
}
SMALL = 1 << 20
"""Batches up to this many bytes are parsed and stored on one thread, which is faster."""
ONE_THREAD = {"max_threads": 1}
MOST_VIEWS = 100
"""Failing views that are taken down for one batch."""
MOST_TENANTS = 1000
"""Tenants that a receipt counts."""


class Router(Protocol):
    """Who takes batches on from landing to the tenants' tables."""

    def announce(self, datasource: str, batch: str) -> bool:
        """Tell that a batch is about to land. Returns whether it is wanted afterwards."""
        ...

    def landed(self, batch: Landed) -> None:
        """Hand a batch over; its stage is given back when it is delivered."""
        ...

    def withdraw(self, datasource: str, batch: str) -> None:
        """Tell that an announced batch did not land."""
        ...


class _Apart(Exception):
    """Appends that do not go together."""


@dataclass(slots=True)
class _Batch:
    """A batch in the making. `numbered` says whether rows in the stage carry their numbers."""

    id: str
    stage: Stage
    table: Name
    portions: list[Portion]
    bound: str | None
    size: int
    rows: int = 0
    numbered: bool = False
    bad: dict[int, Bad] = field(default_factory=dict)
    header: bytes = b""
    condition: str = "1"
    handed: bool = False
    visible: Future[bool] | None = None


class Ingestion:
    """Stores batches."""

    def __init__(
        self, workspace: Workspace, stages: Stages, receipts: Receipts, router: Router | None = None
    ) -> None:
        self._workspace = workspace
        self._stages = stages
        self._receipts = receipts
        self._router = router
        self._orders: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def stage_for(self, name: str, *, exact: bool = False) -> Stage:
        """How a datasource's rows are staged. Raises RK5005, or RK5006 where rows come from a pipe."""
        return _stage_of(self._workspace.current, name, exact)

    def store(self, appends: Sequence[Append]) -> list[Outcome | RookeryError]:
        """Store appends to one datasource under one tenant: all that is good in them, as one batch if they are sound.

        Where something in the batch is not, it is parted until what is wrong is alone: nobody's rows are judged,
        searched or refused for those of others.
        """
        try:
            if len(appends) > 1 and any(a.format is not Input.PARQUET and has_long_number(a.body) for a in appends):
                raise _Apart
            return self._together(appends)
        except _Apart:
            middle = len(appends) // 2
            return [*self._half(appends[:middle]), *self._half(appends[middle:])]

    def _half(self, appends: Sequence[Append]) -> list[Outcome | RookeryError]:
        try:
            return self.store(appends)
        except RookeryError as exc:
            return [exc for _ in appends]

    def _together(self, appends: Sequence[Append]) -> list[Outcome | RookeryError]:
        """Store appends as one batch: those whose lines are known as one text, any other read by itself."""
        first = appends[0]
        simple = [a for a in appends if a.lines is not None]
        large = [a for a in appends if a.lines is None]
        texts = [b"\n".join(line for a in simple for line in a.lines or ())] if simple else []
        texts += [a.body for a in large]
        exact = first.format is not Input.PARQUET and any(map(has_long_number, texts))
        stage = _stage_of(self._workspace.current, first.datasource, exact)
        size = sum(map(len, texts))
        batch = _Batch(_identity(first, stage), stage, self._stages.borrow(stage), [], first.bound, size)
        try:
            self._stage(batch, simple, large, texts, first.format)
            found = self._finish(batch, first.format)
        finally:
            if not batch.handed:
                self._stages.give_back(stage, batch.table)
        by_append = {id(p.append): o for p, o in zip(batch.portions, found, strict=True)}
        return [by_append[id(a)] for a in appends]

    def _stage(
        self, batch: _Batch, simple: list[Append], large: list[Append], texts: Sequence[bytes], format: Input
    ) -> None:
        appends = [*simple, *large]
        counts = [len(a.lines or ()) for a in simple]
        if format is Input.CSV:
            check_header({c.name for c in batch.stage.columns}, texts[0])
        try:
            for position, text in enumerate(texts):
                rows = self._read(batch, text, format)
                batch.rows += rows
                if position >= bool(simple):
                    counts.append(rows)
        except RookeryError as exc:
            if exc.code.status >= 500:
                raise
            if format is Input.PARQUET:
                raise bad_row(exc, texts[0], format) from exc
            batch.portions = _portions(appends, [0 for _ in appends])
            self._look_closer(batch, format)
            return
        batch.portions = _portions(appends, counts)
        batch.condition = _sound(batch)
        if sum(counts) != batch.rows:
            self._look_closer(batch, format)

    def _read(self, batch: _Batch, text: bytes, format: Input) -> int:
        """Let the engine read rows into the stage; how many they are."""
        small = {"input_format_parallel_parsing": 0, **ONE_THREAD} if len(text) <= SMALL else {}
        return self._workspace.warehouse.insert(batch.table.sql(), text, format, (), PARSING | small)

    def _search(self, batch: _Batch, format: Input) -> None:
        """Read the rows of an append one by one, as far as need be, tell the bad ones, and stage the others."""
        (portion,) = batch.portions
        append = portion.append
        if format is Input.CSV:
            batch.header, texts = csv_rows(append.body)
        else:
            texts = list(append.lines or json_rows(append.body, whole=append.whole))
        portion.start, portion.stop = 0, len(texts)
        self._workspace.warehouse.execute(f"TRUNCATE TABLE {batch.table.sql()}")
        search = Search(self._workspace.warehouse, batch.stage, batch.table, PARSING)
        batch.bad = search.read(texts, format, batch.header)
        unfit = search.check(batch.bound, texts, format, batch.header)
        batch.bad |= unfit
        if unfit:
            search.keep_only({n: text for n, text in enumerate(texts) if n not in batch.bad}, format, batch.header)
        batch.rows, batch.numbered = len(texts), True
        self._judge(batch)

    def _search_parquet(self, batch: _Batch) -> None:
        """Rows of a Parquet file have no text: the stage's own numbers and rendering stand in."""
        columns = ", ".join(quote(c.name) for c in {c.name: c for c in batch.stage.columns}.values())
        numbered = f"(SELECT rowNumberInAllBlocks() AS {NUMBER}, {columns} FROM {batch.table.sql()})"
        rendered = f"formatRowNoNewline('JSONEachRow', {columns})"
        for staged, check in checks(batch.stage, batch.bound):
            found = self._workspace.warehouse.query(
                f"SELECT {NUMBER}, toString({staged.value}), {rendered} FROM {numbered} "
                f"WHERE ifNull(NOT ({check}), 0)",
                None,
                ONE_THREAD,
            )
            for number, value, text in found.rows:
                row = batch.bad.setdefault(int(number), Bad(int(number), str(text).encode(), Input.NDJSON))
                row.add(staged.column, reason(batch.stage, staged, value, batch.bound))
                row.values = values_of(row.text, Input.NDJSON, b"", batch.stage)
                row.foreign |= batch.bound is not None and staged is batch.stage.tenant and value is not None
        self._judge(batch)

    def _judge(self, batch: _Batch) -> None:
        """Refuse an append with another tenant's rows, and say which rows of the stage are stored."""
        (portion,) = batch.portions
        tenant = batch.stage.source.tenant
        foreign = next((n for n in batch.bad if batch.bad[n].foreign), None)
        batch.condition = "1" if batch.numbered else _sound(batch)
        if foreign is not None and tenant is not None and tenant.foreign == "refuse":
            message = f"row {foreign + 1}: the token writes for one tenant only"
            portion.refused = RookeryError(FOREIGN_TENANT, message, hint="nothing was stored")
            batch.bad, batch.condition = {}, "0"

    def _finish(self, batch: _Batch, format: Input) -> list[Outcome | RookeryError]:
        """Note, store and answer; a batch whose bad rows show only now is searched and stored without them."""
        if any(p.append.key for p in batch.portions) and not self._fits(batch):
            # A receipt is written before the rows are stored, so their number must be known by now.
            self._look_closer(batch, format)
        receipts = self._note(batch)
        if _good(batch):
            try:
                self._land(batch)
            except RookeryError as exc:
                if exc.code.status >= 500 or failed_behind(exc) or batch.numbered or batch.bad:
                    raise
                self._look_closer(batch, format)
                receipts = self._note(batch)
                if _good(batch):
                    self._land(batch)
        self._receipts.happened(receipts)
        by_key = {r.key: r for r in receipts}
        return [self._outcome(batch, p, by_key) for p in batch.portions]

    def _fits(self, batch: _Batch) -> bool:
        """Whether all staged rows can be stored, as far as it is not known."""
        if batch.numbered or batch.bad or not _good(batch):
            return True
        checked = " OR ".join(f"ifNull(NOT ({c}), 0)" for _, c in checks(batch.stage, batch.bound)) or "0"
        try:
            found = self._workspace.warehouse.query(
                f"SELECT countIf({checked}), sum(ignore({taken(batch.stage, batch.bound)})) FROM {batch.table.sql()}"
            )
        except RookeryError as exc:
            if exc.code.status >= 500:
                raise
            return False
        return not found.rows[0][0]

    def _look_closer(self, batch: _Batch, format: Input) -> None:
        """Tell an append's bad rows. Several are parted first."""
        if len(batch.portions) > 1:
            raise _Apart
        if format is Input.PARQUET:
            self._search_parquet(batch)
        else:
            self._search(batch, format)

    def _note(self, batch: _Batch) -> list[Receipt]:
        """Keep bad rows and write receipts, in this order."""
        quarantine.keep(self._workspace, batch.stage.source.name, batch.id, batch.bound, batch.bad.values())
        keyed = [p for p in batch.portions if p.append.key and not p.refused]
        if not keyed:
            return []
        tenants = self._tenants(batch, keyed)
        receipts = [
            Receipt(
                key_of(p.append),
                p.append.digest,
                batch.id,
                p.stop - p.start - _bad_in(batch, p),
                _bad_in(batch, p),
                tenants.get(n, {}),
                batch.stage.source.is_landing,
            )
            for n, p in enumerate(keyed)
        ]
        self._receipts.write(receipts)
        return receipts

    def _tenants(self, batch: _Batch, portions: Sequence[Portion]) -> dict[int, dict[str, int]]:
        """Rows to be stored by tenant, for each of the portions."""
        if batch.stage.tenant is None or not _good(batch):
            return {}
        number = NUMBER if batch.numbered else "rowNumberInAllBlocks()"
        value = literal(batch.bound) if batch.bound is not None else batch.stage.tenant.value
        starts, stops = ([getattr(p, side) for p in portions] for side in ("start", "stop"))
        found = self._workspace.warehouse.query(
            # No alias may be a column's name: it would take the column's place in the condition.
            "SELECT arrayFirstIndex((_rk_a, _rk_b) -> _rk_i >= _rk_a AND _rk_i < _rk_b, "
            f"{starts}, {stops}) AS _rk_p, assumeNotNull(_rk_t), count() "
            f"FROM (SELECT {number} AS _rk_i, {value} AS _rk_t FROM {batch.table.sql()} WHERE {batch.condition}) "
            f"WHERE _rk_p > 0 GROUP BY 1, 2 ORDER BY 3 DESC LIMIT {MOST_TENANTS} BY _rk_p",
            None,
            ONE_THREAD,
        )
        counted: dict[int, dict[str, int]] = {}
        for position, tenant, rows in found.rows:
            counted.setdefault(int(position) - 1, {})[str(tenant)] = int(rows)
        return counted

    def _land(self, batch: _Batch) -> None:
        """One INSERT from the stage into the datasource, and on to the router."""
        source = batch.stage.source
        router = self._router
        if not source.is_landing:
            batch.visible = _seen(self._insert(batch))
            return
        # One at a time: the router relies on the order, and a successor on that only the last can be in doubt.
        with self._order(source.name):
            wanted = router is not None and router.announce(source.name, batch.id)
            try:
                batch.visible = _seen(self._insert(batch))
            except BaseException:
                if wanted and router is not None:
                    router.withdraw(source.name, batch.id)
                raise
            if wanted and router is not None:
                batch.handed, batch.visible = batch.stage.repeatable, Future()
                router.landed(self._landed(batch, batch.visible))

    def _order(self, datasource: str) -> threading.Lock:
        with self._lock:
            return self._orders.setdefault(datasource, threading.Lock())

    def _landed(self, batch: _Batch, visible: Future[bool]) -> Landed:
        source = batch.stage.source
        return Landed(
            batch=batch.id,
            datasource=source.name,
            # What would be computed anew must be read from landing.
            table=batch.table.sql() if batch.handed else "",
            values=taken(batch.stage, batch.bound),
            tenant=literal(batch.bound) if batch.bound is not None else _tenant_of(batch.stage),
            condition=batch.condition,
            columns=tuple(c.name for c in source.columns),
            rows=_good(batch),
            size=batch.size if batch.handed else 0,
            at=time.time(),
            release=partial(self._stages.give_back, batch.stage, batch.table),
            visible=visible,
        )

    def _insert(self, batch: _Batch) -> bool:
        source = batch.stage.source
        target = (batch.portions[0].append.into or Name(self._workspace.name, source.name)).sql()
        columns = ", ".join(quote(c.name) for c in source.columns)
        given = {**STRICT, "insert_deduplication_token": literal(batch.id)}
        given |= ONE_THREAD if batch.size <= SMALL else {}
        settings = ", ".join(f"{k} = {v}" for k, v in given.items())
        condition = batch.condition
        if not batch.numbered and not batch.bad and condition != "1":
            # The batch is one block, so a row that throws keeps all of it out; which row it was is asked afterwards.
            condition = f"throwIf(NOT ({condition})) = 0"
        rows = f"SELECT {taken(batch.stage, batch.bound)} FROM {batch.table.sql()} WHERE {condition}"
        return self._complete(f"INSERT INTO {target} ({columns}) SETTINGS {settings} {rows}")

    def _complete(self, sql: str) -> bool:
        """Run an insert until all views that work have its rows. Returns whether all do.

        A view that fails keeps the block from every other; the rows are in landing all the same. The same insert is
        tried once more, for it may have been a moment's trouble, and then without the view.
        """
        tries, down = 0, False
        while True:
            try:
                with self._workspace.fence.shared():
                    self._workspace.warehouse.execute(sql)
                return not down
            except RookeryError as exc:
                if not failed_behind(exc):
                    raise
                tries += 1
                if tries > 1:
                    if tries > MOST_VIEWS or suspend_culprit(self._workspace, exc) is None:
                        raise _undelivered(exc) from exc
                    down = True

    def _outcome(self, batch: _Batch, portion: Portion, receipts: Mapping[Key, Receipt]) -> Outcome | RookeryError:
        if portion.refused is not None:
            return portion.refused
        bad = _bad_in(batch, portion)
        receipt = receipts.get(key_of(portion.append)) if portion.append.key else None
        tenants = receipt.tenants if receipt else {}
        return Outcome(batch.id, portion.stop - portion.start - bad, bad, tenants, batch.visible)


def key_of(append: Append) -> Key:
    """What an append's receipt is kept under."""
    return (append.bound or "", append.datasource, append.key or "")


def taken(stage: Stage, bound: str | None) -> str:
    """The SQL of a stage's rows as they are stored, with the writer's tenant stamped on them if it has one."""
    expressions = [c.taken for c in stage.columns]
    if bound is not None and stage.tenant is not None:
        kind = tenant_kind(stage.source)
        expressions[stage.columns.index(stage.tenant)] = f"CAST({tenant_literal(kind, bound)} AS {kind})"
    return ", ".join(expressions)


def _identity(append: Append, stage: Stage) -> str:
    """A batch's identity. Without a log to tell what happened, the engine's window must, so a key makes it."""
    if not stage.source.is_landing and append.key:
        return f"k:{storage.digest(*key_of(append), append.digest)}"
    return f"g:{time.time_ns():x}{secrets.token_hex(5)}"


def _seen(everywhere: bool) -> Future[bool] | None:
    """What `wait=visible` is told of rows that went through views: nothing to wait for, or that one is down."""
    if everywhere:
        return None
    told: Future[bool] = Future()
    told.set_result(False)
    return told


def _tenant_of(stage: Stage) -> str:
    assert stage.tenant is not None
    return stage.tenant.value


def _portions(appends: Sequence[Append], counts: Sequence[int]) -> list[Portion]:
    portions, start = [], 0
    for append, count in zip(appends, counts, strict=True):
        portions.append(Portion(append, start, start + count))
        start += count
    return portions


def _sound(batch: _Batch) -> str:
    return " AND ".join(f"ifNull({c}, 1)" for _, c in checks(batch.stage, batch.bound)) or "1"


def _bad_in(batch: _Batch, portion: Portion) -> int:
    return sum(portion.start <= n < portion.stop for n in batch.bad)


def _good(batch: _Batch) -> int:
    """Rows of the batch that are to be stored."""
    return sum(p.stop - p.start - _bad_in(batch, p) for p in batch.portions if not p.refused)


def _stage_of(snapshot: Snapshot, name: str, exact: bool) -> Stage:
    return snapshot.derived(("stage", name, exact), _maker(snapshot, name, exact))


def _maker(snapshot: Snapshot, name: str, exact: bool) -> Callable[[], Stage]:
    def make() -> Stage:
        if name not in snapshot.build.relations:
            raise RookeryError(UNKNOWN_DATASOURCE, f"there is no datasource `{name}`", hint="rookery datasource ls")
        fed = next((p.name for p in snapshot.build.materialized() if p.target and p.target.name == name), None)
        if fed is not None:
            raise RookeryError(NOT_WRITABLE, f"`{name}` is filled by pipe `{fed}` and takes no rows from outside")
        return stage_of(snapshot.build.datasources[name], exact)

    return make


def _undelivered(exc: RookeryError) -> RookeryError:
    """A failure behind landing, whose text may name views and nests that the sender does not know of."""
    log.error("a view failed on rows that are in landing", error=exc.detail or exc.message)
    return RookeryError(
        UNDELIVERED,
        "the rows are in landing, but a view on the datasource failed on them",
        hint="do not send them again without the same idempotency key; the server's log tells which view",
        detail=exc.detail or exc.message,
    )
