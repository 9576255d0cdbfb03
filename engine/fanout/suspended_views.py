"""Views that fail and would block every insert: found, taken down and reported.

A view that tenants share is narrowed instead, to leave out those whose rows it fails on, if they are few. Which
blocks the view has not received is recorded with it. A push, or `rookery fanout repair`, puts the view back and
delivers these blocks; its target stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from engine.errors import DISK_FULL, UNDELIVERED, RookeryError
from engine.fanout.failed_writes import DamagedPartsRemoved, fed_by, remove_damaged_parts
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
from engine.workspace.workspace import RegistryJournal, Snapshot, Workspace

log = structlog.get_logger("rookery.fanout")

SUSPENDED_KIND = "suspended"
MAX_SUSPENDED_PER_BATCH = 100
"""Failing views that are taken down for one batch."""
_NAME = r"while pushing to view `?([^`\s:'\".]++)`?\.`?([^`\s:'\".]++)`?(?: \([0-9a-f-]{36}\))?"
_PUSHING = re.compile(_NAME + r"(?=[:.\s]|$)")
# What rows say stands further to the front: only the engine's own words come last, or first.
ERROR_TAIL_CHARACTERS = 2000
"""Characters at the end of an error that can be the engine's own about views; a row's text may be long."""
_PUSHED = re.compile(rf"((?:: {_NAME})+)[.\s]*+(?:\([A-Z0-9_]+\))?+[.\s]*+(?:\(version .*\))?[.\s]*+$")
_TARGET = re.compile(r"(?:Code: \d+\. )?(?:DB::Exception: )?Target table '`?([^'`.]++)`?\.`?([^'`.]++)`?' of view")


def insert_to_all(workspace: Workspace, sql: str, block: BlockRange | None = None, *, may_retry: bool = True) -> bool:
    """Run an insert until all views that work have its rows. Returns whether all do. Raises RK5011 if it cannot be.

    A failure that may pass is raised, whatever view it names; without patience that view is taken down, unless the
    disk is full.

    A view that fails keeps the block from every other; the rows are in landing all the same. The same insert is
    tried once more, for it may have been a moment's trouble, and then without the view, or with one that leaves out
    the tenants whose rows are to blame.
    """
    # KeptBatch until the last try: a view that is made meanwhile would have the rows from its history, and once more.
    with workspace.insert_lock.shared():
        if block is not None:
            workspace.warehouse.note_parts(fed_by(workspace, block.datasource))
        failure = _failure(workspace, sql, block, may_retry, again=False)
        if failure is None:
            return True
        try:
            with workspace.insert_lock.upgraded():
                workspace.warehouse.forget_unstored_tokens()
            second = _failure(workspace, sql, block, may_retry, again=True)
        except RookeryError as exc:
            # The first failure tells whether the rows have been taken out of landing.
            raise exc from failure
        if second is None:
            return True
        failure = second
        # No other insert runs until this one is complete, so whatever a view lacks of it can be told by block.
        with workspace.insert_lock.upgraded():
            suspended_now: list[Suspended] = []
            while failure is not None:
                workspace.warehouse.forget_unstored_tokens()
                found = _suspend(workspace, failure, block) if len(suspended_now) < MAX_SUSPENDED_PER_BATCH else None
                if found is None:
                    raise _undelivered(failure) from failure
                suspended_now.append(found)
                failure = _failure(workspace, sql, block, may_retry, again=True)
            for found in suspended_now:
                _place(workspace, found, block)
            return False


def _failure(
    workspace: Workspace, sql: str, block: BlockRange | None, may_retry: bool, *, again: bool
) -> RookeryError | None:
    """Run an insert; the error if it failed in a view, or may be repeated at once. Any other error is raised."""
    try:
        workspace.warehouse.execute(sql)
        _check_parts(workspace, block)
    except RookeryError as exc:
        behind, passing = failed_behind(exc), is_transient(exc)
        if not (behind or passing):
            raise
        if passing and (again or not _at_once(workspace, exc)) and _must_wait(exc, behind, may_retry):
            raise
        return exc
    return None


def _check_parts(workspace: Workspace, block: BlockRange | None) -> None:
    """Take out what the engine has stored in spite of a failed write. Raises RK6009: the insert must be repeated."""
    if block is None:
        return
    bad, merged = remove_damaged_parts(workspace, fed_by(workspace, block.datasource))
    if merged:
        with workspace.insert_lock.upgraded():
            workspace.warehouse.undo_merges()
    if bad:
        raise DamagedPartsRemoved(bad)


def _at_once(workspace: Workspace, exc: RookeryError) -> bool:
    """Whether an insert may be repeated at once: a server may still be running the one that it has not answered."""
    return workspace.warehouse.capabilities.embedded and exc.code is not DISK_FULL


def _must_wait(exc: RookeryError, behind: bool, may_retry: bool) -> bool:
    return may_retry or not behind or exc.code is DISK_FULL


def failed_behind(exc: RookeryError) -> bool:
    """Whether an insert failed in a view, and not for its own rows."""
    text = exc.detail or exc.message
    return _PUSHED.search(text[-ERROR_TAIL_CHARACTERS:]) is not None or _TARGET.match(text) is not None


@dataclass(frozen=True, slots=True)
class Suspended:
    """A view that was suspended, what was recorded of it, and the newest block of its source at that moment."""

    view: View
    note: dict[str, Any]
    newest: int


def _suspend(workspace: Workspace, exc: RookeryError, block: BlockRange | None) -> Suspended | None:
    """Take down the view that made an insert fail, or leave out of it whose rows it failed on.

    The fence must be held alone. None if the view is not known, or not ours.
    """
    error = exc.detail or exc.message
    view = _culprit(workspace, error)
    if view is None or view.mark is None:
        return None
    lesser = without_failing_tenants(workspace, view, block) if block is not None else None
    without = lesser.mark.without if lesser is not None and lesser.mark is not None else ()
    note: dict[str, Any] = {
        "error": error[:1000],
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "fingerprint": view.mark.fingerprint,
        "datasource": block.datasource if block is not None else None,
        "tenant": view.mark.tenant,
        "without": [],
    }
    before = _gaps_of(workspace, view)
    source = log_of(workspace, view)
    newest = newest_block(workspace, source)
    numbered = keeps_block_numbers(workspace, source)
    batches = (block.batch,) if numbered and block is not None and has_batch_column(workspace, source) else ()
    after = newest if batches else _before(workspace, source, block) if numbered else None
    if batches and block is not None:
        note["rows"] = {**_rows_missed(workspace, view), block.batch: rows_by_tenant(workspace, block)}
    # Recorded first: if the process is killed here, the view runs in full and the record is void, or it is down and
    # lacks what the record says.
    note = _record(workspace, view, note, source, (*before, Gap(None, after, batches)))
    workspace.warehouse.execute(ddl.drop_view(view.name))
    if lesser is not None:
        workspace.warehouse.execute(ddl.create_view(lesser))
        own = {g.tenant: g for g in before}
        gaps = tuple(own.get(t, Gap(t, after, batches)) for t in without)
        note = _record(workspace, view, {**note, "without": [*without]}, source, gaps)
    _keep_history(workspace, view)
    workspace.refresh()
    outcome = "a view failed and goes on without some tenants" if without else "a view failed and was taken down"
    log.error(outcome, view=str(view.name), without=without, error=error)
    return Suspended(view, note, newest)


def _before(workspace: Workspace, source: Name, block: BlockRange | None) -> int | None:
    """The newest block before a batch, in the table that it was sent to; None if that is not known."""
    if block is None or source != Name(workspace.name, block.datasource):
        return None
    return block.after


def _keep_history(workspace: Workspace, view: View) -> None:
    """Let deliveries that a view still waits for outlast its suspension."""
    journal = RegistryJournal(workspace.registry)
    journal.record([replace(h, whole=False) for h in journal.outstanding() if h.view == str(view.name) and h.whole])


def _rows_missed(workspace: Workspace, view: View) -> dict[str, Any]:
    """Rows of the batches that a view has missed already, of tenants that it leaves out."""
    if view.mark is None or not view.mark.without:
        return {}
    return dict(workspace.registry.read(SUSPENDED_KIND).get(str(view.name), {}).get("rows", {}))


def _gaps_of(workspace: Workspace, view: View) -> tuple[Gap, ...]:
    """The gaps that a view has already, of tenants that it leaves out."""
    if view.mark is None or not view.mark.without:
        return ()
    note = workspace.registry.read(SUSPENDED_KIND).get(str(view.name), {})
    missing = Missing.of(note.get("missing"))
    known = missing.effective(view.mark.without) if missing is not None else ()
    unknown = {*view.mark.without} - {g.tenant for g in known}
    return (*known, *(Gap(t, None) for t in sorted(unknown)))


def _record(
    workspace: Workspace, view: View, note: Mapping[str, Any], source: Name, gaps: tuple[Gap, ...]
) -> dict[str, Any]:
    missing = Missing(source, table_ids(workspace, source, view.target), gaps)
    body = {**note, "missing": missing.as_dict()}
    workspace.registry.write(SUSPENDED_KIND, {str(view.name): body})
    return body


def _place(workspace: Workspace, found: Suspended, block: BlockRange | None) -> None:
    """Complete the record of a view whose source does not tell the batches of its rows, once the insert is complete.

    No other insert ran meanwhile. So new blocks of the source are this insert's; if there are none, the newest ones
    are, since its first try brought them.
    """
    missing = Missing.of(found.note["missing"])
    if missing is None or block is None or all(g.after is not None for g in missing.gaps):
        return
    if not keeps_block_numbers(workspace, missing.source):
        return
    newest = newest_block(workspace, missing.source)
    count = blocks_of_batch(workspace, missing.source, block) if newest == found.newest else 0
    if count is not None:
        gaps = tuple(replace(g, after=found.newest - count) if g.after is None else g for g in missing.gaps)
        _record(workspace, found.view, found.note, missing.source, gaps)


def record_replacement(workspace: Workspace, view: View) -> None:
    """Record that a view is about to be dropped to be made again. The fence must be held."""
    live = read_schema(workspace.warehouse, workspace.name, [view.name.database]).views.get(view.name)
    if live is None or live.mark is None:
        return
    source = log_of(workspace, live)
    note: dict[str, Any] = {
        "error": "a change of this view was interrupted",
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "fingerprint": live.mark.fingerprint,
        "datasource": None,
        "tenant": live.mark.tenant,
        "without": [],
    }
    gap = Gap(None, newest_block(workspace, source) if keeps_block_numbers(workspace, source) else None)
    _record(workspace, live, note, source, (*_gaps_of(workspace, live), gap))


def _culprit(workspace: Workspace, text: str) -> View | None:
    pushed = _PUSHED.search(text[-ERROR_TAIL_CHARACTERS:])
    # The innermost comes first.
    found = _PUSHING.search(pushed[1]) if pushed is not None else _TARGET.match(text)
    if found is None:
        return None
    name = Name(found[1], found[2])
    # A view of ours stands where its target does. Other nests are left asleep.
    views = read_schema(workspace.warehouse, workspace.name, [name.database]).views
    return views.get(name) if pushed is not None else next((v for v in views.values() if v.target == name), None)


def suspended(workspace: Workspace) -> list[dict[str, Any]]:
    """Views that are down or go on `without` some tenants, with the error that took them there."""
    return [{"view": name, **body} for name, body in sorted(workspace.registry.read(SUSPENDED_KIND).items())]


def tenants_behind(snapshot: Snapshot, datasource: str) -> frozenset[str] | None:
    """Tenants whose tables lack rows of a landing datasource, since a view is down; None if it may be everybody."""
    mine = [n for n in snapshot.suspended.values() if n.get("datasource") == datasource]
    tenants = [[n["tenant"]] if n["tenant"] is not None else n["without"] for n in mine]
    return None if not all(tenants) else frozenset(t for some in tenants for t in some)


def forget_repaired(workspace: Workspace, wanted: Schema) -> None:
    """Forget views that stand again, or that nothing wants any more."""
    live = read_schema(workspace.warehouse, workspace.name).views.values()
    whole = {str(v.name) for v in live if not (v.mark and v.mark.without)}
    missing = {str(n) for n in wanted.views} - whole
    workspace.registry.remove(SUSPENDED_KIND, [n["view"] for n in suspended(workspace) if n["view"] not in missing])
    workspace.refresh()


def still_failing(
    workspace: Workspace, wanted: Schema, lacks: Mapping[Name, tuple[MissedBlocks, ...]]
) -> dict[Name, str]:
    """Suspended views that are wanted as they were and still fail on what they will be given, and why.

    That is what they lack, or everything that is in their sources where it is not known what they lack.
    """
    found: dict[Name, str] = {}
    there = read_schema(workspace.warehouse, workspace.name).tables.keys()
    for note in suspended(workspace):
        database, _, name = note["view"].partition(".")
        view = wanted.views.get(Name(database, name))
        if view is None or view.mark is None or view.mark.fingerprint != note.get("fingerprint"):
            continue
        if not {view.source, view.target} <= there:
            continue
        why = _why_still(workspace, lacks[view.name]) if view.name in lacks else find_failure(workspace, view)
        if why is not None:
            found[view.name] = why
    return found


def _why_still(workspace: Workspace, lacks: tuple[MissedBlocks, ...]) -> str | None:
    for lack in lacks:
        for after, upto in missing_ranges(workspace.warehouse, lack):
            why = find_failure(workspace, lack.view, after, upto)
            if why is not None:
                return why
    return None


def _undelivered(exc: RookeryError) -> RookeryError:
    """A failure behind landing, whose text may name views and nests that the sender does not know of."""
    log.error("a view failed on rows that are in landing", error=exc)
    return RookeryError(
        UNDELIVERED,
        "the rows are in landing, but a view on the datasource failed on them",
        hint="do not send them again without the same idempotency key; the server's log tells which view",
        detail=exc.detail or exc.message,
    )
