"""Finds the tables that are derived from others, and those of them that can be compared with their sources now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.compiler.storage import NULL_ENGINE
from engine.compiler.views import nest_schema
from engine.control.doctor.findings import Context
from engine.control.fanout_status import lagging
from engine.fanout.suspension_records import suspended
from engine.schema import Name, Table, View
from engine.workspace.journal import RegistryJournal


@dataclass(frozen=True, slots=True)
class Derived:
    """A live table with the views that fill it."""

    table: Table
    views: tuple[View, ...]
    """The views that fill it, compiled."""
    tenant: str | None
    """The tenant of the table's nest; None for a table in the workspace's own database."""
    tenant_column: str | None

    @property
    def is_copy(self) -> bool:
        """Whether the table is a nest copy of a landing datasource."""
        return any(map(_is_copy, self.views))


def _is_copy(view: View) -> bool:
    return view.mark is not None and view.mark.fingerprint.startswith("copy:")


def derived_tables(context: Context, *, copies: bool = False) -> Iterator[Derived]:
    """The derived tables that can be compared, in order of data flow. With `copies`, nest copies come first.

    Tables with a suspended or missing view, with undelivered history, or of a tenant that lags are left out: they
    lack rows for a reason that is reported as a separate finding.
    """
    build = context.snapshot.build
    incomplete = _incomplete_views(context)
    lagging_tenants = set[str]().union(*lagging(context.workspace).values())
    for name, views in _views_by_target(context, copies=copies).items():
        live = context.live.tables.get(name)
        mark = views[0].mark
        tenant = mark.tenant if mark else None
        if live is None or live.engine == NULL_ENGINE or tenant in lagging_tenants:
            continue
        if tenant is not None and context.snapshot.tenants[tenant].state != "ready":
            continue
        must_exist = not _is_copy(views[0])  # With routed fan-out, rookery itself fills copies: there are no views.
        if any(str(v.name) in incomplete or (must_exist and v.name not in context.live.views) for v in views):
            continue
        relation = build.relations.get(name.name)
        column = relation.tenant if relation is not None and live.column(relation.tenant or "") else None
        yield Derived(live, tuple(views), tenant, column)


def _incomplete_views(context: Context) -> set[str]:
    """Views that are suspended or have history to deliver."""
    history = RegistryJournal(context.workspace.registry).outstanding()
    return {note["view"] for note in suspended(context.workspace)} | {note.view for note in history}


def _views_by_target(context: Context, *, copies: bool) -> dict[Name, list[View]]:
    """Views by the table that they fill. Views of copies are compiled here, since routed nests have none."""
    copy_views: dict[Name, list[View]] = {}
    for tenant in context.snapshot.tenants.values() if copies else ():
        if tenant.placement == "tables":
            for view in nest_schema(context.snapshot.build, tenant.id).views.values():
                if _is_copy(view):
                    copy_views[view.target] = [view]
    pipe_views: dict[Name, list[View]] = {}
    for view in context.desired.views.values():
        if not _is_copy(view):
            pipe_views.setdefault(view.target, []).append(view)
    return {**copy_views, **pipe_views}
