"""Commits batches: one INSERT from the stage into the datasource, then the handover to the fan-out.

An append is acknowledged when its batch is committed. Nests, views and the pool follow from the datasource's rows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from engine.errors import OVERLOADED, UNDELIVERED, RookeryError
from engine.fanout.batch_completion import forget_rows, secure_before_removal
from engine.fanout.failed_writes import BeforeRemoval
from engine.fanout.handover import (
    DELIVERED,
    EVERYWHERE,
    NOWHERE,
    BatchBlocks,
    CommittedBatch,
    Delivery,
    Reach,
)
from engine.fanout.insert_to_all import insert_to_all
from engine.fanout.kept_rows import KEEPS_NOTHING, KeptBatch, columns_of, kept_table, release_nothing
from engine.fanout.landing_log import LandingLog
from engine.fanout.router import router_of
from engine.fanout.staged_appends import StagedAppends
from engine.fanout.suspension_records import tenants_behind
from engine.fanout.uncertain_batches import uncertain_batches_of
from engine.fanout.view_errors import is_view_failure
from engine.ingest.batch import JudgedBatch
from engine.ingest.staging_pool import BorrowedStage
from engine.schema import Name
from engine.warehouse import ddl
from engine.warehouse.catalog import newest_block_in_parts
from engine.warehouse.errors import exceeds_own_memory, for_sender, is_transient
from engine.warehouse.part_names import Part
from engine.warehouse.port import DamagedPart
from engine.workspace.snapshot import Snapshot, per_snapshot
from engine.workspace.workspace import Workspace

ONE_THREAD_BYTES = 1 << 20
"""Batches up to this size are parsed and stored by a single engine thread, which is faster."""
ONE_THREAD_SETTINGS = {"max_threads": 1}


class Committer:
    """Stores batches in their datasources. Called by several `ingest` and `search` threads at once."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._router = router_of(workspace)
        self._uncertain = uncertain_batches_of(workspace)
        self._kept_tables: dict[Name, bool] = {}
        """Tables for copies of batches, and whether each is known to be empty."""
        self._commit_locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def complete_uncertain(self, datasource: str) -> None:
        """Complete the datasource's uncertain batches, if it has any. Raises RK5013 or RK6008 if that fails."""
        if self._uncertain.contains(datasource):
            with self._commit_lock(datasource):
                self._uncertain.complete(datasource)

    def commit(self, batch: JudgedBatch, stage: BorrowedStage) -> Delivery:
        """Store the rows of a batch that are not rejected.

        Raises RK5011 when the rows are stored and a view failed on them. Any other error with status 500, 503 or 507
        makes the batch uncertain.
        """
        schema = batch.staged.schema
        if schema.source.is_landing:
            return self._commit_to_landing(batch, stage)
        if batch.staged.target is not None or not self._feeds_views(schema.source.name):
            return _delivered(self._insert(batch, self._statement(batch)))
        return self._commit_with_copy(batch)

    def _commit_to_landing(self, batch: JudgedBatch, stage: BorrowedStage) -> Delivery:
        """Store a batch in a landing datasource, whose rows contain their batch's id."""
        name, id = batch.staged.datasource, batch.staged.id
        # Only one commit at a time per datasource: the fan-out needs to know the order of batches, and recovery after
        # a kill assumes that only the newest batch can be half-stored without a record.
        with self._commit_lock(name):
            self._uncertain.complete(name)
            # Damaged parts are only found, and removed, on the embedded engine.
            if self._workspace.warehouse.capabilities.embedded:
                self._create_kept_table(batch)
            copy = _LandingCopy(self._workspace, name, partial(self._kept_rows, batch))
            # The fan-out must expect the batch before its rows appear in landing; otherwise it would read them from
            # there.
            is_routed = self._router.begin_commit(name, id)
            try:
                reached_all = self._insert(batch, self._statement(batch), copy.before_removal)
                copy.delete()
            except BaseException as exc:
                if is_routed:
                    self._router.abort_commit(name, id)
                if _may_be_stored(exc):
                    self._uncertain.add(name, id, _text_of(exc), copy.after_failure(stage))
                _raise_for_sender(exc)
                raise
            self._uncertain.batch_stored(name)
            by_views = self._reach_of_views(batch, reached_all=reached_all)
            if not is_routed:
                return Delivery(by_views)
            committed = self._handover(batch, stage)
            # Still done under the lock, because the worker must receive batches in the order of landing's blocks.
            self._router.committed(committed)
            return Delivery(by_views, committed.reach)

    def _commit_with_copy(self, batch: JudgedBatch) -> Delivery:
        """Store a batch in a datasource that feeds views and whose rows do not contain their batch's id.

        If the INSERT fails halfway or the process is killed, the batch cannot be read back from the datasource. So
        its rows are copied first, and the copy is deleted when every view has them.
        """
        name, id = batch.staged.datasource, batch.staged.id
        with self._commit_lock(name):
            self._uncertain.complete(name)
            table = self._create_kept_table(batch)
            kept = self._kept_rows(batch, self._newest_block(batch))
            # Until every view has the batch, a failure may leave rows in the table, which the next batch truncates.
            is_empty, self._kept_tables[table] = self._kept_tables[table], False
            try:
                kept.save(self._workspace, truncate=not is_empty)
            except RookeryError as exc:
                # Nothing was sent to the datasource yet, so the batch is not uncertain.
                _raise_for_sender(exc)
                raise
            try:
                insert = kept.insert(self._workspace, **self._insert_settings(batch))
                reached_all = self._insert(
                    batch, insert, partial(secure_before_removal, self._workspace, kept), kept.after
                )
                forget_rows(self._workspace, kept)
            except BaseException as exc:
                if _may_be_stored(exc):
                    self._uncertain.add(name, id, _text_of(exc), kept)
                elif not kept.removed:
                    # After a restart, the refused rows would count as an uncertain batch.
                    with suppress(RookeryError):
                        kept.delete(self._workspace)
                _raise_for_sender(exc)
                raise
            self._kept_tables[table] = True
            self._uncertain.batch_stored(name)
            return _delivered(reached_all)

    def _feeds_views(self, datasource: str) -> bool:
        """Whether a materialized pipe reads the datasource."""
        return datasource in _triggers(self._workspace.current)

    def _create_kept_table(self, batch: JudgedBatch) -> Name:
        """Create the table for copies of batches in advance, because it could not be created on a failing disk.

        Returns its name.
        """
        source = batch.staged.schema.source
        # The dictionary needs no lock: each datasource's table is only seen under that datasource's commit lock.
        table = kept_table(self._workspace, source.name, columns_of(source))
        if table.name not in self._kept_tables:
            self._workspace.warehouse.execute(ddl.create_table(table))
            self._kept_tables[table.name] = False
        return table.name

    def _newest_block(self, batch: JudgedBatch) -> int:
        """The newest block of the datasource's table. A newer one will show that the table has received the batch."""
        source = batch.staged.schema.source
        if source.engine.type == "Null":
            return KEEPS_NOTHING
        return newest_block_in_parts(self._workspace.warehouse, Name(self._workspace.name, source.name))

    def _kept_rows(self, batch: JudgedBatch, after: int) -> KeptBatch:
        """A batch that can be completed from its stage, or from a copy once it is saved."""
        staged = batch.staged
        return KeptBatch(
            staged.datasource,
            staged.id,
            columns_of(staged.schema.source),
            after,
            batch.projection.sql,
            f"{staged.table.sql()} WHERE {_insert_condition(batch)}",
            release_nothing,
        )

    def _reach_of_views(self, batch: JudgedBatch, *, reached_all: bool) -> Reach:
        """Whose tables have the rows of a batch in landing, except for nests that a worker fills. Never raises.

        Without `reached_all`, a view was suspended for the batch.
        """
        behind = tenants_behind(self._workspace.current, batch.staged.datasource)
        if behind is None or not (behind or reached_all):
            return NOWHERE
        staged = batch.staged
        if not behind or staged.tenant_text is None:
            return EVERYWHERE
        if staged.bound_tenants:
            return Reach(behind)
        appends = StagedAppends(staged.table.sql(), staged.tenant_text, _stored_condition(batch), _ranges(batch))
        return Reach(behind, appends.with_rows_of(self._workspace.warehouse, behind))

    def _commit_lock(self, datasource: str) -> threading.Lock:
        """The lock that orders the commits of a datasource."""
        with self._lock:
            return self._commit_locks.setdefault(datasource, threading.Lock())

    def _handover(self, batch: JudgedBatch, stage: BorrowedStage) -> CommittedBatch:
        """The batch for the router, with its stage unless reading the stage again would return different values."""
        staged, schema = batch.staged, batch.staged.schema
        assert staged.tenant_text is not None
        has_stage = schema.repeatable
        return CommittedBatch(
            batch=staged.id,
            datasource=staged.datasource,
            table=staged.table.sql() if has_stage else "",
            values=batch.projection.sql,
            tenant=staged.tenant_text,
            condition=_stored_condition(batch),
            columns=tuple(c.name for c in schema.source.columns),
            appends=_ranges(batch),
            rows=batch.stored_rows,
            size=staged.size if has_stage else 0,
            at=time.time(),
            release=stage.hand_over() if has_stage else release_nothing,
            reach=Future[Reach](),
        )

    def _insert(
        self,
        batch: JudgedBatch,
        insert: str,
        before_removal: BeforeRemoval | None = None,
        after: int | None = None,
    ) -> bool:
        """Run the INSERT. Returns whether every view has the rows; false if one was suspended."""
        staged = batch.staged
        block = None
        if staged.target is None:
            block = BatchBlocks(staged.datasource, staged.id, _rows_by_tenant(batch), after)
        may_retry = block is None or self._uncertain.failures.may_retry(block.datasource)
        try:
            return insert_to_all(self._workspace, insert, block, may_retry=may_retry, before_removal=before_removal)
        except RookeryError as exc:
            if exceeds_own_memory(exc) and not is_view_failure(exc) and self._may_have_rows(batch, after):
                # Otherwise it counts as the fault of a row, and the rows would be stored in another batch.
                raise _interrupted(exc) from exc
            raise

    def _statement(self, batch: JudgedBatch) -> str:
        """The INSERT of the valid staged rows, as one block under the batch's identity."""
        staged = batch.staged
        target = (staged.target or Name(self._workspace.name, staged.datasource)).sql()
        columns = [c.name for c in staged.schema.source.columns]
        rows = f"SELECT {batch.projection.sql} FROM {staged.table.sql()} WHERE {_insert_condition(batch)}"
        return ddl.insert_block(target, columns, staged.id, rows, **self._insert_settings(batch))

    def _insert_settings(self, batch: JudgedBatch) -> dict[str, int]:
        """The settings of the INSERT, from whose values an expression or a view may make any amount of data."""
        memory = self._workspace.settings.commit_memory(len(batch.staged.schema.source.columns))
        return {"max_memory_usage": memory, **(ONE_THREAD_SETTINGS if batch.staged.size <= ONE_THREAD_BYTES else {})}

    def _may_have_rows(self, batch: JudgedBatch, after: int | None) -> bool:
        """Whether an INSERT that took too much memory, and not in a view, may have stored rows.

        `after` is the newest block before the INSERT, if no other one can have run since.
        """
        source = batch.staged.schema.source
        if source.is_landing:
            relation = self._workspace.current.build.relations[source.name]
            landing = LandingLog(self._workspace.warehouse, self._workspace.name, relation)
            return landing.block_of(batch.staged.id, time.time()) is not None
        table = Name(self._workspace.name, source.name)
        if after is not None:
            return newest_block_in_parts(self._workspace.warehouse, table) > after
        # The rows are one block. It is stored as a whole, or partition by partition.
        return bool(source.engine.partition_key) and not self._exceeds_memory(batch)

    def _exceeds_memory(self, batch: JudgedBatch) -> bool:
        """Whether the values of a batch take too much memory before any of them is stored."""
        values = f"SELECT sum(ignore({batch.projection.sql})) FROM {batch.staged.table.sql()}"
        try:
            # With the limit of the INSERT: a lower one could be exceeded by values that the INSERT has stored.
            settings = self._insert_settings(batch)
            self._workspace.warehouse.query(f"{values} WHERE {_insert_condition(batch)}", None, settings)
        except RookeryError as exc:
            return exceeds_own_memory(exc)
        return False


