"""Writes batches: stages the rows, validates and if necessary inspects them, records receipts, and commits.

Only the engine decides what a value is and which tenant a row belongs to. The stage keeps the tenant as the text that
was sent, so that a tenant that is missing, null, out of range or not canonical is detected. A row with such a tenant,
or one that cannot be read, goes to quarantine; the other rows are stored. `docs/INGESTION.md` explains the order of
the steps.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.compiler import storage
from engine.errors import RookeryError
from engine.fanout.handover import DELIVERED, AppendOfBatch, Delivery
from engine.fanout.view_errors import is_view_failure
from engine.ingest.batch import Append, AppendResult, JudgedBatch, StagedBatch
from engine.ingest.batch_texts import BatchTexts, slices_of
from engine.ingest.commit import Committer
from engine.ingest.formats.file_columns import read_source_types
from engine.ingest.idempotency.keys import Key, key_of
from engine.ingest.idempotency.receipt import Receipt
from engine.ingest.idempotency.receipts import Receipts
from engine.ingest.inspection import inspect
from engine.ingest.purged_tenants import purged_among
from engine.ingest.read_settings import too_large
from engine.ingest.recording import Recorder
from engine.ingest.stage_reader import StageReader, ignored_columns
from engine.ingest.stage_schemas import schema_for
from engine.ingest.staging_pool import BorrowedStage, StagingPool
from engine.ingest.validity import Validity
from engine.ingest.values.staging import NO_SOURCE_TYPES, StageSchema
from engine.ingest.writer_queues import AppendGroup
from engine.warehouse.errors import exceeds_own_memory, for_sender, is_caused_by_rows, is_transient
from engine.warehouse.port import Input
from engine.workspace.snapshot import Snapshot
from engine.workspace.workspace import Workspace

Results = dict[int, AppendResult | RookeryError]
"""Results of appends, by the `id()` of the append."""


class _BatchFailed(Exception):
    """A batch cannot be stored as a whole: its appends must be separated, or its only append inspected."""


@dataclass(slots=True)
class Attempt:
    """The outcome of one step of storing a group."""

    results: Results = field(default_factory=dict)
    """Of the appends that are done."""
    remaining: list[AppendGroup] = field(default_factory=list)
    """The groups that are still to be stored, in order."""


class BatchWriter:
    """Stores batches. Called by several `ingest` and `search` threads at once."""

    def __init__(self, workspace: Workspace, stages: StagingPool, receipts: Receipts) -> None:
        self._workspace = workspace
        self._stages = stages
        self._receipts = receipts
        self._recorder = Recorder(workspace, receipts)
        self._committer = Committer(workspace)
        self._reader = StageReader(workspace)
        self._validity = Validity(workspace.warehouse, workspace.settings)

    def complete_uncertain(self, datasource: str) -> None:
        """Complete unfinished work of earlier batches. Raises RK5013 or RK6008 if that is not possible now."""
        self._committer.complete_uncertain(datasource)
        self._recorder.remove_orphans(datasource)

    def examine(self, append: Append) -> None:
        """Set what is known about an append before it joins a batch; see `StageReader.examine`."""
        self._reader.examine(append)

    def store(self, appends: Sequence[Append]) -> list[AppendResult | RookeryError]:
        """Store appends to one datasource as one batch, if all rows are good. If the appends are bound to several
        tenants, their lines must be known.

        Otherwise the batch is split until each append with bad rows is alone, so that no append is inspected or
        refused because of another.
        """
        groups, results = deque([AppendGroup(list(appends), failed=False)]), Results()
        while groups:
            attempt = self.attempt(groups.popleft())
            results |= attempt.results
            groups.extendleft(reversed(attempt.remaining))
        return [results[id(a)] for a in appends]

    def attempt(self, group: AppendGroup) -> Attempt:
        """Do one step of storing a group: store it or, if that has failed, split it or inspect its only append.

        The caller repeats this for the groups that remain. Errors of appends are results.
        """
        appends = group.appends
        if group.failed and len(appends) > 1:
            return Attempt(remaining=group.halves())
        try:
            if len({self._reader.mode_of(a) for a in appends}) > 1:
                # `Grouping` separates them. Otherwise an append could change how another is stored.
                return Attempt(remaining=group.halves())
            results = self._store_together(appends, may_inspect=group.failed)
        except _BatchFailed:
            return Attempt(remaining=[AppendGroup(appends, failed=True)])
        except RookeryError as exc:
            is_for_one = is_caused_by_rows(exc) and not is_view_failure(exc)
            if is_for_one and len(appends) > 1:
                # It may be the fault of one of them.
                return Attempt(remaining=[AppendGroup(appends, failed=True)])
            error = for_sender(exc) if is_transient(exc) else exc
            return Attempt({id(a): error for a in appends})
        return Attempt(results)

    def _store_together(self, appends: Sequence[Append], *, may_inspect: bool) -> Results:
        """Store appends as one batch. Raises `_BatchFailed` if that is not possible."""
        texts, first = BatchTexts.of(appends), appends[0]
        schema = self._schema_for(first)
        # A batch that may be inspected has already failed, and the fast checks would only fail again.
        fast = not may_inspect and self._validity.tries_fast_checks(schema)
        with self._stages.borrow(schema) as stage:
            batch = StagedBatch(
                _identity(first, schema, self._workspace.current),
                schema,
                stage.table,
                # The engine counts the rows of each append when it reads them.
                slices_of(texts.appends, [0 for _ in appends]),
                sum(map(len, texts.texts)),
                may_inspect,
                ignored_columns(schema, texts),
            )
            staged = self._reader.read(batch, texts)
            if staged is None or self._has_purged_tenants(staged):
                judged = self._inspect(staged or batch)
            else:
                judged = JudgedBatch(staged, fast=fast)
            if any(s.append.key for s in judged.staged.slices):
                # A receipt is written before the rows are stored, so their number must be known.
                judged = self._with_known_count(judged)
            # A backup contains the bad rows and receipts of a batch only together with its good rows.
            with self._workspace.batch_lock.shared():
                return self._record_and_commit(judged, stage)

    def _schema_for(self, first: Append) -> StageSchema:
        """How the rows of a batch are staged, which depends on their values and on the types in a file."""
        source_types = read_source_types(first.body) if first.format is Input.PARQUET else NO_SOURCE_TYPES
        mode = self._reader.mode_of(first)
        return schema_for(self._workspace.current, first.datasource, first.format, mode, source_types)

    def _record_and_commit(self, batch: JudgedBatch, stage: BorrowedStage) -> Results:
        """Record receipts and commit. A batch whose bad rows only show when it is stored is inspected first."""
        batch, receipts = self._recorder.record(batch)
        delivery = DELIVERED
        while batch.stored_rows:
            try:
                delivery = self._committer.commit(batch, stage)
                break
            except RookeryError as exc:
                # A client error here means that a row failed its check or threw, and that the INSERT stored nothing.
                if not is_caused_by_rows(exc) or is_view_failure(exc):
                    raise
                if batch.inspected:
                    raise self._error_of_inspected(exc, batch) from exc
                if (fully_checked := self._validity.with_full_checks(batch)) is not None:
                    batch = fully_checked
                else:
                    batch, receipts = self._recorder.record(self._inspect(batch.staged))
        # Done only now: before the commit, a repeated append would get a response although nothing is stored.
        self._receipts.mark_stored(receipts)
        by_key = {r.key: r for r in receipts}
        slices = batch.staged.slices
        return {id(s.append): _result(batch, n, by_key, delivery) for n, s in enumerate(slices)}

    def _error_of_inspected(self, exc: RookeryError, batch: JudgedBatch) -> RookeryError:
        """The error for the sender of rows of which none is bad, but which cannot be stored together."""
        if not exceeds_own_memory(exc):
            return exc
        columns = batch.staged.schema.source.columns
        return too_large(exc, self._workspace.settings.commit_memory(len(columns)))

    def _has_purged_tenants(self, batch: StagedBatch) -> bool:
        """Whether the batch has rows of purged tenants, which an inspection rejects."""
        return bool(purged_among(self._workspace.warehouse, batch, batch.table.sql(), self._workspace.current.purged))

    def _with_known_count(self, batch: JudgedBatch) -> JudgedBatch:
        """A batch whose number of stored rows is known."""
        if batch.inspected or not batch.stored_rows or self._validity.is_valid(batch):
            return batch
        return self._validity.with_full_checks(batch) or self._inspect(batch.staged)

    def _inspect(self, batch: StagedBatch) -> JudgedBatch:
        """Find the batch's bad rows. Raises `_BatchFailed` if it has several appends or may not be inspected yet."""
        if len(batch.slices) > 1 or not batch.may_inspect:
            raise _BatchFailed
        return inspect(self._workspace, batch, self._reader.strict_keys(batch.slices[0].append))


