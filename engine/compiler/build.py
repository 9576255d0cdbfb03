"""The compiler: a checked project becomes a `Build`, an immutable value that everything later reads.

`build()` is a list of passes over the project; the engine's parser and analyser are handed in, so that the
compiler itself touches no database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from engine.compiler import storage
from engine.compiler.compose import Composer, Verifier
from engine.compiler.definitions import Definer, check_definition
from engine.compiler.lineage import check_lineage, named
from engine.compiler.params import ParameterSpec, Value
from engine.compiler.pipes import VARIANTS, CompiledNode, CompiledPipe, MaterializedTarget, compile_pipe
from engine.compiler.scope import Relation, Scope
from engine.compiler.template import Binder, Template
from engine.errors import (
    CYCLE,
    SQL_SEMANTICS,
    TARGET_COLUMNS,
    TENANT_KEY,
    TENANT_MIX,
    TENANT_OUTPUT,
    UNKNOWN_TABLE,
    VIEW_SHAPE,
    Collector,
    Place,
    RookeryError,
)
from engine.project.model import Column as SourceColumn
from engine.project.model import Datasource, Project, Tenant
from engine.schema import Column, Table


def scratch_database(workspace: str) -> str:
    """The database in which pipes are analysed over empty tables."""
    return f"{workspace}_scratch"


class Analyser(Definer, Protocol):
    """What the compiler asks of an engine about types."""

    def describe(self, sql: str, bindings: Mapping[str, Value], tables: Iterable[Table]) -> tuple[Column, ...]:
        """Output columns of a SELECT over empty tables that are created for it in the scratch database."""
        ...


@dataclass(frozen=True, slots=True)
class Build:
    """What a project means: relations, compiled pipes and the order of data flow. Never changed, only replaced."""

    workspace: str
    project: Project
    relations: Mapping[str, Relation]
    datasources: Mapping[str, Datasource]
    pipes: Mapping[str, CompiledPipe]
    order: tuple[str, ...]
    composer: Composer
    warnings: tuple[RookeryError, ...] = ()
    outputs: Mapping[str, tuple[Column, ...]] = field(default_factory=dict)

    @property
    def endpoints(self) -> dict[str, CompiledPipe]:
        return {n: p for n, p in self.pipes.items() if p.kind == "endpoint"}

    def takes(self, name: str) -> bool:
        """Whether a datasource takes rows from outside: no pipe fills it."""
        return all(p.target is None or p.target.name != name for p in self.pipes.values())

    def reaches_nests(self, name: str) -> bool:
        """Whether a landing datasource's rows are brought into nests, for a copy or for what is made there."""
        relation = self.relations[name]
        targets = (p.target for p in self.pipes.values() if p.target is not None and p.target.per_tenant)
        return relation.kind == "landing" and (relation.in_nest or any(name in t.triggers for t in targets))

    def materialized(self) -> list[CompiledPipe]:
        """Materialized pipes, sources before what is derived from them."""
        return [self.pipes[n] for n in self.order if n in self.pipes and self.pipes[n].target]


def build(
    project: Project, workspace: str, verifier: Verifier, analyser: Analyser, *, told: frozenset[str] = frozenset()
) -> Build:
    """Compile a project. Raises `Problems` with everything that is wrong.

    `told` are resources whose problems have been told already: they and what stands on them are passed over.
    """
    state = _State(project, workspace, analyser, Composer(verifier), failed=set(told))
    for compile_pass in (_relations, _definitions, _pipes, _order, _analyse):
        compile_pass(state)
    state.problems.raise_if_any()
    return Build(
        workspace,
        project,
        dict(state.relations),
        dict(state.datasources),
        dict(state.pipes),
        tuple(state.order),
        state.composer,
        tuple(state.warnings),
        dict(state.outputs),
    )


@dataclass(slots=True)
class _State:
    project: Project
    workspace: str
    analyser: Analyser
    composer: Composer
    problems: Collector = field(default_factory=Collector)
    failed: set[str] = field(default_factory=set)
    warnings: list[RookeryError] = field(default_factory=list)
    relations: dict[str, Relation] = field(default_factory=dict)
    datasources: dict[str, Datasource] = field(default_factory=dict)
    pipes: dict[str, CompiledPipe] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    outputs: dict[str, tuple[Column, ...]] = field(default_factory=dict)