@per_snapshot
def _triggers(snapshot: Snapshot) -> frozenset[str]:
    """The datasources that materialized pipes read."""
    targets = (p.target for p in snapshot.build.materialized())
    return frozenset(trigger for target in targets if target for trigger in target.triggers)


class _LandingCopy:
    """The copy of a landing batch. It is made only if a damaged part with the batch's rows must be removed."""

    def __init__(self, workspace: Workspace, datasource: str, make: Callable[[int], KeptBatch]) -> None:
        """`make` returns what is copied; its argument is the newest block before the batch."""
        self._workspace = workspace
        self._landing = Name(workspace.name, datasource)
        self._make = make
        self._kept: KeptBatch | None = None

    def before_removal(self, damaged: DamagedPart) -> None:
        """Copy the rows before a damaged part of landing is removed: only views would have them."""
        if damaged.table != self._landing:
            return
        if self._kept is None:
            part = Part.of(damaged.part)
            self._kept = self._make(part.first - 1 if part is not None else KEEPS_NOTHING)
        secure_before_removal(self._workspace, self._kept, damaged)

    def delete(self) -> None:
        """Delete the copy after the INSERT was repeated."""
        if self._kept is not None:
            forget_rows(self._workspace, self._kept)

    def after_failure(self, stage: BorrowedStage) -> KeptBatch | None:
        """What the uncertain batch is completed from; None if landing has its rows. Owns the stage if it needs it."""
        if self._kept is not None and not self._kept.saved:
            self._kept.release = stage.hand_over()
        return self._kept


