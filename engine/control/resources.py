"""Deployed resources: listing, showing and removing them."""

from __future__ import annotations

from typing import Any

from engine.compiler.build import Build, parameters_of
from engine.control.push import plan_for, run
from engine.errors import DEPENDENTS, UNKNOWN_RESOURCE, RookeryError
from engine.fanout.modes import reconcile_modes
from engine.plan.steps import Plan
from engine.schema import Name
from engine.tokens import StaticToken
from engine.warehouse.catalog import load_tables_named
from engine.workspace.snapshot import DeployedFile, Snapshot, parse_sources
from engine.workspace.workspace import Workspace


def datasources(workspace: Workspace) -> list[dict[str, Any]]:
    """All datasources with their columns, keys and rows, those of per-tenant targets in all placements."""
    snapshot = workspace.refresh()
    build = snapshot.build
    sizes: dict[str, Size] = {**dict.fromkeys(build.datasources, (0, 0)), **_sizes(workspace, [workspace.name])}
    targets = [n for n, r in build.relations.items() if r.kind == "target"]
    nests = [t.nest(workspace.name) for t in snapshot.tenants.values() if t.state == "ready"]
    own = [n for n in nests if n is not None]
    if own and len(own) > workspace.settings.max_nests:
        sizes.update(dict.fromkeys(targets, (None, None)))
    elif own and targets:
        load_tables_named(workspace.warehouse, workspace.name, targets)
        together = _sizes(workspace, [workspace.name, *own])
        sizes.update({n: together.get(n, (0, 0)) for n in targets})
    return [_datasource(build, name, sizes[name]) for name in sorted(build.datasources)]


Size = tuple[int | None, int | None]
"""Rows and bytes; None where they would be in too many tables to look at."""


def _sizes(workspace: Workspace, databases: list[str]) -> dict[str, Size]:
    """The size of all tables of one name in some databases."""
    found = workspace.warehouse.query(
        "SELECT name, sum(ifNull(total_rows, 0)), sum(ifNull(total_bytes, 0)) FROM system.tables "
        "WHERE database IN {databases:Array(String)} GROUP BY name",
        {"databases": [*databases]},
    )
    return {str(n): (int(r), int(b)) for n, r, b in found.rows}


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
    """All pipes with their nodes, parameters and targets."""
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
    """One resource with its source text. Raises RK3007."""
    found = next((r for r in (datasources if kind == "datasource" else pipes)(workspace) if r["name"] == name), None)
    if found is None:
        raise RookeryError(UNKNOWN_RESOURCE, f"there is no {kind} `{name}`", hint=f"rookery {kind} ls")
    source = workspace.current.sources.get(name)
    return {**found, "file": source.file if source else None, "content": source.text if source else None}


def dependents(build: Build, name: str) -> list[str]:
    """Everything that stands on a resource, nearest first: pipes that read or fill it, and what stands on them."""
    found: list[str] = []
    pending = [name]
    while pending:
        current = pending.pop(0)
        for other in sorted(build.pipes):
            pipe = build.pipes[other]
            fills = pipe.target is not None and pipe.target.name == current
            if (current in pipe.reads or fills) and other not in found and other != name:
                found.append(other)
                pending.append(other)
        pipe_here = build.pipes.get(current)
        if pipe_here and pipe_here.target and pipe_here.target.name not in build.project.datasources:
            target = pipe_here.target.name
            if target not in found and target != name:
                found.append(target)
                pending.append(target)
    return found


def remove(workspace: Workspace, kind: str, name: str, *, force: bool = False, dry_run: bool = False) -> list[str]:
    """Remove a resource, views before tables; with `force` also everything that stands on it. Returns the names.

    Raises RK3007 when it does not exist and RK3003 when others stand on it.
    """
    with workspace.changes:
        snapshot = workspace.refresh()
        known = snapshot.build.datasources if kind == "datasource" else snapshot.build.pipes
        if name not in known:
            raise RookeryError(UNKNOWN_RESOURCE, f"there is no {kind} `{name}`", hint=f"rookery {kind} ls")
        standing = dependents(snapshot.build, name)
        readers = [n for n in standing if n in snapshot.build.pipes]
        if readers and not force and not dry_run:
            raise RookeryError(
                DEPENDENTS,
                f"`{name}` is used by {', '.join(f'`{n}`' for n in readers)}",
                hint="remove those first, or all together with --force",
            )
        gone = [name, *standing]
        if dry_run:
            return gone
        _take_out(workspace, snapshot, gone)
        return gone


def _take_out(workspace: Workspace, snapshot: Snapshot, gone: list[str]) -> None:
    sources: dict[str, DeployedFile] = {n: s for n, s in snapshot.sources.items() if n not in gone}
    compiled = workspace.compile(parse_sources(sources), tolerated=None)
    _forget_tokens(workspace, snapshot, gone)
    workspace.registry.remove("resource", [n for n in gone if n in snapshot.sources])
    plan = plan_for(workspace, snapshot, compiled, prune=True)
    run(workspace, Plan(tuple(s for s in plan.steps if s.resource in gone)))
    reconcile_modes(workspace, workspace.refresh().build)


def _forget_tokens(workspace: Workspace, snapshot: Snapshot, gone: list[str]) -> None:
    """Tokens lose the scopes that name what is gone; a token without scopes goes too."""
    for token in snapshot.tokens.values():
        kept = tuple(s for s in token.scopes if s.resource not in gone)
        if not kept:
            workspace.registry.remove("token", [token.name])
        elif kept != token.scopes:
            narrowed = StaticToken(token.name, kept, token.tenant, token.nonce, token.origin)
            workspace.registry.write("token", {token.name: narrowed.as_dict()})


def rows(workspace: Workspace, name: str) -> int:
    """Rows of a datasource's table in the workspace's own database."""
    found = workspace.warehouse.query(f"SELECT count() FROM {Name(workspace.name, name).sql()}")
    return int(found.rows[0][0])