def _relations(state: _State) -> None:
    """Every datasource file becomes a relation; targets of per-tenant pipes are marked as such."""
    targets = {p.materialize.target: p.materialize for p in state.project.pipes.values() if p.materialize}
    for name, source in state.project.datasources.items():
        target = targets.get(name)
        state.datasources[name] = source
        state.relations[name] = storage.relation(
            source,
            target_of_tenants=bool(target and target.per_tenant),
            drop_tenant=bool(target and target.per_tenant and target.drop_tenant_column),
        )


def _definitions(state: _State) -> None:
    """Types and expressions of datasources are judged, and the engine asked whether such a table can be."""
    for name, source in state.datasources.items():
        if name in state.failed:
            continue
        table = _scratch_table(state, name)
        for problem in check_definition(source, table, state.composer.verifier, state.analyser):
            state.problems.add(problem)
            state.failed.add(name)


def _pipes(state: _State) -> None:
    """Templates are compiled, and every text that they can become is parsed alone and verified."""
    implicit = {p.materialize.target for p in state.project.pipes.values() if p.materialize}
    names = frozenset(state.project.datasources) | frozenset(state.project.pipes) | implicit
    columns = frozenset(c for r in state.relations.values() for c in r.columns)
    for name, pipe in state.project.pipes.items():
        try:
            state.pipes[name] = compile_pipe(pipe, names, columns, state.composer.verifier)
        except RookeryError as exc:
            if name not in state.failed:
                state.problems.add(exc)
            state.failed |= {name} | ({pipe.materialize.target} if pipe.materialize else set())


def _order(state: _State) -> None:
    """Resources in order of data flow; a circle is an error that names its members."""
    feeds: dict[str, set[str]] = {n: set() for n in state.datasources}
    for name, pipe in state.pipes.items():
        feeds.setdefault(name, set()).update(pipe.reads)
        if pipe.target:
            feeds.setdefault(pipe.target.name, set()).add(name)
    done: dict[str, bool] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if done.get(name):
            return
        if name in path:
            members = path[path.index(name) :]
            place = next((state.pipes[m].place for m in members if m in state.pipes), None)
            if not state.failed.issuperset(members):
                circle = " → ".join((*members, name))
                state.problems.add(RookeryError(CYCLE, f"these depend on each other: {circle}", place=place))
            state.failed.update(members)
            return
        for other in sorted(feeds.get(name, ())):
            visit(other, (*path, name))
        done[name] = True
        state.order.append(name)

    for name in sorted(feeds):
        visit(name, ())


def _analyse(state: _State) -> None:
    """Each pipe's output types are asked of the engine, in order, and held against its target."""
    for name in state.order:
        if name not in state.pipes:
            continue
        pipe = state.pipes[name]
        target = {pipe.target.name} if pipe.target else set()
        if state.failed & ({name} | pipe.reads | target):
            # What it stands on is wrong and has been told; its own troubles would only follow from that.
            state.failed |= {name} | target
            continue
        try:
            state.outputs[name] = _outputs(state, pipe)
            if pipe.target:
                _fit_target(state, pipe, pipe.target)
            _narrow_identifiers(state, pipe)
            _guard_tenant_keys(state, pipe)
        except RookeryError as exc:
            state.failed |= {name} | target
            state.problems.add(exc)


def _outputs(state: _State, pipe: CompiledPipe) -> tuple[Column, ...]:
    """Output columns of the published node; every node is analysed in every sample, so that errors have a place."""
    found: tuple[Column, ...] = ()
    for node in pipe.needed():
        for variant in VARIANTS if pipe.varies else VARIANTS[:1]:
            try:
                found = _describe(state, pipe, node.name, variant)
            except RookeryError as exc:
                raise _located(exc, pipe, node) from exc
    return found


