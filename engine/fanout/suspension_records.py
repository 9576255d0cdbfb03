"""The records of suspended views, in the registry: why each failed, since when, and the gaps in what it delivered.

A record of a view that runs in full is void: it was written before the view was dropped, and the process was killed
between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine.compiler.views import workspace_schema
from engine.fanout.source_blocks import is_landing, newest_block, table_ids
from engine.plan.missing_blocks import Gap, Missing
from engine.schema import Name, Schema, View
from engine.warehouse.catalog import read_schema
from engine.workspace.snapshot import Snapshot
from engine.workspace.workspace import Workspace

SUSPENDED_KIND = "suspended"
"""Kind of the records in the registry."""


def suspended(workspace: Workspace) -> list[dict[str, Any]]:
    """The records of suspended views, and of those that run `without` some tenants, each with its `view`."""
    return [{"view": name, **body} for name, body in sorted(workspace.registry.read(SUSPENDED_KIND).items())]


def tenants_behind(snapshot: Snapshot, datasource: str) -> frozenset[str] | None:
    """Tenants whose tables miss rows of a landing datasource because of a suspended view; None means possibly all
    tenants.
    """
    records = [r for r in snapshot.suspended.values() if r.get("datasource") == datasource]
    # A shared view that excludes no tenant misses the rows of all: its list is empty.
    by_record = [[r["tenant"]] if r["tenant"] is not None else r["without"] for r in records]
    return None if not all(by_record) else frozenset(t for tenants in by_record for t in tenants)


def gaps_of(workspace: Workspace, view: View) -> tuple[Gap, ...]:
    """The gaps of the tenants without which a view runs; none for a view that runs in full."""
    if not view.excluded_tenants:
        return ()
    record = workspace.registry.read(SUSPENDED_KIND).get(str(view.name), {})
    missing = Missing.of(record.get("missing"))
    known = missing.effective(view.excluded_tenants) if missing is not None else ()
    # Excluded without a recorded gap, so it is unknown since when.
    unknown = {*view.excluded_tenants} - {g.tenant for g in known}
    return (*known, *(Gap(t, None) for t in sorted(unknown)))


def write_record(
    workspace: Workspace, view: View, record: Mapping[str, Any], source: Name, gaps: tuple[Gap, ...]
) -> dict[str, Any]:
    """Write the record of a view with its gaps, and return it."""
    missing = Missing(source, table_ids(workspace, source, view.target), gaps)
    body = {**record, "missing": missing.as_dict()}
    workspace.registry.write(SUSPENDED_KIND, {str(view.name): body})
    return body


def forget_repaired(workspace: Workspace, desired: Schema) -> None:
    """Delete the records of views that run in full again, or that are no longer declared."""
    live = read_schema(workspace.warehouse, workspace.name).views.values()
    whole = {str(v.name) for v in live if not v.excluded_tenants}
    missing = {str(n) for n in desired.views} - whole
    workspace.registry.remove(SUSPENDED_KIND, [r["view"] for r in suspended(workspace) if r["view"] not in missing])
    workspace.refresh()


def clamp_gaps(workspace: Workspace) -> None:
    """Limit recorded gaps to the newest existing block, because after a restart the engine uses the numbers above it
    again.
    """
    changed: dict[str, dict[str, object]] = {}
    for name, record in workspace.registry.read(SUSPENDED_KIND).items():
        missing = Missing.of(record.get("missing"))
        if missing is None:
            continue
        newest = newest_block(workspace, missing.source)
        # A greater number would hide the blocks that get the numbers up to it.
        gaps = tuple(replace(g, after=min(g.after, newest)) if g.after is not None else g for g in missing.gaps)
        if gaps != missing.gaps:
            changed[name] = {**record, "missing": replace(missing, gaps=gaps).as_dict()}
    workspace.registry.write(SUSPENDED_KIND, changed)


def forget_tenant(workspace: Workspace, tenant: str, nest: str | None) -> None:
    """Delete the records of a removed tenant: those of views in its nest, or its gaps in views of the pool."""
    records = workspace.registry.read(SUSPENDED_KIND)
    in_nest = [n for n in records if nest is not None and n.startswith(f"{nest}.")]
    changed = {}
    for name, record in records.items() if nest is None else ():
        missing = Missing.of(record.get("missing"))
        if missing is not None and is_pooled(workspace, name):
            gaps = tuple(g for g in missing.gaps if g.tenant != tenant)
            if gaps != missing.gaps:
                changed[name] = {**record, "missing": replace(missing, gaps=gaps).as_dict()}
    workspace.registry.write(SUSPENDED_KIND, changed)
    workspace.registry.remove(SUSPENDED_KIND, in_nest)


def add_pooled_tenants(workspace: Workspace, tenants: Sequence[str]) -> set[str]:
    """Record that new pooled tenants miss all rows of suspended views. The view lock must be held.

    Returns these views. They do not include a view that runs without some other tenants, because it delivers the rows
    of the new tenants.
    """
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name]).views
    names: set[str] = set()
    changed = {}
    for name, record in workspace.registry.read(SUSPENDED_KIND).items():
        database, _, short = name.partition(".")
        view = live.get(Name(database, short))
        excluded_now = view.excluded_tenants if view is not None else ()
        excluded = [t for t in tenants if view is None or t in excluded_now]
        missing = Missing.of(record.get("missing"))
        if not excluded or missing is None or not is_pooled(workspace, name):
            continue
        if not is_landing(workspace, missing.source):
            continue
        # From block 0: rows of these tenants that are in landing already have not passed through the view either.
        gaps = (*(g for g in missing.gaps if g.tenant not in excluded), *(Gap(t, 0) for t in excluded))
        changed[name] = {**record, "missing": replace(missing, gaps=gaps).as_dict()}
        names.add(name)
    workspace.registry.write(SUSPENDED_KIND, changed)
    return names


def is_pooled(workspace: Workspace, view: str) -> bool:
    """Whether a view in the workspace's database is one that all pooled tenants share."""
    build = workspace.current.build
    database, _, name = view.partition(".")
    compiled = workspace_schema(build).views.get(Name(database, name))
    pipe = build.pipes.get(compiled.mark.resource) if compiled is not None and compiled.mark is not None else None
    return pipe is not None and pipe.target is not None and pipe.target.per_tenant
