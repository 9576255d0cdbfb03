"""Chooses the fan-out mode of each landing datasource, and changes it while rows arrive.

`direct`: one view per tenant fills the tenant's nest copy. `routed`: a fan-out worker does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from engine.compiler.build import Build
from engine.compiler.views import nest_schema
from engine.fanout.landing_log import nest_copies
from engine.fanout.router import Router, router_of
from engine.plan.backfill import backfill_of, block_ranges
from engine.plan.backfill_delivery import deliver
from engine.schema import Name, nest_database
from engine.warehouse import ddl
from engine.workspace.journal import RegistryJournal
from engine.workspace.snapshot import Snapshot
from engine.workspace.workspace import Workspace

ROUTED_FROM_TENANTS = 32
"""With at least this many tenants that have their own tables, a datasource with `fanout: auto` is routed."""
VIEWS_PER_CHANGE = 50
"""Number of views that are created or dropped each time inserts are blocked."""

T = TypeVar("T")


def _chunks(items: Iterable[T]) -> list[list[T]]:
    """The items in lists of at most VIEWS_PER_CHANGE."""
    everything = list(items)
    return [everything[n : n + VIEWS_PER_CHANGE] for n in range(0, len(everything), VIEWS_PER_CHANGE)]


def desired_modes(build: Build, tenants: int, current: dict[str, str]) -> dict[str, str]:
    """The mode that each landing datasource with nest copies should have, for a number of tenants with tables.

    A datasource with `fanout: auto` that is routed stays routed when tenants leave.
    """
    modes = {}
    for name in build.relations:
        if not build.reaches_nests(name):
            continue
        tenant = build.datasources[name].tenant
        declared = tenant.fanout if tenant else "auto"
        automatic = "routed" if tenants >= ROUTED_FROM_TENANTS or current.get(name) == "routed" else "direct"
        modes[name] = automatic if declared == "auto" else declared
    return modes


def mode_changes(workspace: Workspace, build: Build) -> dict[str, tuple[str, str]]:
    """The current and the future mode of each landing datasource whose mode a build would change."""
    snapshot = workspace.current
    modes = desired_modes(build, _tenants_with_tables(workspace), dict(snapshot.modes))
    before = {n: snapshot.modes.get(n, "direct") for n in modes if n in snapshot.build.relations}
    return {n: (mode, modes[n]) for n, mode in before.items() if mode != modes[n]}


def _tenants_with_tables(workspace: Workspace) -> int:
    """Number of tenants with placement `tables`."""
    tenants = workspace.current.tenants.values()
    return sum(t.placement == "tables" and t.state != "removing" for t in tenants)


def reconcile_modes(workspace: Workspace, build: Build) -> Snapshot:
    """Change every landing datasource to its desired mode. Also completes a change that was interrupted.

    Returns the snapshot with the new modes.
    """
    snapshot = workspace.refresh()
    modes = desired_modes(build, _tenants_with_tables(workspace), dict(snapshot.modes))
    router = router_of(workspace)
    if modes == router.applied_modes:
        return snapshot
    for name, mode in modes.items():
        if mode == "routed" and name not in snapshot.routed and None in nest_copies(workspace, name).values():
            # If a copy has lost its view, it misses rows. The next plan rebuilds the copy; only then can a worker
            # fill it.
            modes[name] = "direct"
    changed = {n: m for n, m in modes.items() if m != snapshot.modes.get(n, "direct")}
    removed = [n for n in snapshot.modes if n not in modes]
    if changed or removed:
        # Recorded first: after a kill, the next start sees the new mode and completes the change.
        workspace.registry.write("fanout", {n: {"mode": m} for n, m in changed.items()})
        workspace.registry.remove("fanout", removed)
        snapshot = workspace.refresh()
    for name in removed:
        router.close_worker(name)
    for name, mode in modes.items():
        copies = nest_copies(workspace, name)
        views = {t: v for t, v in copies.items() if v is not None}
        if mode == "routed":
            router.open(name)
            _replace_views(workspace, router, name, views)
        elif router.worker(name) is not None or router.offsets.read(name)[0] is not None:
            _replace_worker(workspace, router, build, name, [t for t, v in copies.items() if v is None])
    # Not before: if anything above fails, the next call must try it again.
    router.applied_modes = modes
    return snapshot


def _replace_views(workspace: Workspace, router: Router, datasource: str, views: dict[str, Name]) -> None:
    """From direct to routed: the worker continues each tenant from the newest block when its view is dropped."""
    worker = router.open(datasource)
    for chunk in _chunks(views.items()):
        with workspace.view_lock.changing():
            # The offset is landing's newest block, and the view is dropped before another row arrives.
            worker.add_tenants([tenant for tenant, _ in chunk], worker.drain())
            for _, view in chunk:
                workspace.warehouse.execute(ddl.drop_view(view))
    router.wait_for(views)


def _replace_worker(workspace: Workspace, router: Router, build: Build, datasource: str, tenants: list[str]) -> None:
    """From routed to direct: each new view delivers, as its backfill, what the worker has not delivered."""
    worker = router.open(datasource)
    journal = RegistryJournal(workspace.registry)
    # The backfills below begin where the main group is, so no tenant may be behind it.
    router.wait_for(tenants)
    for chunk in _chunks(tenants):
        views = []
        for tenant in chunk:
            name = Name(nest_database(workspace.name, tenant), f"_rk_{datasource}")
            views += [v for v in nest_schema(build, tenant).views.values() if v.name == name]
        with workspace.view_lock.changing():
            workspace.view_lock.completion.complete_all()
            delivered_up_to = worker.drain()
            source = views[0].source if views else None
            ranges = block_ranges(workspace.warehouse, source, after=delivered_up_to) if source else []
            backfills = [backfill_of(v, ranges) for v in views if ranges]
            # Before the views exist: after a kill, the next start delivers the ranges. From here on, the views
            # deliver.
            journal.record(backfills)
            journal.record_newest_blocks()
            for view in views:
                workspace.warehouse.execute(ddl.create_view(view))
            worker.remove_tenants(chunk)
        deliver(backfills, workspace.warehouse, journal)
    router.close_worker(datasource)
