"""Which fan-out a landing datasource has, and changing from one to the other while rows come in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from engine.compiler.build import Build
from engine.compiler.views import nest_schema
from engine.fanout.landing_log import nest_copies
from engine.fanout.router import Router, router_of
from engine.plan.backfill import backfill_of, block_ranges, deliver
from engine.schema import Name, nest_database
from engine.warehouse import ddl
from engine.workspace.workspace import RegistryJournal, Workspace

ROUTED_FROM_TENANTS = 32
"""Tenants with tables of their own from which on a datasource that says nothing is routed."""
VIEWS_PER_CHANGE = 50
"""Views that are changed in one go, while inserts wait."""


T = TypeVar("T")


def _some(items: Iterable[T]) -> list[list[T]]:
    everything = list(items)
    return [everything[n : n + VIEWS_PER_CHANGE] for n in range(0, len(everything), VIEWS_PER_CHANGE)]


def desired_modes(build: Build, nests: int, present: dict[str, str]) -> dict[str, str]:
    """The mode of each landing datasource that reaches nests. One that was routed by itself stays so."""
    found = {}
    for name in build.relations:
        if not build.reaches_nests(name):
            continue
        tenant = build.datasources[name].tenant
        told = tenant.fanout if tenant else "auto"
        grown = "routed" if nests >= ROUTED_FROM_TENANTS or present.get(name) == "routed" else "direct"
        found[name] = grown if told == "auto" else told
    return found


def mode_changes(workspace: Workspace, build: Build) -> dict[str, tuple[str, str]]:
    """Landing datasources whose mode would change with a build: from which to which."""
    snapshot = workspace.current
    modes = desired_modes(build, _nests(workspace), dict(snapshot.modes))
    before = {n: snapshot.modes.get(n, "direct") for n in modes if n in snapshot.build.relations}
    return {n: (mode, modes[n]) for n, mode in before.items() if mode != modes[n]}


def _nests(workspace: Workspace) -> int:
    """Tenants with tables of their own."""
    tenants = workspace.current.tenants.values()
    return sum(t.placement == "tables" and t.state != "removing" for t in tenants)


def reconcile_modes(workspace: Workspace, build: Build) -> None:
    """Bring every landing datasource into the mode that it should have, whatever was interrupted before."""
    snapshot = workspace.refresh()
    modes = desired_modes(build, _nests(workspace), dict(snapshot.modes))
    router = router_of(workspace)
    if modes == router.applied_modes:
        return
    for name, mode in modes.items():
        if mode == "routed" and name not in snapshot.routed and None in nest_copies(workspace, name).values():
            # A copy that has lost its view lacks rows. The next plan computes it again; only then it can be read on.
            modes[name] = "direct"
    changed = {n: m for n, m in modes.items() if m != snapshot.modes.get(n, "direct")}
    gone = [n for n in snapshot.modes if n not in modes]
    if changed or gone:
        workspace.registry.write("fanout", {n: {"mode": m} for n, m in changed.items()})
        workspace.registry.remove("fanout", gone)
        workspace.refresh()
    for name in gone:
        router.close_worker(name)
    for name, mode in modes.items():
        found = nest_copies(workspace, name)
        views = {t: v for t, v in found.items() if v is not None}
        if mode == "routed":
            router.open(name)
            _unhook(workspace, router, name, views)
        elif router.worker(name) is not None or router.journal.read(name)[0] is not None:
            _hook(workspace, router, build, name, [t for t, v in found.items() if v is None])
    router.applied_modes = modes


def _unhook(workspace: Workspace, router: Router, datasource: str, views: dict[str, Name]) -> None:
    """From views to the router: whoever loses its view reads on from the block that was newest then."""
    worker = router.open(datasource)
    for some in _some(views.items()):
        with workspace.view_lock.changing():
            worker.start_reader([t for t, _ in some], worker.drain())
            for _, view in some:
                workspace.warehouse.execute(ddl.drop_view(view))
    router.wait_for(views)


def _hook(workspace: Workspace, router: Router, build: Build, datasource: str, tenants: list[str]) -> None:
    """From the router to views: each view delivers, as its history, what the router had not come to."""
    worker = router.open(datasource)
    journal = RegistryJournal(workspace.registry)
    router.wait_for(tenants)
    for some in _some(tenants):
        views = []
        for tenant in some:
            name = Name(nest_database(workspace.name, tenant), f"_rk_{datasource}")
            views += [v for v in nest_schema(build, tenant).views.values() if v.name == name]
        with workspace.view_lock.changing():
            workspace.view_lock.completion.complete_all()
            at = worker.drain()
            ranges = block_ranges(workspace.warehouse, views[0].source, after=at) if views else []
            histories = [backfill_of(v, ranges) for v in views if ranges]
            journal.record(histories)
            journal.record_newest_blocks()
            for view in views:
                workspace.warehouse.execute(ddl.create_view(view))
            worker.forget(some)
        deliver(histories, workspace.warehouse, journal)
    router.close_worker(datasource)
