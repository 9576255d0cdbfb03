"""Decides which appends of a batch are stored together, and which are stored already."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import NamedTuple

from engine.errors import RookeryError
from engine.fanout.suspension_records import tenants_behind
from engine.ingest.batch import Append
from engine.ingest.idempotency.keys import key_of, require_same_body
from engine.ingest.idempotency.receipts import Receipts
from engine.ingest.unexpected_errors import unexpected_error
from engine.ingest.values.staging_mode import StagingMode
from engine.ingest.writer import BatchWriter, Results
from engine.ingest.writer_queues import AppendGroup
from engine.workspace.workspace import Workspace


class Grouping:
    """Groups the appends of one batch. Called by several `ingest` threads at once; it has no state."""

    def __init__(self, workspace: Workspace, receipts: Receipts, writer: BatchWriter) -> None:
        self._workspace = workspace
        self._receipts = receipts
        self._writer = writer

    def groups_of(self, appends: Sequence[Append], failing: Set[str], results: Results) -> list[AppendGroup]:
        """The groups of a batch that are stored together, in order. Adds results of repeated appends to `results`.

        `failing` are writers whose rows were bad lately. First completes uncertain batches, before which nothing may
        be stored. Raises RK5013 or RK6008 if that fails, and the errors of the database.
        """
        datasource = appends[0].datasource
        self._writer.complete_uncertain(datasource)
        new = self._without_repeated(appends, results)
        if not new:
            return []
        snapshot = self._workspace.current
        behind = tenants_behind(snapshot, datasource)
        if snapshot.build.datasources[datasource].is_landing:
            return [AppendGroup(g, failed=False) for g in _separated(new, failing, behind)]
        groups: list[list[Append]] = []
        for append in new:
            # Rows do not contain their batch's id here, so the idempotency key must be the identity of a separate
            # batch.
            if append.key or not groups or groups[-1][0].key:
                groups.append([append])
            else:
                groups[-1].append(append)
        return [AppendGroup(part, failed=False) for g in groups for part in _separated(g, failing, behind)]

    def _without_repeated(self, appends: Sequence[Append], results: Results) -> list[Append]:
        """The appends that are not stored already, examined. Results of the others are added to `results`."""
        receipts = self._receipts.find([key_of(a) for a in appends if a.key])
        new = []
        for append in appends:
            receipt = receipts.get(key_of(append)) if append.key else None
            if receipt is None or (not receipt.is_confirmed and receipt.digest == append.digest):
                if self._is_examined(append, results):
                    new.append(append)
                continue
            try:
                require_same_body(receipt.digest, append.digest)
                results[id(append)] = receipt.as_repeated_result()
            except RookeryError as exc:
                results[id(append)] = exc
        return new

    def _is_examined(self, append: Append, results: Results) -> bool:
        """Examine an append. An error is its result, so that it fails no other append."""
        try:
            self._writer.examine(append)
        except Exception as exc:
            results[id(append)] = exc if isinstance(exc, RookeryError) else unexpected_error(exc)
            return False
        return True


class _GroupKey(NamedTuple):
    """What the appends of a group have in common."""

    order: int
    """Groups with a lower number are stored earlier."""
    writer: str
    """The only writer of the group; empty if others may join it."""
    mode: StagingMode | None


def _separated(appends: list[Append], failing: Set[str], behind: Set[str] | None) -> list[list[Append]]:
    """Separate the appends that must not share a batch. Each writer's appends stay in order.

    The appends of a batch need the same staging mode. These writers are kept apart from others: those whose latest
    rows were bad, because each failure would also split the others' batch; bound tenants whose lines are not known,
    which cannot be staged with other tenants; and tenants whose tables miss rows because of a failing view
    (`behind`), because only they must wait for it.
    """
    is_mixed = len({a.bound_tenant for a in appends}) > 1
    groups: dict[_GroupKey, list[Append]] = {}
    latest: dict[str, _GroupKey] = {}
    for append in appends:
        writer, before = append.writer, latest.get(append.writer)
        unshareable = is_mixed and (append.lines is None or (behind and append.bound_tenant in behind))
        is_apart = unshareable or writer in failing or (before is not None and before.writer)
        key = _GroupKey(before.order if before else 0, writer if is_apart else "", append.mode)
        if before is not None and key != before:
            key = key._replace(order=before.order + 1)
        latest[writer] = key
        groups.setdefault(key, []).append(append)
    # Groups of many writers do not wait for those that are likely to fail.
    return [groups[key] for key in sorted(groups, key=lambda key: (key.order, bool(key.writer)))]
