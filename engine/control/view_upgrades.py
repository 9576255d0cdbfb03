"""Replaces views whose SQL this release spells differently. Their targets keep the delivered rows."""

from __future__ import annotations

from dataclasses import replace

import structlog

from engine.compiler.build import Build
from engine.compiler.views import POOL_READER, WORKSPACE_READER, pipe_views
from engine.control.planning import desired_schema
from engine.fanout.suspension_records import SUSPENDED_KIND
from engine.schema import Name, Schema, View
from engine.warehouse import ddl
from engine.warehouse.catalog import read_schema
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.layout")

NOTE_KIND = "respelling"
"""Kind of the records of views that are being replaced."""


def upgrade_views(workspace: Workspace) -> None:
    """Replace views of an earlier release with those of this one. Both deliver the same rows, so targets do not
    change.

    This runs before the first insert, so no row is missed while a view is dropped. If a recorded view does not exist,
    an interrupted start has dropped it.
    """
    desired = desired_schema(workspace.current.build, workspace.current)
    live = read_schema(workspace.warehouse, workspace.name).views
    noted = workspace.registry.read(NOTE_KIND)
    _update_suspended_notes(workspace, desired)
    replaced = []
    for name, view in desired.views.items():
        current = live.get(name)
        note = noted.get(name.sql())
        # Compared by their marks: the SQL of a live view is in the engine's spelling.
        if current is not None and _is_older(view, current):
            replaced.append(_without(workspace.current.build, view, current.excluded_tenants))
        elif current is None and note is not None:
            replaced.append(_without(workspace.current.build, view, tuple(note["without"])))
    if not replaced:
        return
    log.info("replacing views", views=len(replaced))
    notes = {v.name.sql(): {"without": list(v.excluded_tenants)} for v in replaced}
    # Recorded before the first view is dropped: if a start finds a record without its view, it creates the view.
    workspace.registry.write(NOTE_KIND, notes)
    with workspace.view_lock.changing():
        for view in replaced:
            workspace.warehouse.execute(ddl.drop_view(view.name))
            workspace.warehouse.execute(ddl.create_view(view))
    workspace.registry.remove(NOTE_KIND, [v.name.sql() for v in replaced])


def _update_suspended_notes(workspace: Workspace, desired: Schema) -> None:
    """Convert the fingerprints in records of suspended views to this release's spelling.

    With the old spelling, a record would no longer match its view, and the target would be recomputed.
    """
    changed = {}
    for key, note in workspace.registry.read(SUSPENDED_KIND).items():
        database, _, name = key.partition(".")
        view = desired.views.get(Name(database, name))
        noted = str(note.get("fingerprint", ""))
        if view is not None and view.mark is not None and _query(view.mark.fingerprint) == _query(noted):
            changed[key] = {**note, "fingerprint": view.mark.fingerprint}
    if changed:
        workspace.registry.write(SUSPENDED_KIND, changed)


def _query(fingerprint: str) -> str:
    """The part of a fingerprint that encodes the query; the other part encodes its spelling."""
    return fingerprint.partition(":")[0]


def _is_older(view: View, current: View) -> bool:
    """Whether a live view has the query of the desired one in the spelling of an earlier release."""
    if view.mark is None or current.mark is None:
        return False
    wanted, present = view.mark.fingerprint, current.mark.fingerprint
    return wanted != present and _query(wanted) == _query(present) and set(view.columns) == set(current.columns)


def _without(build: Build, view: View, tenants: tuple[str, ...]) -> View:
    """The form of a shared view that excludes some tenants; the view itself if no tenants are given."""
    pipe = build.pipes.get(view.mark.resource) if view.mark else None
    if not tenants or view.mark is None or pipe is None or pipe.target is None:
        return view
    reader = replace(POOL_READER if pipe.target.per_tenant else WORKSPACE_READER, excluded=tenants)
    narrowed = next(v for v in pipe_views(build, pipe, pipe.target, reader) if v.name == view.name)
    return replace(narrowed, mark=replace(view.mark, excluded_tenants=tenants))
