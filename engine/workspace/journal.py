"""The journal of plans: which backfills are outstanding, and what views have received, in the registry."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from engine.plan.backfill import Backfill
from engine.plan.coverage import COVERAGE_KIND, Consumed, Coverage
from engine.schema import Name, Schema, View
from engine.warehouse.registry import Registry

BACKFILL_KIND = "history"
DEFERRED_KIND = "deferred"
"""Kind of the records of views that could not be created yet, with the tenant that they wait for and the time."""
COMPLETE_KIND = "settled"
"""Kind of the record with each table's newest block that has reached all views."""
RESTORED_KIND = "restored"
"""Kind of the record with each table's newest block after a RESTORE. Blocks up to it may have many batches."""


class RegistryJournal:
    """Implements `engine.plan.backfill.Journal` with records of the registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def record(self, backfills: Sequence[Backfill]) -> None:
        """Record backfills, or the remaining ranges of recorded ones."""
        self._registry.write(BACKFILL_KIND, {b.id: b.as_dict() for b in backfills})

    def delete(self, backfills: Sequence[Backfill]) -> None:
        """Delete the records of backfills that are complete or void."""
        self._registry.remove(BACKFILL_KIND, [b.id for b in backfills])

    def outstanding(self) -> list[Backfill]:
        """All recorded backfills."""
        return [Backfill.of(b) for b in self._registry.read(BACKFILL_KIND).values()]

    def record_consumed(self, views: Sequence[View], empty: Collection[Name]) -> None:
        """Record from which part of their sources the targets of views are computed. Inserts must be blocked.

        The sources of the views in `empty` have no rows.
        """
        coverage = Coverage(self._registry.warehouse, self._registry, Schema())
        known = self._registry.read(COVERAGE_KIND) if views else {}
        consumed = {v.name: Consumed() if v.name in empty else coverage.consumed(v) for v in views}
        bodies = {str(n): c.as_dict() for n, c in consumed.items()}
        # Without a record, a target counts as computed from nothing, so such a record does not have to be written.
        nothing = Consumed().as_dict()
        self._registry.write(COVERAGE_KIND, {n: b for n, b in bodies.items() if b != known.get(n, nothing)})

    def record_continued(self, views: Sequence[View]) -> None:
        """Record that targets contain rows of earlier queries up to now. Inserts must be blocked."""
        coverage = Coverage(self._registry.warehouse, self._registry, Schema())
        self._registry.write(COVERAGE_KIND, {str(v.name): coverage.continued(v).as_dict() for v in views})

    def record_deferred(self, deferred: Sequence[View], created: Sequence[View]) -> None:
        """Record views that cannot be created yet, and delete the records of views that are created now."""
        known = self._registry.read(DEFERRED_KIND)
        self._registry.remove(DEFERRED_KIND, [n for v in created if (n := str(v.name)) in known])
        since = datetime.now(UTC).isoformat(timespec="seconds")
        bodies = {str(v.name): {"tenant": v.mark.tenant if v.mark else None, "since": since} for v in deferred}
        # Existing records keep their time, which shows since when a view has been waiting.
        self._registry.write(DEFERRED_KIND, {n: b for n, b in bodies.items() if n not in known})

    def record_newest_blocks(self) -> None:
        """Record the newest blocks of the workspace's tables, which have reached all views. Inserts must be
        blocked.
        """
        self._registry.write(COMPLETE_KIND, {"blocks": self._registry.newest_blocks()})
