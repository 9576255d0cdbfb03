"""Views that fail and would keep every insert from everybody: found, taken down, and told.

A view that tenants share goes on without those whose rows it fails on, if they are few. What a view has missed is in
landing. A push, or `rookery fanout repair`, computes its target again and puts the view back as it should be.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import structlog

from engine.errors import DISK_FULL, UNDELIVERED, RookeryError
from engine.fanout.poison import Block, why_it_fails, without_poisoned
from engine.plan.state import Snapshot, Workspace
from engine.schema import Name, Schema, View
from engine.warehouse import ddl
from engine.warehouse.catalog import read_schema
from engine.warehouse.errors import may_pass

log = structlog.get_logger("rookery.fanout")

KIND = "suspended"
MOST_VIEWS = 100
"""Failing views that are taken down for one batch."""
_NAME = r"while pushing to view `?([^`\s:'\".]++)`?\.`?([^`\s:'\".]++)`?(?: \([0-9a-f-]{36}\))?"
_PUSHING = re.compile(_NAME + r"(?=[:.\s]|$)")
# What rows say stands further to the front: only the engine's own words come last, or first.
TAIL = 2000
"""Characters at the end of an error that can be the engine's own about views; a row's text may be long."""
_PUSHED = re.compile(rf"((?:: {_NAME})+)[.\s]*+(?:\([A-Z0-9_]+\))?+[.\s]*+(?:\(version .*\))?[.\s]*+$")
_TARGET = re.compile(r"(?:Code: \d+\. )?(?:DB::Exception: )?Target table '`?([^'`.]++)`?\.`?([^'`.]++)`?' of view")


def insert_to_all(workspace: Workspace, sql: str, block: Block | None = None, *, patient: bool = True) -> bool:
    """Run an insert until all views that work have its rows. Returns whether all do. Raises RK5011 if it cannot be.

    A failure that may pass is raised, whatever view it names; without patience that view is taken down, unless the
    disk is full.

    A view that fails keeps the block from every other; the rows are in landing all the same. The same insert is
    tried once more, for it may have been a moment's trouble, and then without the view, or with one that leaves out
    the tenants whose rows are to blame.
    """
    tries, down = 0, False
    # Held until the last try: a view that is made meanwhile would have the rows from its history, and once more.
    with workspace.fence.shared():
        while True:
            try:
                workspace.warehouse.execute(sql)
                return not down
            except RookeryError as exc:
                behind, passing = failed_behind(exc), may_pass(exc)
                if not (behind or passing):
                    raise
                tries += 1
                if passing and (tries > 1 or not _at_once(workspace, exc)) and _must_wait(exc, behind, patient):
                    raise
                with workspace.fence.upgraded():
                    workspace.warehouse.forget_unfinished()
                if tries > 1:
                    if tries > MOST_VIEWS or suspend_culprit(workspace, exc, block) is None:
                        raise _undelivered(exc) from exc
                    down = True


def _at_once(workspace: Workspace, exc: RookeryError) -> bool:
    """Whether an insert may be repeated at once: a server may still be running the one that it has not answered."""
    return workspace.warehouse.capabilities.embedded and exc.code is not DISK_FULL


def _must_wait(exc: RookeryError, behind: bool, patient: bool) -> bool:
    return patient or not behind or exc.code is DISK_FULL


def failed_behind(exc: RookeryError) -> bool:
    """Whether an insert failed in a view, and not for its own rows."""
    text = exc.detail or exc.message
    return _PUSHED.search(text[-TAIL:]) is not None or _TARGET.match(text) is not None


def suspend_culprit(workspace: Workspace, exc: RookeryError, block: Block | None = None) -> Name | None:
    """Take down the view that made an insert fail, or leave out of it whose rows it failed on.

    The fence must be held shared. None if the view is not known, or not ours.
    """
    error = exc.detail or exc.message
    view = _culprit(workspace, error)
    if view is None or view.mark is None:
        return None
    lesser = without_poisoned(workspace, view, block) if block is not None else None
    without = lesser.mark.without if lesser is not None and lesser.mark is not None else ()
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    note = {
        "error": error[:1000],
        "since": moment,
        "fingerprint": view.mark.fingerprint,
        "datasource": block.datasource if block is not None else None,
        "tenant": view.mark.tenant,
        "without": [*without],
    }
    # Noted first: whoever finds the view gone or narrowed knows why.
    workspace.registry.write(KIND, {str(view.name): note})
    with workspace.fence.upgraded():
        workspace.warehouse.execute(ddl.drop_view(view.name))
        if lesser is not None:
            workspace.warehouse.execute(ddl.create_view(lesser))
    workspace.refresh()
    outcome = "a view failed and goes on without some tenants" if without else "a view failed and was taken down"
    log.error(outcome, view=str(view.name), without=without, error=error)
    return view.name


def _culprit(workspace: Workspace, text: str) -> View | None:
    pushed = _PUSHED.search(text[-TAIL:])
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
    return [{"view": name, **body} for name, body in sorted(workspace.registry.read(KIND).items())]


def kept_from(snapshot: Snapshot, datasource: str) -> frozenset[str] | None:
    """Tenants whose tables lack rows of a landing datasource, since a view is down; None if it may be everybody."""
    mine = [n for n in snapshot.suspended.values() if n.get("datasource") == datasource]
    tenants = [[n["tenant"]] if n["tenant"] is not None else n["without"] for n in mine]
    return None if not all(tenants) else frozenset(t for some in tenants for t in some)


def note_repaired(workspace: Workspace, wanted: Schema) -> None:
    """Forget views that stand again, or that nothing wants any more."""
    live = read_schema(workspace.warehouse, workspace.name).views.values()
    whole = {str(v.name) for v in live if not (v.mark and v.mark.without)}
    missing = {str(n) for n in wanted.views} - whole
    workspace.registry.remove(KIND, [n["view"] for n in suspended(workspace) if n["view"] not in missing])
    workspace.refresh()


def still_failing(workspace: Workspace, wanted: Schema) -> dict[Name, str]:
    """Suspended views that are wanted as they were and still fail on what is in their sources, and why."""
    found: dict[Name, str] = {}
    there = read_schema(workspace.warehouse, workspace.name).tables.keys()
    for note in suspended(workspace):
        database, _, name = note["view"].partition(".")
        view = wanted.views.get(Name(database, name))
        if view is None or view.mark is None or view.mark.fingerprint != note.get("fingerprint"):
            continue
        if not {view.source, view.target} <= there:
            continue
        why = why_it_fails(workspace, view)
        if why is not None:
            found[view.name] = why
    return found


def _undelivered(exc: RookeryError) -> RookeryError:
    """A failure behind landing, whose text may name views and nests that the sender does not know of."""
    log.error("a view failed on rows that are in landing", error=exc)
    return RookeryError(
        UNDELIVERED,
        "the rows are in landing, but a view on the datasource failed on them",
        hint="do not send them again without the same idempotency key; the server's log tells which view",
        detail=exc.detail or exc.message,
    )
