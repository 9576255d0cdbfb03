"""The step by which a batch becomes the datasource's: one INSERT from its stage, and on to the router.

The answer to a request means that this has happened; everything behind landing follows from it.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from functools import partial

from engine.errors import UNDELIVERED, RookeryError
from engine.fanout.failed_writes import was_removed_from
from engine.fanout.failing_tenants import BlockRange
from engine.fanout.handover import CommittedBatch
from engine.fanout.kept_rows import KEEPS_NOTHING, KeptBatch, columns_of, kept_table, newest_block
from engine.fanout.router import router_of
from engine.fanout.suspended_views import insert_to_all, tenants_behind
from engine.fanout.uncertain_batches import StagedInsert, uncertain_batches_of
from engine.ingest.batch import Batch
from engine.ingest.staging_pool import StagingPool
from engine.ingest.values.staging import taken
from engine.schema import Name, literal
from engine.warehouse import ddl
from engine.warehouse.errors import for_sender, is_transient
from engine.workspace.workspace import Workspace

ONE_THREAD_BYTES = 1 << 20
"""Batches up to this many bytes are parsed and stored on one thread, which is faster."""
ONE_THREAD_SETTINGS = {"max_threads": 1}


class Committer:
    """Puts batches into their datasources."""

    def __init__(self, workspace: Workspace, stages: StagingPool) -> None:
        self._workspace = workspace
        self._stages = stages
        self._router = router_of(workspace)
        self._doubts = uncertain_batches_of(workspace)
        self._held: set[Name] = set()
        self._orders: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def settle(self, datasource: str) -> None:
        """Complete what is in doubt in a datasource, if anything is. Raises what keeps it from being complete."""
        if self._doubts.contains(datasource):
            with self._order(datasource):
                self._doubts.complete(datasource)

    def put(self, batch: Batch) -> None:
        """Store a batch's good rows. Raises RK5011 when they are stored and a view failed on them.

        Any other error with status 503, 507 or 500 leaves the batch in doubt.
        """
        source = batch.stage.source
        router = self._router
        if not source.is_landing:
            self._put_ordinary(batch)
            return
        # One at a time: the router relies on the order, and a successor on that only the last can be in doubt
        # without a note.
        with self._order(source.name):
            self._doubts.complete(source.name)
            wanted = router.begin_commit(source.name, batch.id)
            try:
                everywhere = self._insert(batch)
            except BaseException as exc:
                if wanted:
                    router.abort_commit(source.name, batch.id)
                if not isinstance(exc, RookeryError) or exc.code is UNDELIVERED or is_transient(exc):
                    why = getattr(exc, "detail", None) or str(exc)
                    self._doubts.add(source.name, batch.id, why, staged=self._stored(batch, exc))
                if isinstance(exc, RookeryError) and is_transient(exc):
                    raise for_sender(exc) from exc
                raise
            self._doubts.batch_stored(source.name)
            everywhere = everywhere and not self._misses(batch)
            batch.visible = _told(everywhere)
            if wanted:
                router.committed(self._handed(batch, everywhere))

    def _put_ordinary(self, batch: Batch) -> None:
        """Store the good rows of a batch in a datasource whose rows do not name their batch."""
        source = batch.stage.source
        if batch.portions[0].append.into is not None or not self._feeds_views(source.name):
            batch.visible = _told(self._insert(batch))
            return
        with self._order(source.name):
            self._doubts.complete(source.name)
            held = self._hold(batch)
            try:
                everywhere = self._insert(batch, after=held.after)
            except BaseException as exc:
                if not isinstance(exc, RookeryError) or exc.code is UNDELIVERED or is_transient(exc):
                    batch.handed = True
                    if was_removed_from(exc, Name(self._workspace.name, source.name)):
                        # Views may have the batch although the table shows none of it.
                        held.after = KEEPS_NOTHING
                    self._doubts.add(source.name, batch.id, getattr(exc, "detail", None) or str(exc), held)
                if isinstance(exc, RookeryError) and is_transient(exc):
                    raise for_sender(exc) from exc
                raise
            self._doubts.batch_stored(source.name)
            batch.visible = _told(everywhere)

    def _feeds_views(self, datasource: str) -> bool:
        """Whether views are made of a datasource's rows."""
        snapshot = self._workspace.current
        pipes = snapshot.build.materialized()
        return snapshot.derived(
            ("feeds", datasource), lambda: any(p.target and datasource in p.target.triggers for p in pipes)
        )

    def _hold(self, batch: Batch) -> KeptBatch:
        """What a batch is completed from if storing it fails half-way."""
        source = batch.stage.source
        columns = columns_of(source)
        table = kept_table(self._workspace, source.name, columns)
        if table.name not in self._held:
            self._workspace.warehouse.execute(ddl.create_table(table))
            self._held.add(table.name)
        keeps = source.engine.type != "Null"
        name = Name(self._workspace.name, source.name)
        return KeptBatch(
            source.name,
            batch.id,
            columns,
            newest_block(self._workspace.warehouse, name) if keeps else KEEPS_NOTHING,
            taken(batch.stage, batch.bound, usual=batch.usual),
            f"{batch.table.sql()} WHERE {_stored(batch)}",
            partial(self._stages.give_back, batch.stage, batch.table),
        )

    def _stored(self, batch: Batch, exc: BaseException) -> StagedInsert | None:
        """The batch's insert, to be repeated from its stage, if its rows have been taken out of landing alone."""
        if not was_removed_from(exc, Name(self._workspace.name, batch.stage.source.name)):
            return None
        batch.handed = True
        return StagedInsert(self._statement(batch), partial(self._stages.give_back, batch.stage, batch.table))

    def _misses(self, batch: Batch) -> bool:
        """Whether rows of the batch do not reach all of their tenants' tables, since a view is down. Never raises."""
        tenants = tenants_behind(self._workspace.current, batch.stage.source.name)
        if tenants is None or batch.bound is not None:
            return tenants is None or batch.bound in tenants
        if not tenants or batch.stage.tenant is None:
            return False
        try:
            found = self._workspace.warehouse.query(
                f"SELECT 1 FROM {batch.table.sql()} WHERE ({_stored(batch)}) "
                f"AND has({{t:Array(String)}}, {batch.stage.tenant.value}) LIMIT 1",
                {"t": [*sorted(tenants)]},
            )
        except RookeryError:
            # The rows are in landing, and the router must hear of them whatever fails here.
            return True
        return bool(found.rows)

    def _order(self, datasource: str) -> threading.Lock:
        with self._lock:
            return self._orders.setdefault(datasource, threading.Lock())

    def _handed(self, batch: Batch, everywhere: bool) -> CommittedBatch:
        """What the router gets. The stage comes along unless some of its values would be computed anew."""
        source, stage = batch.stage.source, batch.stage
        assert stage.tenant is not None
        delivered = Future[bool]()
        batch.handed = stage.repeatable
        if everywhere:
            batch.visible = delivered
        return CommittedBatch(
            batch=batch.id,
            datasource=source.name,
            table=batch.table.sql() if batch.handed else "",
            values=taken(stage, batch.bound, usual=batch.usual),
            tenant=literal(batch.bound) if batch.bound is not None else stage.tenant.value,
            condition=_stored(batch),
            columns=tuple(c.name for c in source.columns),
            rows=batch.good,
            size=batch.size if batch.handed else 0,
            at=time.time(),
            release=partial(self._stages.give_back, stage, batch.table) if batch.handed else _nothing,
            visible=delivered,
        )

    def _insert(self, batch: Batch, after: int | None = None) -> bool:
        own = batch.portions[0].append.into is None
        block = BlockRange(batch.stage.source.name, batch.id, _counted(batch), after) if own else None
        may_retry = block is None or self._doubts.may_retry(block.datasource)
        return insert_to_all(self._workspace, self._statement(batch), block, may_retry=may_retry)

    def _statement(self, batch: Batch) -> str:
        target = (batch.portions[0].append.into or Name(self._workspace.name, batch.stage.source.name)).sql()
        columns = [c.name for c in batch.stage.source.columns]
        condition = batch.condition
        if _all_or_none(batch) and condition != "1":
            # The batch is one block, so a row that throws keeps all of it out; which row it was is asked afterwards.
            condition = f"throwIf(NOT ({condition})) = 0"
        rows = (
            f"SELECT {taken(batch.stage, batch.bound, usual=batch.usual)} FROM {batch.table.sql()} WHERE {condition}"
        )
        settings = ONE_THREAD_SETTINGS if batch.size <= ONE_THREAD_BYTES else {}
        return ddl.insert_block(target, columns, batch.id, rows, **settings)


def _all_or_none(batch: Batch) -> bool:
    """Whether one row that is not good keeps the whole batch out."""
    return not batch.bad


def _counted(batch: Batch) -> str:
    """A SELECT of the batch's rows by tenant."""
    tenant = batch.stage.tenant
    whose = literal(batch.bound) if batch.bound is not None else tenant.value if tenant is not None else "''"
    counted = f"SELECT toString({whose}) AS _rk_tenant, count() FROM {batch.table.sql()}"
    return f"{counted} WHERE {_stored(batch)} GROUP BY _rk_tenant"


def _stored(batch: Batch) -> str:
    """SQL that tells which rows of the stage are in landing, once the batch is."""
    return "1" if _all_or_none(batch) else batch.condition


def _told(everywhere: bool) -> Future[bool] | None:
    """What `wait=visible` is told of rows that went through views: nothing to wait for, or that one is down."""
    if everywhere:
        return None
    told = Future[bool]()
    told.set_result(False)
    return told


def _nothing() -> None:
    """Give back nothing: whoever borrowed the stage still has it."""
