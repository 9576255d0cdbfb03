"""`materialize`: proposes the target datasource of a pipe, with columns and engine derived from its SELECT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.compiler.build import Build
from engine.control.pushed_files import tolerated, upstream
from engine.errors import (
    AMBIGUOUS_NODE,
    BAD_NAME,
    TARGET_COLUMNS,
    TARGET_EXISTS,
    UNKNOWN_RESOURCE,
    RookeryError,
    did_you_mean,
)
from engine.project.datasource import Column, Datasource, Engine, Tenant
from engine.project.fields import name_fault
from engine.project.model import Project
from engine.project.pipe import Materialize, Pipe
from engine.project.write import render_datasource, update_pipe
from engine.workspace.snapshot import DeployedFile, Snapshot, parse_sources
from engine.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class MaterializeRequest:
    """Which pipe to materialize, and into which datasource."""

    pipe: str
    target: str
    node: str | None = None
    """The node whose result is stored."""
    per_tenant: bool = False
    """Whether the target exists once for each tenant."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """The files that `rookery materialize` writes."""

    target: DeployedFile
    pipe: DeployedFile
    node: str
    reason: str
    """Why the target has its engine."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "target": {"text": self.target.text, "file": self.target.file},
            "pipe": {"text": self.pipe.text, "file": self.pipe.file},
            "node": self.node,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class _Storage:
    """How the target stores the rows of a SELECT."""

    engine: Engine
    tenant: str | None
    """The output that contains the tenant's id, if there is one."""
    reason: str
    """Why the engine suits the rows."""


def propose(workspace: Workspace, files: Mapping[str, DeployedFile], request: MaterializeRequest) -> Proposal:
    """Propose the target's columns and engine from a node's SELECT. Changes nothing.

    `files` are the caller's files, over the deployed ones. Raises RK3007 for an unknown pipe, RK3008 if several nodes
    are possible, and RK3011 if the target exists with other columns.
    """
    fault = name_fault(request.target)
    if fault:
        raise RookeryError(BAD_NAME, fault[0], hint=fault[1])
    with workspace.changes:
        snapshot = workspace.refresh()
        sources = {**snapshot.sources, **files}
        source = sources.get(request.pipe)
        project = parse_sources(sources)
        pipe = project.pipes.get(request.pipe)
        if pipe is None or source is None:
            hint = did_you_mean(request.pipe, project.pipes, "rookery pipe ls")
            raise RookeryError(UNKNOWN_RESOURCE, f"there is no pipe `{request.pipe}`", hint=hint)
        node = _node(pipe, request.node)
        trial = _trial(snapshot, project, pipe, node)
        # What is deployed was accepted before there were some of the limits.
        deployed = {n: f.text for n, f in snapshot.sources.items()}
        changed = any(sources[n].text != deployed.get(n) for n in (*trial.datasources, *trial.pipes))
        build = workspace.compile(trial, tolerated=tolerated(snapshot, sources) if changed else None)
    storage = _storage(workspace, build, pipe.name)
    proposed = Datasource(
        name=request.target,
        description=f"Filled by pipe {pipe.name}.",
        columns=_columns(build, pipe),
        engine=storage.engine,
        tenant=Tenant(column=storage.tenant, landing=False) if storage.tenant and request.per_tenant else None,
    )
    existing = project.datasources.get(request.target)
    text = _existing_text(existing, proposed) if existing else render_datasource(proposed)
    materialize = Materialize(target=request.target, node=node, per_tenant=request.per_tenant)
    updated = update_pipe(source.text, pipe.name, materialize, source.file)
    file = sources[request.target].file if request.target in sources else f"datasources/{request.target}.yaml"
    return Proposal(DeployedFile(text, file), DeployedFile(updated, source.file), node, storage.reason)


def _trial(snapshot: Snapshot, project: Project, pipe: Pipe, node: str) -> Project:
    """The pipe as an endpoint for one node, with everything that it reads, to find its outputs without a target."""
    trial = pipe.model_copy(
        update={"type": None, "materialize": None, "endpoint": None, "nodes": _nodes_until(pipe, node)}
    )
    needed = upstream(
        Project(project.datasources, {**project.pipes, pipe.name: trial}),
        {pipe.name},
        snapshot.build.composer.verifier,
    )
    return Project(
        {n: d for n, d in project.datasources.items() if n in needed},
        {**{n: p for n, p in project.pipes.items() if n in needed}, pipe.name: trial},
    )


def _columns(build: Build, pipe: Pipe) -> tuple[Column, ...]:
    """The target's columns. Raises RK2011 for an output whose name is not valid for a column."""
    columns = []
    for output in build.outputs[pipe.name]:
        try:
            columns.append(Column(name=output.name, type=output.type))
        except ValueError as exc:
            message = f"pipe `{pipe.name}` outputs `{output.name[:80]}`, which cannot be the name of a column"
            hint = "give the output a name with AS"
            raise RookeryError(TARGET_COLUMNS, message, hint=hint, place=pipe.place) from exc
    return tuple(columns)