def _describe(state: _State, pipe: CompiledPipe, node: str, variant: int) -> tuple[Column, ...]:
    def sample(template: Template, binder: Binder, columns: frozenset[str]) -> str:
        return template.sample(variant, binder, columns)

    scope = Scope(scratch_database(state.workspace), unrestricted=True)
    composed = state.composer.request(state, pipe.name, sample, scope, upto=node)
    tables = [_scratch_table(state, n) for n in sorted(composed.relations)]
    return state.analyser.describe(composed.sql, composed.bindings, tables)


def _located(exc: RookeryError, pipe: CompiledPipe, node: CompiledNode) -> RookeryError:
    place = Place(node.place.file, node.place.line, node.place.column, f"pipe `{pipe.name}`, node `{node.name}`")
    return RookeryError(SQL_SEMANTICS, exc.message, hint=exc.hint, place=place, detail=exc.detail)


def _scratch_table(state: _State, name: str) -> Table:
    source = state.datasources[name]
    return storage.workspace_table(source, scratch_database(state.workspace))


def _fit_target(state: _State, pipe: CompiledPipe, target: MaterializedTarget) -> None:
    outputs = {c.name: c for c in state.outputs[pipe.name]}
    source = state.datasources.get(target.name)
    if source is None:
        source = _implicit_target(state, pipe, target)
    trigger = _triggers(state, pipe)
    if target.per_tenant:
        source = _tenant_target(state, pipe, target, source, trigger, outputs)
    elif source.tenant_column is not None:
        _must_keep_tenants_apart(state, pipe, source.tenant_column)
    missing = [c.name for c in source.columns if c.name not in outputs and not c.default]
    extra = [n for n in outputs if n not in {c.name for c in source.columns}]
    if extra and not missing and _by_star(state, pipe, extra):
        state.warnings.append(_left_out(pipe, target, extra))
    elif missing or extra:
        names = ", ".join(f"`{n}`" for n in missing or extra)
        verb = "does not output" if missing else "outputs"
        raise RookeryError(
            TARGET_COLUMNS,
            f"pipe `{pipe.name}` {verb} {names}, which target `{target.name}` {'needs' if missing else 'lacks'}",
            hint="give the output the target's column names with AS, or change the target's columns",
            place=pipe.place,
        )
    state.datasources[target.name] = source
    state.relations[target.name] = storage.relation(
        source, target_of_tenants=target.per_tenant, drop_tenant=target.drop_tenant_column
    )
    selected = tuple(c.name for c in source.columns if c.name in outputs)
    state.pipes[pipe.name] = replace(pipe, target=replace(target, columns=selected, triggers=trigger))


def _by_star(state: _State, pipe: CompiledPipe, names: list[str]) -> bool:
    """Whether a `*` puts out these columns: what a datasource has gained since must not break who reads it."""
    read = {c for d in _datasources_of(state, pipe.name, set()) for c in state.relations[d].columns}
    return pipe.published_text().outputs is None and read.issuperset(names)


def _left_out(pipe: CompiledPipe, target: MaterializedTarget, names: list[str]) -> RookeryError:
    listed = ", ".join(f"`{n}`" for n in names)
    return RookeryError(
        TARGET_COLUMNS,
        f"pipe `{pipe.name}` selects {listed} by `*`, which target `{target.name}` lacks; it stays without",
        hint="add the column to the target to have it there, or name the pipe's columns instead of `*`",
        place=pipe.place,
    )


def _triggers(state: _State, pipe: CompiledPipe) -> tuple[str, ...]:
    """The datasource whose inserts fire each branch of the view: the left-most table, chased through nodes."""
    found = []
    for leftmost in pipe.published_text().branch_leftmost:
        name = _chase(state, pipe, leftmost)
        if name is None or (name not in state.project.datasources and name not in state.datasources):
            raise RookeryError(
                VIEW_SHAPE,
                f"pipe `{pipe.name}` cannot be a materialized view: its first table is not a datasource",
                hint="a view fires on inserts into the left-most table of its FROM; put the datasource there",
                place=pipe.place,
            )
        found.append(name)
    return tuple(found)


