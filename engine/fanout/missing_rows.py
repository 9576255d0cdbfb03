"""What suspended views lack, as deliveries: recorded gaps against the catalogue and the compiled pipes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from engine.compiler.build import Build
from engine.compiler.storage import BATCH_COLUMN, NULL_ENGINE
from engine.compiler.views import POOL_READER, WORKSPACE_READER, bounded, nest_schema, pipe_views, workspace_schema
from engine.errors import RookeryError
from engine.fanout.failing_tenants import BlockRange
from engine.plan.coverage import Coverage
from engine.plan.missing_blocks import Gap, MissedBlocks, Missing
from engine.schema import Name, Schema, View, quote
from engine.warehouse.catalog import read_schema
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.fanout")

SUSPENDED_KIND = "suspended"
MAX_COUNTED_TENANTS = 10_000
"""Tenants whose rows in a batch are counted."""
Made = Callable[[tuple[str, ...], tuple[str, ...]], View]
"""A shared view for some tenants only, or without some."""


def repairable(
    workspace: Workspace, build: Build, wanted: Schema, live: Schema, continued: Collection[str] = ()
) -> dict[Name, tuple[MissedBlocks, ...]]:
    """Suspended views that can be put back with exactly what they lack, and what that is.

    Not among them: views whose query has changed since, unless they are of `continued` pipes, whose source or target
    is another table now, or of which it is not known what they lack.
    """
    found = {}
    for text, note in workspace.registry.read(SUSPENDED_KIND).items():
        database, _, name = text.partition(".")
        view, current = wanted.views.get(Name(database, name)), live.views.get(Name(database, name))
        if view is None or (current is not None and not (current.mark and current.mark.without)):
            continue
        if view.mark and view.mark.resource in continued:
            # What it has missed goes through its new query.
            note = {**note, "fingerprint": view.mark.fingerprint}
        lacks = _lacks(workspace, build, view, note, current.mark.without if current and current.mark else None)
        if lacks:
            found[view.name] = lacks
    return found


def _lacks(
    workspace: Workspace, build: Build, view: View, note: dict[str, object], without: tuple[str, ...] | None
) -> tuple[MissedBlocks, ...]:
    missing = Missing.of(note.get("missing"))  # type: ignore[arg-type]
    if missing is None or view.mark is None or _query(view.mark.fingerprint) != _query(str(note["fingerprint"])):
        return ()
    source = view.log or view.source
    gaps = missing.effective(without)
    if source != missing.source or not gaps or any(g.after is None for g in gaps) or not all(missing.ids):
        return ()
    if without is not None and {*without} != {g.tenant for g in gaps}:
        return ()
    if table_ids(workspace, source, view.target) != missing.ids:
        return ()
    own = tuple(sorted(g.tenant for g in gaps if g.tenant is not None))
    made = shared_view(build, view, source) if own else None
    if own and made is None:
        return ()
    return tuple(_lack(view, gap, made, own) for gap in gaps)


def _lack(view: View, gap: Gap, made: Made | None, own: tuple[str, ...]) -> MissedBlocks:
    assert gap.after is not None
    if made is not None:
        view = made((gap.tenant,), ()) if gap.tenant is not None else made((), own)
    return MissedBlocks(view, gap.after, gap.batches)


def shared_view(build: Build, view: View, source: Name) -> Made | None:
    """What makes a view on landing that tenants share for some of them; None for any other view."""
    pipe = build.pipes.get(view.mark.resource) if view.mark else None
    relation = build.relations.get(source.name)
    if pipe is None or pipe.target is None or relation is None or relation.kind != "landing":
        return None
    if view.source != source or view.name.database != build.workspace:
        return None
    target, reader = pipe.target, POOL_READER if pipe.target.per_tenant else WORKSPACE_READER

    def make(only: tuple[str, ...], without: tuple[str, ...]) -> View:
        views = pipe_views(build, pipe, target, replace(reader, only=only, without=without))
        return next(v for v in views if v.name == view.name)

    return make


def _query(fingerprint: str) -> str:
    return fingerprint.partition(":")[0]


def table_ids(workspace: Workspace, source: Name, target: Name) -> tuple[str, str]:
    """The engine's ids of two tables; empty for one that does not exist."""
    found = workspace.warehouse.query(
        "SELECT database, name, toString(uuid) FROM system.tables WHERE database IN {d:Array(String)} "
        "AND name IN {n:Array(String)}",
        {"d": [*sorted({source.database, target.database})], "n": [*sorted({source.name, target.name})]},
    )
    ids = {Name(database, name): str(uuid) for database, name, uuid in found.rows}
    return ids.get(source, ""), ids.get(target, "")


def log_of(workspace: Workspace, view: View) -> Name:
    """The table that keeps what passes through a live view: its source, or landing for one that hangs on an inlet."""
    found = workspace.warehouse.query(
        "SELECT engine FROM system.tables WHERE database = {d:String} AND name = {n:String}",
        {"d": view.source.database, "n": view.source.name},
    )
    inlet = bool(found.rows) and found.rows[0][0] == NULL_ENGINE
    return Name(workspace.name, view.source.name) if inlet else view.source


