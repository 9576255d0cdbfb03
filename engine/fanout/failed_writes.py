"""Parts that the engine has stored in spite of a write that failed: found after each insert, and taken out again.

A table forgets the token of a part that is dropped, so the insert that is repeated under it brings the rows once more
to that table, and to no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import structlog

from engine.compiler.views import nest_schema, workspace_schema
from engine.errors import STORAGE, RookeryError
from engine.schema import Name
from engine.warehouse.errors import EngineError
from engine.workspace.workspace import Snapshot, Workspace

log = structlog.get_logger("rookery.fanout")

MAX_CHECKED_NESTS = 64
"""Nests that are looked at after an insert whose views reach them; with more, only tables of the workspace are."""


def fed_by(workspace: Workspace, datasource: str) -> tuple[Name, ...]:
    """A landing datasource's table and those that views fill from it."""
    snapshot = workspace.current
    return snapshot.derived(("fed", datasource), lambda: _fed_by(snapshot, datasource))


def _fed_by(snapshot: Snapshot, datasource: str) -> tuple[Name, ...]:
    build = snapshot.build
    views = list(workspace_schema(build).views.values())
    own = [t for t in snapshot.tenants.values() if t.placement == "tables"]
    if len(own) <= MAX_CHECKED_NESTS:
        for tenant in own:
            views += nest_schema(build, tenant.id, snapshot.routed).views.values()
    found = [Name(build.workspace, datasource)]
    for name in found:
        found += [v.target for v in views if v.source == name and v.target not in found]
    return tuple(dict.fromkeys(found))


def in_nest(workspace: Workspace, database: str, datasource: str) -> tuple[Name, ...]:
    """Tables of a nest that an insert into its copy of a datasource reaches, and perhaps others of it."""
    build = workspace.current.build
    targets = [p.target.name for p in build.materialized() if p.target and p.target.per_tenant]
    return tuple(Name(database, n) for n in (datasource, *targets))


class DamagedPartsRemoved(EngineError):
    """RK6009: damaged parts have been taken out of these tables, and the insert must be repeated."""

    def __init__(self, found: Mapping[Name, str]) -> None:
        detail = "; ".join(found.values())
        super().__init__(STORAGE, STORAGE.title, detail=detail, headers={"Retry-After": "2"})
        self.tables = frozenset(found)


def was_removed_from(exc: BaseException | None, table: Name) -> bool:
    """Whether a failed insert, or one that it has repeated, had its rows taken out of a table."""
    while exc is not None:
        if isinstance(exc, DamagedPartsRemoved) and table in exc.tables:
            return True
        exc = exc.__cause__
    return False


def remove_damaged_parts(workspace: Workspace, tables: Iterable[Name]) -> tuple[dict[Name, str], bool]:
    """Take out damaged parts that have come into tables since the last look; what was found, in words, by table.

    The insert that brought them must be repeated under its token. Also returns whether merges are to be undone, after
    which nothing must be repeated. Raises RK6009 when a part cannot be taken out.
    """
    again: dict[Name, str] = {}
    merged = False
    for table, part, why in workspace.warehouse.damaged_parts(tables):
        log.error("a part was stored in spite of a failed write", table=str(table), part=part, why=why)
        try:
            if workspace.warehouse.remove_part(table, part):
                again[table] = f"part {part} of {table}: {why}"
            else:
                merged = True
        except RookeryError as exc:
            # It is found again by the next look, if it is still there.
            detail = exc.detail or exc.message
            raise EngineError(STORAGE, STORAGE.title, detail=detail, headers={"Retry-After": "2"}) from exc
    return again, merged