def _chase(state: _State, pipe: CompiledPipe, name: str | None) -> str | None:
    while name is not None and name not in state.datasources:
        node = pipe.node(name)
        if node is not None:
            text = node.static
        elif name in state.pipes:
            pipe = state.pipes[name]
            text = pipe.published_text() if pipe.published else None
        else:
            return None
        if text is None or len(text.branch_leftmost) != 1:
            return None
        name = text.branch_leftmost[0]
    return name


def _implicit_target(state: _State, pipe: CompiledPipe, target: MaterializedTarget) -> Datasource:
    if target.engine is None:
        raise RookeryError(
            UNKNOWN_TABLE,
            f"target `{target.name}` of pipe `{pipe.name}` is not declared",
            hint=f"write datasources/{target.name}.yaml, or give the pipe's `materialize` an `engine`",
            place=pipe.place,
        )
    columns = []
    for output in state.outputs[pipe.name]:
        try:
            columns.append(SourceColumn(name=output.name, type=output.type))
        except ValueError as exc:
            raise RookeryError(
                TARGET_COLUMNS,
                f"pipe `{pipe.name}` outputs `{output.name[:80]}`, which cannot be the name of a column",
                hint="give the output a name with AS",
                place=pipe.place,
            ) from exc
    return Datasource(name=target.name, columns=tuple(columns), engine=target.engine)


def _tenant_target(
    state: _State,
    pipe: CompiledPipe,
    target: MaterializedTarget,
    source: Datasource,
    triggers: tuple[str, ...],
    outputs: Mapping[str, Column],
) -> Datasource:
    """A per-tenant target carries the tenant column of what feeds it, first in its sorting key."""
    columns = {state.relations[t].tenant for t in triggers}
    tenant = next(iter(columns)) if len(columns) == 1 else None
    if tenant is None:
        raise RookeryError(
            TENANT_OUTPUT,
            f"per-tenant pipe `{pipe.name}` reads `{triggers[0]}`, which has no tenant column of one name",
            hint="a per-tenant pipe starts from a landing datasource or another per-tenant target",
            place=pipe.place,
        )
    if tenant not in outputs:
        raise RookeryError(
            TENANT_OUTPUT,
            f"per-tenant pipe `{pipe.name}` must output the tenant column `{tenant}`",
            hint=f"add `{tenant}` to the SELECT (and to its GROUP BY); `drop_tenant_column: true` hides it later",
            place=pipe.place,
        )
    _must_keep_tenants_apart(state, pipe, tenant)
    if source.sorting_key[:1] != (tenant,):
        raise RookeryError(
            TENANT_OUTPUT,
            f"target `{target.name}` must have `{tenant}` first in its sorting key",
            hint=f"sorting_key: [{', '.join((tenant, *(k for k in source.sorting_key if k != tenant)))}]",
            place=source.place,
        )
    return source.model_copy(update={"tenant": Tenant(column=tenant, landing=False)})


def _must_keep_tenants_apart(state: _State, pipe: CompiledPipe, tenant: str) -> None:
    """Refuse a pipe into a datasource with a tenant column unless rows keep their tenant. Raises RK2013."""
    reads = _datasources_of(state, pipe.name, set())
    if not any(state.relations[n].tenant for n in reads):
        return
    names = {c for n in reads for c in state.relations[n].columns} | _named_in(state, pipe, set())
    if not _keeps_tenants_apart(state, pipe, tenant, {}, frozenset(names)):
        message = f"pipe `{pipe.name}` fills a datasource of tenants with rows that have lost theirs"
        raise RookeryError(TENANT_MIX, message, hint="read the datasource first in FROM", place=pipe.place)


def _named_in(state: _State, pipe: CompiledPipe, seen: set[str]) -> set[str]:
    """Every name that a pipe, or one that it reads, gives to a value."""
    found: set[str] = set()
    for node in pipe.needed():
        if node.static is not None:
            found |= named(state.composer.verifier.tree(node.static.canonical))
        for read in sorted(node.reads & frozenset(state.pipes) - seen):
            seen.add(read)
            found |= _named_in(state, state.pipes[read], seen)
    return found


