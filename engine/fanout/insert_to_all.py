"""Inserts rows into a table and through every working view on it. A view that keeps failing is suspended in the
meantime.

The engine stores rows in the table first and then pushes them through its views. A view that fails ends the INSERT,
so all other views may miss the rows. A repeated INSERT delivers them; tables that already have the rows recognize its
token.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from engine.errors import DISK_FULL, UNDELIVERED, RookeryError
from engine.fanout.failed_writes import BeforeRemoval, DamagedPartsRemoved, remove_damaged_parts, tables_fed_by
from engine.fanout.handover import BatchBlocks
from engine.fanout.suspended_views import SuspendedView, complete_record, suspend
from engine.fanout.view_errors import is_view_failure
from engine.warehouse.errors import is_transient
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.fanout")

MAX_SUSPENDED_PER_BATCH = 100
"""Maximum number of views that are suspended for one batch."""


def insert_to_all(
    workspace: Workspace,
    sql: str,
    block: BatchBlocks | None = None,
    *,
    may_retry: bool = True,
    before_removal: BeforeRemoval | None = None,
) -> bool:
    """Run an INSERT until every working view has its rows. Returns whether no view had to be suspended.

    `before_removal` is called before a damaged part of any table is removed in order to repeat the INSERT. Raises
    transient errors, even if they name a view; without `may_retry`, that view is suspended instead, unless the disk
    is full. Raises RK5011 if the rows are in landing and no view can be suspended for the failure.
    """
    return _Insert(workspace, sql, block, may_retry, before_removal).run()


@dataclass(frozen=True, slots=True)
class _Insert:
    """One INSERT, with what is needed to handle its failures."""

    workspace: Workspace
    sql: str
    block: BatchBlocks | None
    """How its blocks are recognized; None for rows in a table of their own, which views do not read."""
    may_retry: bool
    """Whether a transient failure is raised, so that the INSERT is repeated later, instead of suspending a view."""
    before_removal: BeforeRemoval | None
    """Saves the rows of a damaged part before the part is removed."""

    def run(self) -> bool:
        """Try twice, because the first failure may be temporary, and then without the views that fail."""
        insert_lock, warehouse = self.workspace.insert_lock, self.workspace.warehouse
        # The lock is shared until the last attempt: a view that is created between attempts would get the rows twice,
        # from its backfill and from the next attempt.
        with insert_lock.shared():
            if self.block is not None:
                warehouse.note_parts(tables_fed_by(self.workspace, self.block.datasource))
            failure = self._attempt(is_repeated=False)
            if failure is None:
                return True
            try:
                with insert_lock.upgraded():
                    warehouse.forget_unstored_tokens()
                failure_again = self._attempt(is_repeated=True)
            except RookeryError as exc:
                raise exc from failure
            if failure_again is None:
                return True
            # With the lock held exclusively, no other insert mixes its blocks with those that the suspended views
            # miss.
            with insert_lock.upgraded():
                self._suspend_until_stored(failure_again)
            return False

    def _suspend_until_stored(self, failure: RookeryError) -> None:
        """Suspend one failing view after another until the INSERT succeeds. The insert lock is held exclusively."""
        suspended_now: list[SuspendedView] = []
        next_failure: RookeryError | None = failure
        while next_failure is not None:
            self.workspace.warehouse.forget_unstored_tokens()
            view = None
            if len(suspended_now) < MAX_SUSPENDED_PER_BATCH:
                view = suspend(self.workspace, next_failure, self.block)
            if view is None:
                raise _undelivered(next_failure) from next_failure
            suspended_now.append(view)
            next_failure = self._attempt(is_repeated=True)
        for view in suspended_now:
            complete_record(self.workspace, view, self.block)

    def _attempt(self, *, is_repeated: bool) -> RookeryError | None:
        """Run the INSERT. Returns an error that a view caused, or after which it may be repeated at once.

        Raises any other error.
        """
        try:
            self.workspace.warehouse.execute(self.sql)
            self._remove_damaged()
        except RookeryError as exc:
            by_view, transient = is_view_failure(exc), is_transient(exc)
            if not (by_view or transient):
                raise
            raises_transient = self.may_retry or not by_view or exc.code is DISK_FULL
            if transient and raises_transient and (is_repeated or not self._may_repeat_now(exc)):
                raise
            return exc
        return None

    def _may_repeat_now(self, exc: RookeryError) -> bool:
        """Whether the INSERT may be repeated within the same call."""
        # A server may still be running an INSERT whose response was lost.
        return self.workspace.warehouse.capabilities.embedded and exc.code is not DISK_FULL

    def _remove_damaged(self) -> None:
        """Remove parts that the engine stored despite a failed write. Raises RK6009: the INSERT must be repeated."""
        if self.block is None:
            return
        tables = tables_fed_by(self.workspace, self.block.datasource)
        removed, merged = remove_damaged_parts(self.workspace, tables, self.before_removal)
        if merged:
            with self.workspace.insert_lock.upgraded():
                self.workspace.warehouse.undo_merges()
        if removed:
            raise DamagedPartsRemoved(removed)


def _undelivered(exc: RookeryError) -> RookeryError:
    """RK5011 for the sender. The original error may name views and nests, which the sender must not see."""
    log.error("a view failed on rows that are in landing", error=exc)
    return RookeryError(
        UNDELIVERED,
        "the rows are in landing, but a view on the datasource failed on them",
        hint="send them again only with the same idempotency key; the server's log names the view",
        detail=exc.detail or exc.message,
    )