def _may_be_stored(exc: BaseException) -> bool:
    """Whether a failed INSERT may have stored its rows, in the datasource or in some of the views."""
    return not isinstance(exc, RookeryError) or exc.code is UNDELIVERED or is_transient(exc)


def _interrupted(exc: RookeryError) -> RookeryError:
    """RK6008 for an INSERT that may have stored rows and not reached the views."""
    return RookeryError(OVERLOADED, OVERLOADED.title, detail=exc.detail or exc.message)


def _text_of(exc: BaseException) -> str:
    """The engine's own error."""
    return getattr(exc, "detail", None) or str(exc)


def _raise_for_sender(exc: BaseException) -> None:
    """Raise a temporary failure in the form for the sender. Returns if the failure is not temporary."""
    if isinstance(exc, RookeryError) and is_transient(exc):
        raise for_sender(exc) from exc


def _is_all_or_nothing(batch: JudgedBatch) -> bool:
    """Whether a single bad row makes the whole batch fail, because no row is known to be bad."""
    return not batch.rejected


def _rows_by_tenant(batch: JudgedBatch) -> str:
    """A SELECT that counts the batch's rows by tenant."""
    staged = batch.staged
    value = staged.bound.text if staged.bound is not None else staged.tenant_text or "''"
    # An alias with the name of a column would replace the column in the condition.
    counts = f"SELECT toString({value}) AS _rk_tenant, count() FROM {staged.table.sql()}"
    return f"{counts} WHERE {_stored_condition(batch)} GROUP BY _rk_tenant"


def _ranges(batch: JudgedBatch) -> tuple[tuple[int, int], ...]:
    """The rows of each append in the stage."""
    return tuple((s.start, s.stop) for s in batch.staged.slices)


def _stored_condition(batch: JudgedBatch) -> str:
    """The SQL condition for the staged rows that are in the datasource after the batch is stored."""
    return "1" if _is_all_or_nothing(batch) else batch.condition


def _insert_condition(batch: JudgedBatch) -> str:
    """The SQL condition of the INSERT. It throws for a bad row of a batch in which none is known to be bad."""
    if not _is_all_or_nothing(batch) or batch.condition == "1":
        return batch.condition
    # The batch is one block, so a row that throws keeps all of it out. The row is then searched for.
    return f"throwIf(NOT ({batch.condition})) = 0"


def _delivered(reached_all: bool) -> Delivery:
    """The delivery of rows that only views deliver. If it has not reached all tables, a view was suspended."""
    return DELIVERED if reached_all else Delivery(NOWHERE)
