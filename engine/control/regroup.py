"""Taking one tenant out of shared aggregates: the groups that it is in are computed again without it.

What a tenant has added to a sum cannot be taken off again, so each of its groups is deleted and made anew from the
source, from which the tenant's rows are gone by then. The keys of these groups are written down first: whatever
interrupts this, the next run finds them and begins again.
"""

from __future__ import annotations

import secrets

from engine.compiler.build import Build
from engine.compiler.groups import key_of
from engine.compiler.scope import GROUP_TENANTS
from engine.compiler.views import WORKSPACE, bounded, pipe_views
from engine.control.erasure import wait_until_deleted
from engine.control.history import resume
from engine.plan.coverage import Coverage
from engine.plan.history import block_ranges
from engine.plan.state import Workspace
from engine.schema import Column, Mark, Name, Table, View, quote
from engine.warehouse import ddl
from engine.warehouse.catalog import read_schema

_OF_TENANT = f"has(finalizeAggregation({quote(GROUP_TENANTS)}), {{tenant:String}})"
"""Whether a row of a shared aggregate holds a tenant's rows."""


def recompute_groups(workspace: Workspace, build: Build, tenant: str) -> None:
    """Compute every shared group that holds a tenant's rows again; from the sources the rows must be gone."""
    for name, relation in build.relations.items():
        if relation.min_tenants is not None:
            _recompute(workspace, build, name, tenant)


def incomplete_groups(workspace: Workspace, build: Build, tenant: str) -> dict[str, str]:
    """Shared aggregates with a tenant's rows whose sources may lack rows of other tenants, and why, by name."""
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
    coverage = Coverage(workspace.warehouse, workspace.registry, live)
    found: dict[str, str] = {}
    for name, relation in build.relations.items():
        target = Name(workspace.name, name)
        if relation.min_tenants is None or target not in live.tables:
            continue
        mine = workspace.warehouse.query(f"SELECT count() FROM {target.sql()} WHERE {_OF_TENANT}", {"tenant": tenant})
        if not mine.rows[0][0]:
            continue
        reasons = [coverage.lacking(v) for v in live.views.values() if v.target == target]
        why = next((r for r in reasons if r is not None), None)
        if why is not None:
            found[name] = why
    return found


def _recompute(workspace: Workspace, build: Build, name: str, tenant: str) -> None:
    target, notes = Name(workspace.name, name), _notes(build, name)
    keys = ", ".join(map(quote, key_of(build.datasources[name])))
    views = [
        v
        for p in build.materialized()
        if p.target and p.target.name == name
        for v in pipe_views(build, p, p.target, WORKSPACE)
    ]
    resume(workspace)
    with workspace.fence.exclusive():
        # Between two inserts, so that the deletion takes all of what is there and the source up to here replaces it.
        workspace.warehouse.execute(ddl.create_table(notes))
        noted = f"INSERT INTO {notes.name.sql()} SELECT DISTINCT {keys} FROM {target.sql()} WHERE {_OF_TENANT}"
        workspace.warehouse.execute(noted, {"tenant": tenant})
        if not workspace.warehouse.query(f"SELECT count() FROM {notes.name.sql()}").rows[0][0]:
            workspace.warehouse.execute(ddl.drop_table(notes.name))
            return
        upto = {v.source: _newest(workspace, v.source) for v in views}
        affected = f"({keys}) IN (SELECT {keys} FROM {notes.name.sql()})"
        workspace.warehouse.execute(f"ALTER TABLE {target.sql()} DELETE WHERE {affected} SETTINGS mutations_sync = 0")
    wait_until_deleted(workspace, target)
    for view in views:
        _insert(workspace, view, upto[view.source], affected)
    workspace.warehouse.execute(ddl.drop_table(notes.name))


def _insert(workspace: Workspace, view: View, upto: int, affected: str) -> None:
    columns = ", ".join(map(quote, view.columns))
    rows = f"SELECT {columns} FROM ({bounded(view.backfill, 0, upto)}) WHERE {affected}"
    token = f"regroup:{secrets.token_hex(8)}"
    workspace.warehouse.execute(ddl.insert_block(view.target.sql(), view.columns, token, rows))


def _newest(workspace: Workspace, source: Name) -> int:
    ranges = block_ranges(workspace.warehouse, source)
    return ranges[-1][1] if ranges else 0


def _notes(build: Build, name: str) -> Table:
    """The table of the keys of groups that are being computed again."""
    source = build.datasources[name]
    keys = key_of(source)
    columns = tuple(Column(c.name, c.type) for c in source.columns if c.name in keys)
    mark = Mark(build.workspace, f"_rk_groups_{name}", "state")
    return Table(Name(build.workspace, f"_rk_groups_{name}"), columns, sorting_key="tuple()", mark=mark)