def _keeps_tenants_apart(
    state: _State, pipe: CompiledPipe, tenant: str, known: dict[str, bool], names: frozenset[str]
) -> bool:
    """Whether a pipe's output holds tenants' rows; each node is proved to keep them apart. Raises RK2013."""
    bearing = {n for n, r in state.relations.items() if r.tenant == tenant}
    for node in pipe.needed():
        for read in sorted(node.reads & frozenset(state.relations)):
            other = state.relations[read].tenant
            if other not in (None, tenant):
                message = f"`{read}` names its tenants `{other}`, not `{tenant}`"
                hint = "datasources that are read together have one tenant column"
                raise RookeryError(TENANT_MIX, message, hint=hint, place=node.place)
        for read in node.reads & frozenset(state.pipes):
            if read not in known:
                known[read] = _keeps_tenants_apart(state, state.pipes[read], tenant, known, names)
            bearing |= {read} if known[read] else set()
        if node.static is None:
            raise RookeryError(
                VIEW_SHAPE, f"node `{node.name}` is a template, which a view cannot be", place=node.place
            )
        try:
            tree = state.composer.verifier.tree(node.static.canonical)
            holds = check_lineage(tree, tenant, frozenset(bearing), names)
        except RookeryError as exc:
            place = Place(
                node.place.file, node.place.line, node.place.column, f"pipe `{pipe.name}`, node `{node.name}`"
            )
            raise RookeryError(exc.code, exc.message, hint=exc.hint, place=place) from exc
        bearing |= {node.name} if holds else set()
    return pipe.published in bearing


def _narrow_identifiers(state: _State, pipe: CompiledPipe) -> None:
    """Identifiers in templates may only be columns of the datasources that the pipe reads."""
    reads = _datasources_of(state, pipe.name, set())
    columns = frozenset(c for n in reads for c in state.relations[n].columns)
    pipe = state.pipes[pipe.name]
    state.pipes[pipe.name] = replace(pipe, columns=columns, datasources=frozenset(reads))


def _datasources_of(state: _State, name: str, seen: set[str]) -> set[str]:
    found: set[str] = set()
    for read in state.pipes[name].reads:
        if read in state.relations:
            found.add(read)
        elif read in state.pipes and read not in seen:
            found |= _datasources_of(state, read, seen | {read})
    return found


def _guard_tenant_keys(state: _State, pipe: CompiledPipe) -> None:
    """A parameter compared with the tenant column but not declared as tenant key is a trap; say so."""
    tenants = {r.tenant for n in state.pipes[pipe.name].datasources if (r := state.relations[n]).tenant}
    for parameter in pipe.parameters:
        if parameter.name in tenants and not parameter.tenant_key:
            state.warnings.append(
                RookeryError(
                    TENANT_KEY,
                    f"parameter `{parameter.name}` of pipe `{pipe.name}` selects the tenant but no token must fix it",
                    hint="declare it under `parameters` with `tenant_key: true`, or drop it: tokens carry the tenant",
                    place=pipe.place,
                )
            )


def declared_of(pipes: Mapping[str, CompiledPipe], name: str) -> tuple[ParameterSpec, ...]:
    """Parameters that a pipe's file, or that of a pipe that it reads, declares; the outer declaration wins."""
    declared = {n for p in _closure(pipes, name) for n in pipes[p].declared}
    return tuple(s for s in parameters_of(pipes, name) if s.name in declared)


def parameters_of(pipes: Mapping[str, CompiledPipe], name: str) -> tuple[ParameterSpec, ...]:
    """Parameters of a pipe and of every pipe that it reads; the outer declaration wins."""
    found: dict[str, ParameterSpec] = {}
    for pipe in _closure(pipes, name):
        for spec in pipes[pipe].parameters:
            known = found.get(spec.name)
            if known is None or (spec.name in pipes[pipe].declared and not known.explicit):
                found[spec.name] = spec
    return tuple(found.values())


def _closure(pipes: Mapping[str, CompiledPipe], name: str) -> list[str]:
    """A pipe and the pipes that it reads, nearest first."""
    found: list[str] = []
    pending = [name]
    while pending:
        current = pending.pop(0)
        if current not in found and current in pipes:
            found.append(current)
            pending.extend(sorted(pipes[current].reads))
    return found
