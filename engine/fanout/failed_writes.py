"""Finds and removes parts that the engine stored despite a failed write. Called after each insert.

A table forgets the token of a part that is dropped. So when the insert is repeated with its token, only that table
stores the rows again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import structlog

from engine.compiler.views import nest_schema, workspace_schema
from engine.errors import STORAGE, RookeryError
from engine.schema import Name
from engine.warehouse.errors import EngineError
from engine.warehouse.port import DamagedPart
from engine.workspace.snapshot import Snapshot, per_snapshot
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.fanout")

MAX_CHECKED_NESTS = 64
"""Maximum number of nests that are checked after an insert into landing. If there are more, only the workspace's own
tables are checked.
"""


def tables_fed_by(workspace: Workspace, datasource: str) -> tuple[Name, ...]:
    """A landing datasource's table and all tables that views fill from it."""
    return _tables_fed_by(workspace.current, datasource)


@per_snapshot
def _tables_fed_by(snapshot: Snapshot, datasource: str) -> tuple[Name, ...]:
    build = snapshot.build
    views = list(workspace_schema(build).views.values())
    with_tables = [t for t in snapshot.tenants.values() if t.placement == "tables"]
    if len(with_tables) <= MAX_CHECKED_NESTS:
        for tenant in with_tables:
            views += nest_schema(build, tenant.id, snapshot.routed).views.values()
    tables = [Name(build.workspace, datasource)]
    # The list grows while it is read: views on targets of views are followed too.
    for name in tables:
        tables += [v.target for v in views if v.source == name and v.target not in tables]
    return tuple(dict.fromkeys(tables))


def nest_tables_fed_by(workspace: Workspace, database: str, datasource: str) -> tuple[Name, ...]:
    """Tables of a nest that an insert into its copy of a datasource may reach."""
    build = workspace.current.build
    targets = [p.target.name for p in build.materialized() if p.target and p.target.per_tenant]
    return tuple(Name(database, n) for n in (datasource, *targets))


class DamagedPartsRemoved(EngineError):
    """RK6009: damaged parts were removed, so the insert must be repeated. `reasons` describes them by table."""

    def __init__(self, reasons: Mapping[Name, str]) -> None:
        detail = "; ".join(reasons.values())
        super().__init__(STORAGE, STORAGE.title, detail=detail, headers={"Retry-After": "2"})


BeforeRemoval = Callable[[DamagedPart], None]
"""Called before a damaged part is removed. If it raises, the part stays."""


def remove_damaged_parts(
    workspace: Workspace, tables: Iterable[Name], before_removal: BeforeRemoval | None = None
) -> tuple[dict[Name, str], bool]:
    """Remove damaged parts that tables have received since the last check.

    Returns a description of the removed parts by table, and whether merges must be undone. An insert whose parts were
    removed must be repeated with its token; this is not necessary after an undone merge. Raises RK6009 if a part
    cannot be removed.
    """
    removed: dict[Name, str] = {}
    merged = False
    for damaged in workspace.warehouse.damaged_parts(tables):
        table, part, why = damaged
        log.error("a part was stored despite a failed write", table=str(table), part=part, why=why)
        try:
            if before_removal is not None:
                before_removal(damaged)
            if workspace.warehouse.remove_part(table, part):
                removed[table] = f"part {part} of {table}: {why}"
            else:
                merged = True
        except RookeryError as exc:
            # The next check finds it again if it is still there.
            detail = exc.detail or exc.message
            raise EngineError(STORAGE, STORAGE.title, detail=detail, headers={"Retry-After": "2"}) from exc
    return removed, merged