def newest_block(workspace: Workspace, table: Name) -> int:
    """The highest number of a block that has rows; 0 for an empty table or none. Asleep or not, the rows tell."""
    try:
        found = workspace.warehouse.query(f"SELECT max(_block_number) FROM {table.sql()}")
    except RookeryError:
        return 0
    return int(found.rows[0][0])


def keeps_block_numbers(workspace: Workspace, table: Name) -> bool:
    """Whether rows keep the numbers of their blocks; engines that merge rows keep only one of the numbers."""
    found = workspace.warehouse.query(
        "SELECT engine FROM system.tables WHERE database = {d:String} AND name = {n:String}",
        {"d": table.database, "n": table.name},
    )
    return bool(found.rows) and found.rows[0][0] == "MergeTree"


def has_batch_column(workspace: Workspace, table: Name) -> bool:
    """Whether the rows of a table tell the batches that they came with."""
    found = workspace.warehouse.query(
        "SELECT count() FROM system.columns WHERE database = {d:String} AND table = {t:String} AND name = {b:String}",
        {"d": table.database, "t": table.name, "b": BATCH_COLUMN},
    )
    return bool(found.rows[0][0])


def blocks_of_batch(workspace: Workspace, table: Name, block: BlockRange) -> int | None:
    """How many blocks one batch of landing became in a table that one view fills; None if that cannot be told."""
    live = read_schema(workspace.warehouse, workspace.name, {table.database, workspace.name})
    feeders = [v for v in live.views.values() if v.target == table]
    target = live.tables.get(table)
    build = workspace.current.build
    if len(feeders) != 1 or target is None or (build.takes(table.name)):
        return None
    source = log_of(workspace, feeders[0])
    if source.name != block.datasource or not has_batch_column(workspace, source):
        return None
    if not target.partition_key:
        return 1
    view = _compiled(workspace, feeders[0])
    numbers = workspace.warehouse.query(
        f"SELECT DISTINCT _block_number FROM {source.sql()} WHERE {BATCH_COLUMN} = {{b:String}}", {"b": block.batch}
    ).rows
    if view is None or not numbers:
        return None
    parts = " UNION ALL ".join(bounded(view.backfill, int(n) - 1, int(n)) for (n,) in numbers)
    found = workspace.warehouse.query(f"SELECT uniqExact({target.partition_key}) FROM ({parts})")
    return int(found.rows[0][0])


def _compiled(workspace: Workspace, view: View) -> View | None:
    """A live view as it is compiled, with the query of its history."""
    build = workspace.current.build
    tenant = view.mark.tenant if view.mark else None
    schema = workspace_schema(build) if tenant is None else nest_schema(build, tenant, workspace.current.routed)
    return schema.views.get(view.name)


def clamp_gaps(workspace: Workspace) -> None:
    """Set gaps back to the newest block that is there, since numbers above it will be used again after a start."""
    changed: dict[str, dict[str, object]] = {}
    for name, note in workspace.registry.read(SUSPENDED_KIND).items():
        missing = Missing.of(note.get("missing"))
        if missing is None:
            continue
        newest = newest_block(workspace, missing.source)
        gaps = tuple(replace(g, after=min(g.after, newest)) if g.after is not None else g for g in missing.gaps)
        if gaps != missing.gaps:
            changed[name] = {**note, "missing": replace(missing, gaps=gaps).as_dict()}
    workspace.registry.write(SUSPENDED_KIND, changed)


def rows_by_tenant(workspace: Workspace, block: BlockRange) -> dict[str, int]:
    """Rows of a batch by tenant, from its stage or else in landing; under an empty text if there are no tenants."""
    if block.counted:
        return {str(t): int(n) for t, n in workspace.warehouse.query(block.counted).rows}
    relation = workspace.current.build.relations[block.datasource]
    tenant = f"toString({quote(relation.tenant)})" if relation.tenant else "''"
    found = workspace.warehouse.query(
        f"SELECT {tenant} AS _rk_tenant, count() FROM {Name(workspace.name, block.datasource).sql()} "
        f"WHERE {BATCH_COLUMN} = {{b:String}} GROUP BY _rk_tenant ORDER BY _rk_tenant LIMIT {MAX_COUNTED_TENANTS}",
        {"b": block.batch},
    )
    return {str(t): int(n) for t, n in found.rows}


