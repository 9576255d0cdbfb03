"""`materialize`: from a pipe to a target datasource, with schema and engine proposed from the SELECT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.compiler.build import Build
from engine.control.push import upstream
from engine.errors import AMBIGUOUS_NODE, BAD_NAME, TARGET_COLUMNS, TARGET_EXISTS, UNKNOWN_RESOURCE, RookeryError
from engine.project.fields import name_fault
from engine.project.model import Column, Datasource, Engine, Materialize, Pipe, Project, Tenant
from engine.project.write import render_datasource, update_pipe
from engine.workspace.snapshot import DeployedFile, parse_sources
from engine.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Proposal:
    """The files that `materialize` writes: the target's and the pipe's new form, with the engine's reason."""

    target: DeployedFile
    pipe: DeployedFile
    node: str
    reason: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "target": {"text": self.target.text, "file": self.target.file},
            "pipe": {"text": self.pipe.text, "file": self.pipe.file},
            "node": self.node,
            "reason": self.reason,
        }


def propose(
    workspace: Workspace,
    given: Mapping[str, DeployedFile],
    pipe_name: str,
    target: str,
    *,
    node: str | None = None,
    per_tenant: bool = False,
) -> Proposal:
    """Propose the target's schema and engine from a node's SELECT. Changes nothing.

    Raises RK3008 when several nodes could be meant, RK3011 when the target exists with other columns.
    """
    fault = name_fault(target)
    if fault:
        raise RookeryError(BAD_NAME, fault[0], hint=fault[1])
    with workspace.changes:
        snapshot = workspace.refresh()
        sources = {**snapshot.sources, **given}
        source = sources.get(pipe_name)
        project = parse_sources(sources)
        pipe = project.pipes.get(pipe_name)
        if pipe is None or source is None:
            raise RookeryError(UNKNOWN_RESOURCE, f"there is no pipe `{pipe_name}`", hint="rookery pipe ls")
        chosen = _node(pipe, node)
        # Compiled as an endpoint of that node, the pipe tells its output types without needing a target.
        trial = pipe.model_copy(
            update={"type": None, "materialize": None, "endpoint": None, "nodes": _upto(pipe, chosen)}
        )
        kept = upstream(
            Project(project.datasources, {**project.pipes, pipe_name: trial}),
            {pipe_name},
            snapshot.build.composer.verifier,
        )
        build = workspace.compile(
            Project(
                {n: d for n, d in project.datasources.items() if n in kept},
                {**{n: p for n, p in project.pipes.items() if n in kept}, pipe_name: trial},
            ),
            tolerated=None,
        )
    engine, tenant, reason = _engine(workspace, build, pipe_name, per_tenant)
    columns = _columns(build, pipe)
    proposed = Datasource(
        name=target,
        description=f"Filled by pipe {pipe_name}.",
        columns=columns,
        engine=engine,
        tenant=Tenant(column=tenant, landing=False) if tenant and per_tenant else None,
    )
    existing = project.datasources.get(target)
    text = _keep(existing, proposed) if existing else render_datasource(proposed)
    materialize = Materialize(target=target, node=chosen, per_tenant=per_tenant)
    updated = update_pipe(source.text, pipe_name, materialize, source.file)
    file = sources[target].file if target in sources else f"datasources/{target}.yaml"
    return Proposal(DeployedFile(text, file), DeployedFile(updated, source.file), chosen, reason)


def _columns(build: Build, pipe: Pipe) -> tuple[Column, ...]:
    """The target's columns. Raises RK2011 for an output whose name no column can have."""
    found = []
    for output in build.outputs[pipe.name]:
        try:
            found.append(Column(name=output.name, type=output.type))
        except ValueError as exc:
            message = f"pipe `{pipe.name}` outputs `{output.name[:80]}`, which cannot be the name of a column"
            hint = "give the output a name with AS"
            raise RookeryError(TARGET_COLUMNS, message, hint=hint, place=pipe.place) from exc
    return tuple(found)


def _keep(existing: Datasource, proposed: Datasource) -> str:
    have = {c.name: c.type.replace(" ", "") for c in existing.columns}
    want = {c.name: c.type.replace(" ", "") for c in proposed.columns}
    if have != want:
        differing = sorted(n for n in have.keys() | want.keys() if have.get(n) != want.get(n))
        raise RookeryError(
            TARGET_EXISTS,
            f"`{existing.name}` exists with other columns: {', '.join(differing)}",
            hint="choose another target, or remove it first",
            place=existing.place,
        )
    return existing.text or render_datasource(existing)


def _node(pipe: Pipe, node: str | None) -> str:
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


def _upto(pipe: Pipe, node: str) -> tuple[Any, ...]:
    position = [n.name for n in pipe.nodes].index(node)
    return pipe.nodes[: position + 1]


def _engine(workspace: Workspace, build: Build, pipe: str, per_tenant: bool) -> tuple[Engine, str | None, str]:
    """Engine and sorting key that suit a SELECT, with the reason."""
    outputs = [c.name for c in build.outputs[pipe]]
    compiled = build.pipes[pipe]
    tenants = sorted(
        {r.tenant for n in compiled.datasources if (r := build.relations[n]).tenant and r.tenant in outputs}
    )
    tenant = tenants[0] if tenants else None
    tree, _ = workspace.warehouse.parse(
        compiled.nodes[-1].static.canonical if compiled.nodes[-1].static else "SELECT 1"
    )
    select = tree["list_of_selects"]["children"][0]
    types = {c.name: c.type for c in build.outputs[pipe]}
    grouped = bool(select.get("group_by") or select.get("group_by_all"))
    if not grouped:
        key = _raw_key(build, compiled.datasources, outputs, tenant)
        return Engine(sorting_key=key), tenant, "rows are copied as they are"
    items = {_alias(c): c for c in select["select"]["children"]}
    summed = tuple(n for n, c in items.items() if n and _function(c) in {"sum", "count", "countIf", "sumIf"})
    states = [n for n in outputs if types[n].startswith(("AggregateFunction", "SimpleAggregateFunction"))]
    key = tuple(n for n in outputs if n not in summed and n not in states)
    ordered = (tenant, *(k for k in key if k != tenant)) if tenant in key else key
    if states:
        return Engine(type="AggregatingMergeTree", sorting_key=ordered), tenant, "aggregate states merge by group"
    if summed:
        return Engine(type="SummingMergeTree", sorting_key=ordered, columns=summed), tenant, "sums add up by group"
    return Engine(sorting_key=ordered), tenant, "grouped rows; use -State functions to merge them over time"


def _raw_key(build: Build, datasources: frozenset[str], outputs: list[str], tenant: str | None) -> tuple[str, ...]:
    for name in sorted(datasources):
        key = tuple(k for k in build.datasources[name].sorting_key if k in outputs)
        if key:
            return key
    return (tenant,) if tenant else (outputs[0],)


def _alias(node: Mapping[str, Any]) -> str:
    return str(node.get("alias") or node.get("name") or "").rsplit(".", 1)[-1]


def _function(node: Mapping[str, Any]) -> str:
    return str(node.get("name")) if node.get("type") == "Function" else ""