def _existing_text(existing: Datasource, proposed: Datasource) -> str:
    """The contents of an existing target's file. Raises RK3011 if its columns differ from the proposed ones."""
    # Authors may write a type with other spaces than the engine.
    present = {c.name: c.type.replace(" ", "") for c in existing.columns}
    wanted = {c.name: c.type.replace(" ", "") for c in proposed.columns}
    if present != wanted:
        differing = sorted(n for n in present.keys() | wanted.keys() if present.get(n) != wanted.get(n))
        raise RookeryError(
            TARGET_EXISTS,
            f"`{existing.name}` exists with other columns: {', '.join(differing)}",
            hint="choose another target, or remove it first",
            place=existing.place,
        )
    return existing.text or render_datasource(existing)


def _node(pipe: Pipe, node: str | None) -> str:
    """The node to materialize: the requested, the declared or the only one. Raises RK3008."""
    names = [n.name for n in pipe.nodes]
    if node is not None:
        if node not in names:
            raise RookeryError(AMBIGUOUS_NODE, f"pipe `{pipe.name}` has no node `{node}`", hint=", ".join(names))
        return node
    if pipe.materialize and pipe.materialize.node:
        return pipe.materialize.node
    if len(names) > 1:
        raise RookeryError(
            AMBIGUOUS_NODE, f"pipe `{pipe.name}` has several nodes: {', '.join(names)}", hint="--node NAME"
        )
    return names[0]


def _nodes_until(pipe: Pipe, node: str) -> tuple[Any, ...]:
    """A node with all nodes before it, which it may read."""
    position = [n.name for n in pipe.nodes].index(node)
    return pipe.nodes[: position + 1]


def _storage(workspace: Workspace, build: Build, pipe: str) -> _Storage:
    """The engine and sorting key that suit a pipe's last SELECT."""
    outputs = [c.name for c in build.outputs[pipe]]
    compiled = build.pipes[pipe]
    relations = [build.relations[n] for n in compiled.datasources]
    tenant = min((r.tenant for r in relations if r.tenant and r.tenant in outputs), default=None)
    sql = compiled.nodes[-1].static.canonical if compiled.nodes[-1].static else "SELECT 1"
    select = workspace.warehouse.parse(sql)[0]["list_of_selects"]["children"][0]
    if not (select.get("group_by") or select.get("group_by_all")):
        key = _raw_key(build, compiled.datasources, outputs, tenant)
        return _Storage(Engine(sorting_key=key), tenant, "rows are copied unchanged")
    types = {c.name: c.type for c in build.outputs[pipe]}
    items = {_alias(c): c for c in select["select"]["children"]}
    # Sums of sums are correct, so a merge may add them up. This is not true of averages and maximums, for example.
    summed = tuple(n for n, c in items.items() if n and _function(c) in {"sum", "count", "countIf", "sumIf"})
    states = [n for n in outputs if types[n].startswith(("AggregateFunction", "SimpleAggregateFunction"))]
    key = tuple(n for n in outputs if n not in summed and n not in states)
    # The tenant first: every query reads one tenant, and skips the granules of all others.
    ordered = (tenant, *(k for k in key if k != tenant)) if tenant in key else key
    if states:
        engine = Engine(type="AggregatingMergeTree", sorting_key=ordered)
        return _Storage(engine, tenant, "aggregate states merge by group")
    if summed:
        engine = Engine(type="SummingMergeTree", sorting_key=ordered, columns=summed)
        return _Storage(engine, tenant, "sums add up by group")
    return _Storage(Engine(sorting_key=ordered), tenant, "grouped rows; use -State functions to merge them over time")


def _raw_key(build: Build, datasources: frozenset[str], outputs: list[str], tenant: str | None) -> tuple[str, ...]:
    """The sorting key of the first source some of whose key columns are outputs; otherwise the tenant column or any
    output.
    """
    for name in sorted(datasources):
        key = tuple(k for k in build.datasources[name].sorting_key if k in outputs)
        if key:
            return key
    return (tenant,) if tenant else (outputs[0],)


def _alias(node: Mapping[str, Any]) -> str:
    """The name of an output in the engine's syntax tree, without a table; empty if it has none."""
    return str(node.get("alias") or node.get("name") or "").rsplit(".", 1)[-1]


def _function(node: Mapping[str, Any]) -> str:
    """The name of the function, if an output is a function call; otherwise empty."""
    return str(node.get("name")) if node.get("type") == "Function" else ""
