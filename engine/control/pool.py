"""The pool: the ids of pooled tenants, in a small table that the views of the shared targets read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import orjson

from engine.compiler import storage
from engine.compiler.build import Build
from engine.compiler.pipes import CompiledPipe
from engine.compiler.views import POOL_READER, Reader, pipe_views, pool_table
from engine.control.unfinished_history import deliver_unfinished
from engine.fanout.suspension_records import add_pooled_tenants
from engine.plan.backfill import Backfill, backfill_of, block_ranges
from engine.plan.progress import Progress
from engine.schema import Name
from engine.warehouse import ddl
from engine.warehouse.checked_inserts import insert_checked
from engine.workspace.journal import RegistryJournal
from engine.workspace.workspace import Workspace


def join_pool(workspace: Workspace, tenants: Sequence[str], progress: Progress) -> int:
    """Add tenants to the pool, then deliver their history to the shared targets. Returns the number of views.

    Between two inserts, the history up to that point is recorded and the ids are added, so that each row is delivered
    once: as history if it was stored before, and by the views if it is stored later. Tenants that are already in the
    pool keep their rows, and their recorded history is also delivered.
    """
    pool = Name(workspace.name, storage.POOL_TABLE)
    known = {row[0] for row in workspace.warehouse.query(f"SELECT id FROM {pool.sql()}").rows}
    new = [t for t in tenants if t not in known]
    journal = RegistryJournal(workspace.registry)
    # Delivered first, so that the result counts the views of this run only.
    deliver_unfinished(workspace)
    if new:
        with workspace.view_lock.changing():
            # An uncertain batch that is completed later would reach the new tenants twice, as history and through the
            # views.
            workspace.view_lock.completion.complete_all()
            # Recorded before the ids are added: after a kill, ids without their history would look complete.
            journal.record(_histories(workspace, new))
            journal.record_newest_blocks()
            body = b"\n".join(b'{"id":' + orjson.dumps(t) + b"}" for t in new)
            insert_checked(workspace.warehouse, pool, body, ("id",))
    return len(deliver_unfinished(workspace, progress))


def _histories(workspace: Workspace, tenants: Sequence[str]) -> list[Backfill]:
    """The history of new tenants for every per-tenant pipe. The caller holds the view lock.

    Views that are suspended are left out: the tenants' rows are recorded as missing there, and delivered with the
    others when the view is created again.
    """
    build = workspace.current.build
    suspended = add_pooled_tenants(workspace, tenants)
    histories: list[Backfill] = []
    for pipe in build.materialized():
        if pipe.target and pipe.target.per_tenant:
            histories += _histories_of_pipe(workspace, pipe, tenants, suspended)
    return histories


def _histories_of_pipe(
    workspace: Workspace, pipe: CompiledPipe, tenants: Sequence[str], suspended: set[str]
) -> list[Backfill]:
    """The history of new tenants in one pipe: of each view that is not suspended, all blocks of its source."""
    build = workspace.current.build
    assert pipe.target is not None
    sources = {v.source for v in pipe_views(build, pipe, pipe.target, POOL_READER)}
    ranges = {s: block_ranges(workspace.warehouse, s) for s in sources if _is_landing(build, s)}
    histories: list[Backfill] = []
    for tenant in tenants:
        views = pipe_views(build, pipe, pipe.target, Reader("pool", tenant))
        active = [v for v in views if str(v.name) not in suspended]
        histories += [backfill_of(v, ranges[v.source]) for v in active if ranges.get(v.source)]
    return histories


def _is_landing(build: Build, source: Name) -> bool:
    """Whether a table has rows of several tenants. Other sources of a pipe have no history of one tenant."""
    relation = build.relations.get(source.name)
    return relation is not None and relation.kind == "landing"


def leave_pool(workspace: Workspace, tenant: str) -> None:
    """Remove a tenant from the pool, between two inserts.

    The small table is replaced as a whole, because a mutation would block all inserts until the engine runs it, which
    can take half a minute under load.
    """
    pool = pool_table(workspace.name)
    replacement = replace(pool, name=Name(workspace.name, f"{storage.POOL_TABLE}_next"))
    warehouse = workspace.warehouse
    with workspace.view_lock.changing():
        warehouse.execute(ddl.drop_table(replacement.name))
        warehouse.execute(ddl.create_table(replacement))
        others = f"SELECT id FROM {pool.name.sql()} WHERE id != {{id:String}}"
        warehouse.execute(f"INSERT INTO {replacement.name.sql()} {others}", {"id": tenant})
        # Views read the pool by its name, so they see the old ids or the new ones, and never an empty table.
        warehouse.execute(f"EXCHANGE TABLES {replacement.name.sql()} AND {pool.name.sql()}")
    warehouse.execute(ddl.drop_table(replacement.name))
