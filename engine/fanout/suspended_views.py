"""Suspends failing views, which would block every insert: finds them, drops them, and records what they miss.

A view that tenants share is restricted instead if only a few tenants' rows make it fail: it runs without these
tenants. The blocks that the view has missed are recorded. A push, or `rookery fanout repair`, restores the view and
delivers these blocks; its target keeps its rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from engine.errors import DISK_FULL, UNDELIVERED, RookeryError
from engine.fanout.failed_writes import DamagedPartsRemoved, remove_damaged_parts, tables_fed_by
from engine.fanout.failing_tenants import BlockRange, find_failure, without_failing_tenants
from engine.fanout.missing_rows import (
    blocks_of_batch,
    has_batch_column,
    keeps_block_numbers,
    log_of,
    newest_block,
    rows_by_tenant,
    table_ids,
)
from engine.plan.backfill import missing_ranges
from engine.plan.missing_blocks import Gap, MissedBlocks, Missing
from engine.schema import Name, Schema, View
from engine.warehouse import ddl
from engine.warehouse.catalog import read_schema
from engine.warehouse.errors import is_transient
from engine.workspace.journal import RegistryJournal
from engine.workspace.snapshot import Snapshot
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.fanout")

SUSPENDED_KIND = "suspended"
"""Kind of the records in the registry."""
MAX_SUSPENDED_PER_BATCH = 100
"""Maximum number of views that are suspended for one batch."""
_NAME = r"while pushing to view `?([^`\s:'\".]++)`?\.`?([^`\s:'\".]++)`?(?: \([0-9a-f-]{36}\))?"
_PUSHING = re.compile(_NAME + r"(?=[:.\s]|$)")
# An error may quote text of a row, which could imitate the patterns above. But the beginning and the end of an error
# are always written by the engine.
ERROR_TAIL_CHARACTERS = 2000
"""Number of characters at the end of an error in which the engine names views. The quoted text of a row may be much
longer.
"""
_PUSHED = re.compile(rf"((?:: {_NAME})+)[.\s]*+(?:\([A-Z0-9_]+\))?+[.\s]*+(?:\(version .*\))?[.\s]*+$")
_TARGET = re.compile(r"(?:Code: \d+\. )?(?:DB::Exception: )?Target table '`?([^'`.]++)`?\.`?([^'`.]++)`?' of view")


def insert_to_all(workspace: Workspace, sql: str, block: BlockRange | None = None, *, may_retry: bool = True) -> bool:
    """Run an INSERT until every working view has its rows. Returns whether no view had to be suspended.

    Raises transient errors, even if they name a view; without `may_retry`, that view is suspended instead, unless the
    disk is full. Raises RK5011 if the rows are in landing and no view can be suspended for the failure.
    """
    return _Insert(workspace, sql, block, may_retry).run()


@dataclass(frozen=True, slots=True)
class _Insert:
    """One INSERT, with what is needed to handle its failures. If a view fails, the other views do not receive the
    rows either.
    """

    workspace: Workspace
    sql: str
    block: BlockRange | None
    may_retry: bool

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
                # The first failure is the cause, because it shows whether the rows were removed from landing.
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
        suspended_now: list[_Suspended] = []
        next_failure: RookeryError | None = failure
        while next_failure is not None:
            self.workspace.warehouse.forget_unstored_tokens()
            view = None
            if len(suspended_now) < MAX_SUSPENDED_PER_BATCH:
                view = _suspend(self.workspace, next_failure, self.block)
            if view is None:
                raise _undelivered(next_failure) from next_failure
            suspended_now.append(view)
            next_failure = self._attempt(is_repeated=True)
        for view in suspended_now:
            _complete_record(self.workspace, view, self.block)

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
        # A server may still be running an INSERT whose response was lost.
        return self.workspace.warehouse.capabilities.embedded and exc.code is not DISK_FULL

    def _remove_damaged(self) -> None:
        """Remove parts that the engine stored despite a failed write. Raises RK6009: the INSERT must be repeated."""
        if self.block is None:
            return
        tables = tables_fed_by(self.workspace, self.block.datasource)
        removed, merged = remove_damaged_parts(self.workspace, tables)
        if merged:
            with self.workspace.insert_lock.upgraded():
                self.workspace.warehouse.undo_merges()
        if removed:
            raise DamagedPartsRemoved(removed)


def is_view_failure(exc: RookeryError) -> bool:
    """Whether an INSERT failed in a view, and not because of its own rows."""
    text = exc.detail or exc.message
    return _PUSHED.search(text[-ERROR_TAIL_CHARACTERS:]) is not None or _TARGET.match(text) is not None


@dataclass(frozen=True, slots=True)
class _Suspended:
    """A view that was just suspended."""

    view: View
    record: dict[str, Any]
    newest: int
    """The newest block of its source at that moment."""


def _suspend(workspace: Workspace, exc: RookeryError, block: BlockRange | None) -> _Suspended | None:
    """Drop the view that made an INSERT fail, or restrict it to the tenants whose rows it accepts.

    The insert lock must be held exclusively. None if the error names no view, or one that rookery did not create.
    """
    error = exc.detail or exc.message
    view = _failed_view(workspace, error)
    if view is None or view.mark is None:
        return None
    restricted = without_failing_tenants(workspace, view, block) if block is not None else None
    without = restricted.mark.without if restricted is not None and restricted.mark is not None else ()
    record = _new_record(view, error[:1000], block.datasource if block is not None else None)
    known_gaps = _gaps_of(workspace, view)
    source = log_of(workspace, view)
    newest = newest_block(workspace, source)
    numbered = keeps_block_numbers(workspace, source)
    batches = (block.batch,) if numbered and block is not None and has_batch_column(workspace, source) else ()
    after = newest if batches else _block_before(workspace, source, block) if numbered else None
    if batches and block is not None:
        record["rows"] = {**_missed_rows(workspace, view), block.batch: rows_by_tenant(workspace, block)}
    # Recorded before the drop. If the process is killed before the drop, the view still runs in full, which makes the
    # record void; if it is killed later, the view no longer exists and misses what the record says.
    record = _write_record(workspace, view, record, source, (*known_gaps, Gap(None, after, batches)))
    workspace.warehouse.execute(ddl.drop_view(view.name))
    if restricted is not None:
        workspace.warehouse.execute(ddl.create_view(restricted))
        own = {g.tenant: g for g in known_gaps}
        gaps = tuple(own.get(t, Gap(t, after, batches)) for t in without)
        record = _write_record(workspace, view, {**record, "without": [*without]}, source, gaps)
    _keep_backfills(workspace, view)
    workspace.refresh()
    outcome = "a view failed and now runs without some tenants" if without else "a view failed and was suspended"
    log.error(outcome, view=str(view.name), without=without, error=error)
    return _Suspended(view, record, newest)


def _new_record(view: View, error: str, datasource: str | None) -> dict[str, Any]:
    assert view.mark is not None
    return {
        "error": error,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "fingerprint": view.mark.fingerprint,
        "datasource": datasource,
        "tenant": view.mark.tenant,
        "without": [],
    }


def _block_before(workspace: Workspace, source: Name, block: BlockRange | None) -> int | None:
    """The newest block before a batch, in the table that the batch was inserted into; None if it is unknown."""
    if block is None or source != Name(workspace.name, block.datasource):
        return None
    return block.after


def _keep_backfills(workspace: Workspace, view: View) -> None:
    """Keep the outstanding backfills of a view valid while it is suspended."""
    journal = RegistryJournal(workspace.registry)
    journal.record([replace(b, whole=False) for b in journal.outstanding() if b.view == str(view.name) and b.whole])


def _missed_rows(workspace: Workspace, view: View) -> dict[str, Any]:
    """The recorded rows, by batch, that a view has missed while it ran without some tenants."""
    if view.mark is None or not view.mark.without:
        return {}
    return dict(workspace.registry.read(SUSPENDED_KIND).get(str(view.name), {}).get("rows", {}))


def _gaps_of(workspace: Workspace, view: View) -> tuple[Gap, ...]:
    """The gaps of the tenants without which a view runs; none for a view that runs in full."""
    if view.mark is None or not view.mark.without:
        return ()
    record = workspace.registry.read(SUSPENDED_KIND).get(str(view.name), {})
    missing = Missing.of(record.get("missing"))
    known = missing.effective(view.mark.without) if missing is not None else ()
    unknown = {*view.mark.without} - {g.tenant for g in known}
    return (*known, *(Gap(t, None) for t in sorted(unknown)))


def _write_record(
    workspace: Workspace, view: View, record: Mapping[str, Any], source: Name, gaps: tuple[Gap, ...]
) -> dict[str, Any]:
    """Write the record of a view with its gaps, and return it."""
    missing = Missing(source, table_ids(workspace, source, view.target), gaps)
    body = {**record, "missing": missing.as_dict()}
    workspace.registry.write(SUSPENDED_KIND, {str(view.name): body})
    return body


def _complete_record(workspace: Workspace, suspended_view: _Suspended, block: BlockRange | None) -> None:
    """After the INSERT, add the block number to the record of a view whose source's rows do not contain batch ids.

    No other insert has run since. So new blocks of the source come from this INSERT; if there are none, its first
    attempt stored the newest blocks.
    """
    missing = Missing.of(suspended_view.record["missing"])
    if missing is None or block is None or all(g.after is not None for g in missing.gaps):
        return
    if not keeps_block_numbers(workspace, missing.source):
        return
    before = suspended_view.newest
    newest = newest_block(workspace, missing.source)
    count = blocks_of_batch(workspace, missing.source, block) if newest == before else 0
    if count is not None:
        gaps = tuple(replace(g, after=before - count) if g.after is None else g for g in missing.gaps)
        _write_record(workspace, suspended_view.view, suspended_view.record, missing.source, gaps)


def record_replacement(workspace: Workspace, view: View) -> None:
    """Record that a view is about to be dropped and created again. The view lock must be held.

    After a kill at this point, the view counts as suspended, and its missing blocks are known.
    """
    live = read_schema(workspace.warehouse, workspace.name, [view.name.database]).views.get(view.name)
    if live is None or live.mark is None:
        return
    source = log_of(workspace, live)
    record = _new_record(live, "a change of this view was interrupted", None)
    gap = Gap(None, newest_block(workspace, source) if keeps_block_numbers(workspace, source) else None)
    _write_record(workspace, live, record, source, (*_gaps_of(workspace, live), gap))


def _failed_view(workspace: Workspace, error: str) -> View | None:
    """The live view that an error names."""
    pushed = _PUSHED.search(error[-ERROR_TAIL_CHARACTERS:])
    # In a chain of views, the one that failed comes first.
    match = _PUSHING.search(pushed[1]) if pushed is not None else _TARGET.match(error)
    if match is None:
        return None
    name = Name(match[1], match[2])
    # rookery's views are in the database of their target. Reading only that database does not load the tables of
    # other nests.
    views = read_schema(workspace.warehouse, workspace.name, [name.database]).views
    return views.get(name) if pushed is not None else next((v for v in views.values() if v.target == name), None)


def suspended(workspace: Workspace) -> list[dict[str, Any]]:
    """The records of suspended views, and of those that run `without` some tenants, each with its `view`."""
    return [{"view": name, **body} for name, body in sorted(workspace.registry.read(SUSPENDED_KIND).items())]


def tenants_behind(snapshot: Snapshot, datasource: str) -> frozenset[str] | None:
    """Tenants whose tables miss rows of a landing datasource because of a suspended view; None means possibly all
    tenants.
    """
    records = [r for r in snapshot.suspended.values() if r.get("datasource") == datasource]
    by_record = [[r["tenant"]] if r["tenant"] is not None else r["without"] for r in records]
    return None if not all(by_record) else frozenset(t for tenants in by_record for t in tenants)


def forget_repaired(workspace: Workspace, desired: Schema) -> None:
    """Delete the records of views that run in full again, or that are no longer declared."""
    live = read_schema(workspace.warehouse, workspace.name).views.values()
    whole = {str(v.name) for v in live if not (v.mark and v.mark.without)}
    missing = {str(n) for n in desired.views} - whole
    workspace.registry.remove(SUSPENDED_KIND, [r["view"] for r in suspended(workspace) if r["view"] not in missing])
    workspace.refresh()


def still_failing(
    workspace: Workspace, desired: Schema, missed: Mapping[Name, tuple[MissedBlocks, ...]]
) -> dict[Name, str]:
    """Suspended views with an unchanged query that would fail again, each with the error.

    Their queries are run over the blocks that they have missed or, if these are unknown, over all rows of their
    source.
    """
    errors: dict[Name, str] = {}
    tables = read_schema(workspace.warehouse, workspace.name).tables.keys()
    for record in suspended(workspace):
        database, _, name = record["view"].partition(".")
        view = desired.views.get(Name(database, name))
        if view is None or view.mark is None or view.mark.fingerprint != record.get("fingerprint"):
            continue
        if not {view.source, view.target} <= tables:
            continue
        known = missed.get(view.name)
        error = find_failure(workspace, view) if known is None else _failure_on(workspace, known)
        if error is not None:
            errors[view.name] = error
    return errors


def _failure_on(workspace: Workspace, missed: tuple[MissedBlocks, ...]) -> str | None:
    """The first error of a view on the blocks that it has missed."""
    for blocks in missed:
        for after, upto in missing_ranges(workspace.warehouse, blocks):
            error = find_failure(workspace, blocks.view, after, upto)
            if error is not None:
                return error
    return None


def _undelivered(exc: RookeryError) -> RookeryError:
    """RK5011 for the sender. The original error may name views and nests, which the sender must not see."""
    log.error("a view failed on rows that are in landing", error=exc)
    return RookeryError(
        UNDELIVERED,
        "the rows are in landing, but a view on the datasource failed on them",
        hint="send them again only with the same idempotency key; the server's log names the view",
        detail=exc.detail or exc.message,
    )