def expired_rows(workspace: Workspace, views: Collection[Name]) -> dict[tuple[str, str | None], int]:
    """Rows that suspended views have missed and that their sources' TTLs have removed, by view and tenant.

    Where there is no TTL, somebody has deleted them on purpose, such as those that a view failed on.
    Of the batch that a view failed on they are known by tenant. Of later ones they are counted, under None, as far as
    the places of rows in their blocks show that some are missing.
    """
    found: dict[tuple[str, str | None], int] = {}
    tables = read_schema(workspace.warehouse, workspace.name, {workspace.name, *(v.database for v in views)}).tables
    for name, note in workspace.registry.read(SUSPENDED_KIND).items():
        missing = Missing.of(note.get("missing"))
        if missing is None or Name(*name.split(".", 1)) not in views:
            continue
        source = tables.get(missing.source)
        if source is None or not source.ttl:
            continue
        own = {g.tenant for g in missing.gaps if g.tenant is not None}
        for gap in missing.gaps:
            for batch in gap.batches:
                recorded = note.get("rows", {}).get(batch, {})
                there = rows_by_tenant(workspace, BlockRange(str(note["datasource"]), batch))
                for tenant, rows in recorded.items():
                    mine = tenant == gap.tenant if gap.tenant is not None else tenant not in own
                    if mine and _concerns(workspace, name, note, tenant) and there.get(tenant, 0) < rows:
                        key = (name, tenant or None)
                        found[key] = found.get(key, 0) + rows - there.get(tenant, 0)
        after = min((g.after for g in missing.gaps if g.after is not None), default=None)
        later = _gone_after(workspace, missing.source, after) if after is not None else 0
        if later:
            found[(name, None)] = found.get((name, None), 0) + later
    return found


def _concerns(workspace: Workspace, view: str, note: Mapping[str, Any], tenant: str) -> bool:
    """Whether a tenant's rows go through a view."""
    if note.get("tenant") is not None:
        return bool(note["tenant"] == tenant)
    known = workspace.current.tenants.get(tenant)
    return not _pooled(workspace, view) or (known is not None and known.placement == "pooled")


def _gone_after(workspace: Workspace, source: Name, after: int) -> int:
    """Rows at least that are gone from landing's blocks after one."""
    if source.database != workspace.name or not _is_landing(workspace, source):
        return 0
    found = workspace.warehouse.query(
        "SELECT sum(m - n) FROM (SELECT max(_block_offset) + 1 AS m, count() AS n "
        f"FROM {source.sql()} WHERE _block_number > {after} GROUP BY _block_number)"
    )
    return int(found.rows[0][0] or 0)


def record_repeated_insert(workspace: Workspace, datasource: str) -> None:
    """Note that numbers of blocks were used up by inserts that failed and are complete now. Never raises."""
    try:
        live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
        views = [v for v in live.views.values() if v.source == Name(workspace.name, datasource)]
        Coverage(workspace.warehouse, workspace.registry, live).renew(views, repeated=True)
    except RookeryError as exc:
        log.warning("what views have received could not be noted", datasource=datasource, error=exc)


def complete_views(workspace: Workspace) -> list[View]:
    """Views of the workspace's own database whose sources have everything that their targets were made from."""
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name])
    coverage = Coverage(workspace.warehouse, workspace.registry, live)
    return [v for v in live.views.values() if v.source in live.tables and coverage.why_incomplete(v) is None]


def forget_tenant(workspace: Workspace, tenant: str, nest: str | None) -> None:
    """Forget what views lack of a tenant that is removed: those of its nest, and gaps of its own in pooled ones."""
    notes = workspace.registry.read(SUSPENDED_KIND)
    gone = [n for n in notes if nest is not None and n.startswith(f"{nest}.")]
    changed = {}
    for name, note in notes.items() if nest is None else ():
        missing = Missing.of(note.get("missing"))
        if missing is not None and _pooled(workspace, name):
            gaps = tuple(g for g in missing.gaps if g.tenant != tenant)
            if gaps != missing.gaps:
                changed[name] = {**note, "missing": replace(missing, gaps=gaps).as_dict()}
    workspace.registry.write(SUSPENDED_KIND, changed)
    workspace.registry.remove(SUSPENDED_KIND, gone)


def add_pooled_tenants(workspace: Workspace, tenants: Sequence[str]) -> set[str]:
    """Record that new pooled tenants lack all rows of suspended views, and return these. The fence must be held.

    A view that runs without other tenants only is not among them: it takes these.
    """
    live = read_schema(workspace.warehouse, workspace.name, [workspace.name]).views
    found: set[str] = set()
    changed = {}
    for name, note in workspace.registry.read(SUSPENDED_KIND).items():
        database, _, short = name.partition(".")
        view = live.get(Name(database, short))
        without = view.mark.without if view is not None and view.mark is not None else ()
        mine = [t for t in tenants if view is None or t in without]
        missing = Missing.of(note.get("missing"))
        if not mine or missing is None or not _pooled(workspace, name):
            continue
        if not _is_landing(workspace, missing.source):
            continue
        gaps = (*(g for g in missing.gaps if g.tenant not in mine), *(Gap(t, 0) for t in mine))
        changed[name] = {**note, "missing": replace(missing, gaps=gaps).as_dict()}
        found.add(name)
    workspace.registry.write(SUSPENDED_KIND, changed)
    return found


def _pooled(workspace: Workspace, view: str) -> bool:
    """Whether a view of the workspace's database is one of all pooled tenants."""
    build = workspace.current.build
    database, _, name = view.partition(".")
    found = workspace_schema(build).views.get(Name(database, name))
    pipe = build.pipes.get(found.mark.resource) if found is not None and found.mark is not None else None
    return pipe is not None and pipe.target is not None and pipe.target.per_tenant


def _is_landing(workspace: Workspace, table: Name) -> bool:
    relation = workspace.current.build.relations.get(table.name)
    return relation is not None and relation.kind == "landing"
