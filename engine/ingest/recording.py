"""Records the outcome of a batch before it is committed: bad rows go to quarantine, then receipts are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.fanout.staged_appends import position_of
from engine.ingest import quarantine
from engine.ingest.batch import AppendSlice, JudgedBatch
from engine.ingest.commit import ONE_THREAD_SETTINGS
from engine.ingest.idempotency.keys import key_of
from engine.ingest.idempotency.receipt import Receipt
from engine.ingest.idempotency.receipts import Receipts
from engine.ingest.orphaned_rejections import OrphanedRejections
from engine.ingest.quarantine_quota import QuarantineQuota, id_prefix
from engine.ingest.values.staging import ROW_NUMBER_COLUMN
from engine.workspace.workspace import Workspace

MAX_COUNTED_TENANTS = 1000
"""Maximum number of tenants for which a receipt counts rows."""


class Recorder:
    """Writes quarantined rows and receipts. Called by several `ingest` and `search` threads at once."""

    def __init__(self, workspace: Workspace, receipts: Receipts) -> None:
        self._workspace = workspace
        self._receipts = receipts
        self._quota = QuarantineQuota(workspace)
        self._orphans = OrphanedRejections(workspace, receipts)

    def remove_orphans(self, datasource: str) -> None:
        """Remove quarantined rows of batches that could not be recorded. Raises the warehouse's errors."""
        self._orphans.remove(datasource)

    def record(self, batch: JudgedBatch) -> tuple[JudgedBatch, list[Receipt]]:
        """Quarantine bad rows, then write receipts. With this order, a receipt's counts are correct even after a
        kill.
        """
        try:
            batch = self._quarantine(batch)
            return batch, self._write_receipts(batch)
        except BaseException:
            # The bad rows may be stored already. A retry would store them a second time.
            if batch.rejected:
                self._orphans.add(batch.staged.datasource, batch.staged.id)
            raise

    def _quarantine(self, batch: JudgedBatch) -> JudgedBatch:
        """Store bad rows in quarantine, up to their writer's quota."""
        if not batch.rejected:
            return batch
        # A batch with rejected rows has one append: the batch was inspected.
        staged, append = batch.staged, batch.staged.slices[0].append
        admitted = self._quota.admit(append, batch.rejected)
        is_landing = staged.schema.source.is_landing
        if admitted and append.key and is_landing:
            # If the process is killed before the receipt is written, the next start removes these rows.
            self._receipts.announce_rejections((staged.datasource, staged.id))
        # A repeated request to a datasource that is not a landing datasource has the same batch.
        if admitted and (is_landing or not quarantine.contains(self._workspace, staged.datasource, staged.id)):
            origin = quarantine.Origin(staged.id, staged.bound_tenant, id_prefix(append.writer))
            quarantine.store(self._workspace, staged.datasource, origin, admitted.values())
        return replace(batch, discarded=frozenset(batch.rejected.keys() - admitted.keys()))

    def _write_receipts(self, batch: JudgedBatch) -> list[Receipt]:
        """Write receipts for the appends with idempotency keys, except those without any kept row."""
        staged = batch.staged
        if batch.refusal is not None:
            return []
        shares = [s for s in staged.slices if s.append.key and not batch.leaves_nothing(s)]
        if not shares:
            return []
        tenants = self._count_by_tenant(batch, shares)
        receipts = [
            Receipt(
                key=key_of(share.append),
                digest=share.append.digest,
                batch=staged.id,
                rows=share.rows - batch.rejected_in(share),
                quarantined=batch.rejected_in(share) - batch.discarded_in(share),
                tenants=tenants.get(n, {}),
                is_landing=staged.schema.source.is_landing,
                refused=batch.discarded_in(share),
                unknown_keys=share.append.unknown_keys,
                first_bad_row=batch.first_bad_row(share),
            )
            for n, share in enumerate(shares)
        ]
        self._receipts.write(receipts)
        return receipts

    def _count_by_tenant(self, batch: JudgedBatch, shares: Sequence[AppendSlice]) -> dict[int, dict[str, int]]:
        """Rows that will be stored, by the position of their append in `shares` and by tenant."""
        staged, schema = batch.staged, batch.staged.schema
        if schema.tenant is None or not batch.stored_rows:
            return {}
        number = ROW_NUMBER_COLUMN if batch.numbered else "rowNumberInAllBlocks()"
        result = self._workspace.warehouse.query(
            # An alias with the name of a column would replace the column in the condition.
            f"SELECT {position_of('_rk_i', [(s.start, s.stop) for s in shares])} AS _rk_p, "
            "assumeNotNull(_rk_t), count() "
            f"FROM (SELECT {number} AS _rk_i, {staged.tenant_text} AS _rk_t "
            f"FROM {staged.table.sql()} WHERE {batch.condition}) "
            f"WHERE _rk_p > 0 GROUP BY 1, 2 ORDER BY 3 DESC LIMIT {MAX_COUNTED_TENANTS} BY _rk_p",
            None,
            ONE_THREAD_SETTINGS,
        )
        counts: dict[int, dict[str, int]] = {}
        for position, id, rows in result.rows:
            counts.setdefault(int(position) - 1, {})[str(id)] = int(rows)
        return counts