def _result(
    batch: JudgedBatch, position: int, receipts: Mapping[Key, Receipt], delivery: Delivery
) -> AppendResult | RookeryError:
    """The result of the append at a position of a batch."""
    if batch.refusal is not None:
        return batch.refusal
    share = batch.staged.slices[position]
    rejected, discarded = batch.rejected_in(share), batch.discarded_in(share)
    receipt = receipts.get(key_of(share.append)) if share.append.key else None
    return AppendResult(
        batch.staged.id,
        share.rows - rejected,
        rejected - discarded,
        discarded,
        receipt.tenants if receipt else {},
        delivery,
        AppendOfBatch(share.append.bound_tenant, position),
        ignored_columns=batch.staged.ignored_columns,
        unknown_keys=share.append.unknown_keys,
        first_bad_row=batch.first_bad_row(share),
    )


def _identity(append: Append, schema: StageSchema, snapshot: Snapshot) -> str:
    """A new batch's identity, which is also its deduplication token.

    Rows of a landing datasource contain their batch's id. For other datasources, a retry can only be recognized by
    the engine's deduplication window, so the identity is derived from the idempotency key, and each append with a key
    is a separate batch. A table also recognizes the batches of a tenant that was purged.
    """
    if not schema.source.is_landing and append.key:
        readded = snapshot.readded.get(append.bound_tenant or "")
        return f"k:{storage.digest(*key_of(append), append.digest, *([readded] if readded else []))}"
    return f"g:{time.time_ns():x}{secrets.token_hex(5)}"
