"""Deployed resources: listing, showing and removing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engine.compiler.build import Build, parameters_of
from engine.control.planning import PlanOptions, apply_plan, plan_for
from engine.errors import (
    DEPENDENTS,
    UNKNOWN_RESOURCE,
    RookeryError,
    did_you_mean,
)
from engine.fanout.modes import reconcile_modes
from engine.observe import events
from engine.plan.steps import Plan
from engine.schema import Name
from engine.warehouse.catalog import load_tables_named
from engine.workspace.snapshot import DeployedFile, Snapshot, parse_sources
from engine.workspace.workspace import Workspace


def datasources(workspace: Workspace) -> list[dict[str, Any]]:
    """All datasources as JSON, with columns, keys and size. The sizes of per-tenant targets are sums over the pool
    and all nests.
    """
    snapshot = workspace.refresh()
    build = snapshot.build
    sizes: dict[str, Size] = {**dict.fromkeys(build.datasources, (0, 0)), **_sizes(workspace, [workspace.name])}
    targets = [n for n, r in build.relations.items() if r.kind == "target"]
    nests = [t.nest(workspace.name) for t in snapshot.tenants.values() if t.state == "ready"]
    databases = [n for n in nests if n is not None]
    # Loading thousands of tables for a listing would take minutes.
    if databases and len(databases) > workspace.settings.max_nests:
        sizes.update(dict.fromkeys(targets, (None, None)))
    elif databases and targets:
        # The engine only knows the size of a table after loading it.
        load_tables_named(workspace.warehouse, workspace.name, targets)
        total = _sizes(workspace, [workspace.name, *databases])
        sizes.update({n: total.get(n, (0, 0)) for n in targets})
    return [_datasource(build, name, sizes[name]) for name in sorted(build.datasources)]


Size = tuple[int | None, int | None]
"""Rows and bytes; None if too many nests would have to be read."""


def _sizes(workspace: Workspace, databases: list[str]) -> dict[str, Size]:
    """The total size of the tables of each name in some databases."""
    result = workspace.warehouse.query(
        "SELECT name, sum(ifNull(total_rows, 0)), sum(ifNull(total_bytes, 0)) FROM system.tables "
        "WHERE database IN {databases:Array(String)} GROUP BY name",
        {"databases": [*databases]},
    )
    return {str(n): (int(r), int(b)) for n, r, b in result.rows}


def _datasource(build: Build, name: str, size: Size) -> dict[str, Any]:
    source, relation = build.datasources[name], build.relations[name]
    return {
        "id": name,
        "name": name,
        "description": source.description,
        "kind": relation.kind,
        "tenant_column": source.tenant_column,
        "engine": {
            "engine": source.engine.type,
            "engine_sorting_key": ", ".join(source.sorting_key),
            "engine_partition_key": source.engine.partition_key,
        },
        "columns": [
            {"name": c.name, "type": c.type, "codec": c.codec, "default_value": c.default, "jsonpath": c.json_path}
            for c in source.columns
        ],
        "statistics": {"row_count": size[0], "bytes": size[1]},
    }


def pipes(workspace: Workspace) -> list[dict[str, Any]]:
    """All pipes as JSON, with nodes, parameters and targets."""
    build = workspace.refresh().build
    return [_pipe(build, name) for name in sorted(build.pipes)]


def _pipe(build: Build, name: str) -> dict[str, Any]:
    pipe = build.pipes[name]
    return {
        "id": name,
        "name": name,
        "description": pipe.description,
        "type": pipe.kind,
        "endpoint": pipe.published if pipe.kind == "endpoint" else None,
        "url": f"/v0/pipes/{name}.json" if pipe.kind == "endpoint" else None,
        "materialized_datasource": pipe.target.name if pipe.target else None,
        "per_tenant": bool(pipe.target and pipe.target.per_tenant),
        "parameters": [
            {
                "name": p.name,
                "type": p.type,
                "default": p.default,
                "description": p.description,
                "required": p.required,
                "tenant_key": p.tenant_key,
            }
            for p in parameters_of(build.pipes, name)
        ],
        "nodes": [{"name": n.name, "dependencies": sorted(n.reads)} for n in pipe.nodes],
        "columns": [{"name": c.name, "type": c.type} for c in build.outputs.get(name, ())],
    }


def show(workspace: Workspace, kind: str, name: str) -> dict[str, Any]:
    """One resource as JSON, with the contents of its file. `kind` is `datasource` or `pipe`. Raises RK3007."""
    resources = datasources(workspace) if kind == "datasource" else pipes(workspace)
    resource = next((r for r in resources if r["name"] == name), None)
    if resource is None:
        raise _unknown(workspace.current.build, kind, name)
    source = workspace.current.sources.get(name)
    return {**resource, "file": source.file if source else None, "content": source.text if source else None}


def _unknown(build: Build, kind: str, name: str) -> RookeryError:
    """RK3007. The hint is a similar name, or the command for a resource of the other kind."""
    other, known = ("pipe", build.datasources) if kind == "datasource" else ("datasource", build.pipes)
    if name in (build.pipes if other == "pipe" else build.datasources):
        return RookeryError(
            UNKNOWN_RESOURCE, f"`{name}` is a {other}, not a {kind}", hint=f"rookery {other} show {name}"
        )
    hint = did_you_mean(name, known, f"rookery {kind} ls")
    return RookeryError(UNKNOWN_RESOURCE, f"there is no {kind} `{name}`", hint=hint)


def dependents(build: Build, name: str) -> list[str]:
    """Everything that depends on a resource, nearest first: pipes that read or fill it, and their dependents.

    The target of a dependent pipe is included if no file declares it, because it exists only for the pipe.
    """
    names: list[str] = []
    pending = [name]
    while pending:
        current = pending.pop(0)
        for other in sorted(build.pipes):
            pipe = build.pipes[other]
            fills = pipe.target is not None and pipe.target.name == current
            if (current in pipe.reads or fills) and other not in names and other != name:
                names.append(other)
                pending.append(other)
        pipe_here = build.pipes.get(current)
        if pipe_here and pipe_here.target and pipe_here.target.name not in build.project.datasources:
            target = pipe_here.target.name
            if target not in names and target != name:
                names.append(target)
                pending.append(target)
    return names


def remove(workspace: Workspace, kind: str, name: str, *, force: bool = False, dry_run: bool = False) -> list[str]:
    """Remove a resource, views before tables; with `force` also everything that depends on it. Returns the names.

    A dry run returns the names without `force`. Raises RK3007 if the resource does not exist, and RK3003 if pipes
    depend on it and `force` is not set.
    """
    with workspace.changes:
        snapshot = workspace.refresh()
        known = snapshot.build.datasources if kind == "datasource" else snapshot.build.pipes
        if name not in known:
            raise _unknown(snapshot.build, kind, name)
        dependent = dependents(snapshot.build, name)
        readers = [n for n in dependent if n in snapshot.build.pipes]
        if readers and not force and not dry_run:
            raise RookeryError(
                DEPENDENTS,
                f"`{name}` is used by {', '.join(f'`{n}`' for n in readers)}",
                hint="remove those first, or all of them with --force",
            )
        removed = [name, *dependent]
        if not dry_run:
            _remove(workspace, snapshot, removed)
            events.note("resources removed", removed=removed)
        return removed


def unfilled(build: Build, removed: Sequence[str]) -> list[str]:
    """The targets of removed pipes that stay, with their rows, but get no more rows."""
    targets = {pipe.target.name for n in removed if (pipe := build.pipes.get(n)) is not None and pipe.target}
    return sorted(targets - set(removed))


def _remove(workspace: Workspace, snapshot: Snapshot, names: list[str]) -> None:
    """Compile the workspace without some resources, and apply the steps of the plan that concern them."""
    sources: dict[str, DeployedFile] = {n: s for n, s in snapshot.sources.items() if n not in names}
    compiled = workspace.compile(parse_sources(sources), tolerated=None)
    # Tokens come first: after a kill, no token may have a scope on a resource that a later push creates under the
    # same name.
    _narrow_tokens(workspace, snapshot, names)
    workspace.registry.remove("resource", [n for n in names if n in snapshot.sources])
    plan = plan_for(workspace, snapshot, compiled, PlanOptions(prune=True))
    apply_plan(workspace, Plan(tuple(s for s in plan.steps if s.resource in names)))
    reconcile_modes(workspace, workspace.refresh().build)


def _narrow_tokens(workspace: Workspace, snapshot: Snapshot, names: list[str]) -> None:
    """Remove the scopes on removed resources from all static tokens, and tokens that have no other scopes."""
    for token in snapshot.tokens.values():
        kept = tuple(s for s in token.scopes if s.resource not in names)
        if not kept:
            workspace.registry.remove(token.kind, [token.name])
        elif kept != token.scopes:
            workspace.registry.write(token.kind, {token.name: replace(token, scopes=kept).as_dict()})


def rows(workspace: Workspace, name: str) -> int:
    """Rows of a datasource's table in the workspace's own database."""
    result = workspace.warehouse.query(f"SELECT count() FROM {Name(workspace.name, name).sql()}")
    return int(result.rows[0][0])
