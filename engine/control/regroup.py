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

_OF_TENANT = f"has(finalizeAggregation({quote(GROUP_TENANTS)}).1, {{tenant:String}})"
"""Whether a row of a shared aggregate holds a tenant's rows."""
_BY_TENANT = f"(finalizeAggregation({quote(GROUP_TENANTS)}) AS _rk_by).1 AS _rk_ids, _rk_by.2 AS _rk_counts"
"""Tenants of a shared aggregate's row, and how many rows each has in it."""


def recompute_groups(workspace: Workspace, build: Build, tenant: str) -> None:
    """Compute every shared group that holds a tenant's rows again; from the sources the rows must be gone."""
    for name, relation in build.relations.items():
        if relation.min_tenants is not None:
            _recompute(workspace, build, name, tenant)


def incomplete_groups(workspace: Workspace, build: Build, tenant: str) -> dict[str, str]:
    """Shared aggregates whose groups with a tenant's rows lack rows of other tenants in their sources, and why.

    A source that may have lost rows, by its TTL for example, matters only if these groups hold more rows of another
    tenant than it still has.
    """
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
        # A view that is down has a source all the same, and its rows are in these groups.
        views = _views_into(build, name)
        gone = next((str(v.source) for v in views if v.source not in live.tables), None)
        reasons = [coverage.lacking(v) for v in views]
        why = f"{gone} is gone" if gone else next((r for r in reasons if r is not None), None)
        if why is not None and (
            gone or any(map(coverage.superseded, views)) or _lacking(workspace, build, name, tenant)
        ):
            found[name] = why
    return found


def _views_into(build: Build, name: str) -> list[View]:
    return [
        v
        for p in build.materialized()
        if p.target and p.target.name == name
        for v in pipe_views(build, p, p.target, WORKSPACE)
    ]


def _lacking(workspace: Workspace, build: Build, name: str, tenant: str) -> bool:
    """Whether a tenant's groups hold more rows of some other tenant than the sources have for them now."""
    warehouse, target = workspace.warehouse, Name(workspace.name, name)
    keys = ", ".join(map(quote, key_of(build.datasources[name])))
    views = _views_into(build, name)
    there = Name(f"{workspace.name}_scratch", f"_rk_rows_{secrets.token_hex(4)}")
    warehouse.execute(ddl.create_database(there.database))
    try:
        with workspace.fence.exclusive():
            upto = {v.source: _newest(workspace, v.source) for v in views}
            warehouse.execute(
                f"CREATE TABLE {there.sql()} ENGINE = MergeTree ORDER BY tuple() AS SELECT {keys}, {_BY_TENANT} "
                f"FROM {target.sql()} WHERE ({keys}) IN (SELECT {keys} FROM {target.sql()} WHERE {_OF_TENANT})",
                {"tenant": tenant},
            )
        mine = f"({keys}) IN (SELECT {keys} FROM {there.sql()})"
        each = "ARRAY JOIN _rk_ids AS _rk_id, _rk_counts AS _rk_count"
        sides = [f"SELECT {keys}, _rk_id, _rk_count AS _rk_kept, 0 AS _rk_left FROM {there.sql()} {each}"]
        for view in views:
            given = f"SELECT {keys}, {_BY_TENANT} FROM ({bounded(view.backfill, 0, upto[view.source])}) WHERE {mine}"
            sides.append(f"SELECT {keys}, _rk_id, 0 AS _rk_kept, _rk_count AS _rk_left FROM ({given}) {each}")
        found = warehouse.query(
            f"SELECT count() FROM (SELECT {keys}, _rk_id FROM ({' UNION ALL '.join(sides)}) "
            f"WHERE _rk_id != {{tenant:String}} GROUP BY {keys}, _rk_id HAVING sum(_rk_kept) > sum(_rk_left))",
            {"tenant": tenant},
        )
        return bool(found.rows[0][0])
    finally:
        warehouse.execute(ddl.drop_table(there))


def _recompute(workspace: Workspace, build: Build, name: str, tenant: str) -> None:
    target, notes = Name(workspace.name, name), _notes(build, name)
    keys = ", ".join(map(quote, key_of(build.datasources[name])))
    views = _views_into(build, name)
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
