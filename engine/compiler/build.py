"""The compiler: a checked project becomes a `Build`, an immutable value that everything later reads.

`build()` is a list of passes over the project; the engine's parser and analyser are handed in, so that the
compiler itself touches no database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from engine.compiler import storage
from engine.compiler.build_state import Analyser, BuildState, Undeclared, datasources_of, scratch_shape
from engine.compiler.compose import Composer, Verifier
from engine.compiler.declared_parameters import questionable
from engine.compiler.definitions import canonical_type, check_definition
from engine.compiler.dry_run import DryRun, UncheckedError, all_given, identifiers_of, none_given, specs_of
from engine.compiler.error_location import locate
from engine.compiler.lasting import short_lived
from engine.compiler.pipes import CompiledPipe, compile_pipe, placed
from engine.compiler.scope import Relation
from engine.compiler.sharing import warn_of_one_tenants_rows
from engine.compiler.targets import fit_target
from engine.errors import (
    CYCLE,
    TENANT_KEY,
    RookeryError,
)
from engine.project.model import Datasource, Node, Project
from engine.schema import Column
from engine.template.parameters import ParameterSpec


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
    undeclared: tuple[Undeclared, ...] = ()
    """Pipes that were deployed before what they do had to be declared."""

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

    def landings_of(self, name: str) -> frozenset[str]:
        """The datasources that take rows from outside and from which a datasource's rows come, through any pipes.

        A datasource that the build does not know may have rows of any of them.
        """
        if name not in self.relations:
            return frozenset(self.relations)
        found: set[str] = set()
        seen, waiting = {name}, [name]
        while waiting:
            at = waiting.pop()
            if self.takes(at):
                found.add(at)
            targets = [p.target for p in self.pipes.values() if p.target is not None and p.target.name == at]
            fresh = {trigger for target in targets for trigger in target.triggers} - seen
            seen |= fresh
            waiting += fresh
        return frozenset(found)

    def materialized(self) -> list[CompiledPipe]:
        """Materialized pipes, sources before what is derived from them."""
        return [self.pipes[n] for n in self.order if n in self.pipes and self.pipes[n].target]


def build(
    project: Project,
    workspace: str,
    verifier: Verifier,
    analyser: Analyser,
    *,
    told: frozenset[str] = frozenset(),
    tolerated: frozenset[str] | None = frozenset(),
) -> Build:
    """Compile a project. Raises `Problems` with everything that is wrong.

    `told` are resources whose problems have been reported already: they and what stands on them are passed over.
    `tolerated` are pipes that may share tenants' rows undeclared, because they are deployed like this; None for all.
    """
    state = BuildState(project, workspace, analyser, Composer(verifier), failed=set(told), tolerated=tolerated)
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
        tuple(state.undeclared),
    )


def _relations(state: BuildState) -> None:
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


def _definitions(state: BuildState) -> None:
    """Types and expressions of datasources are judged, and the engine asked whether such a table can be."""
    for name, source in state.datasources.items():
        if name in state.failed:
            continue
        for problem in check_definition(source, scratch_shape(state), state.composer.verifier, state.analyser):
            state.problems.add(problem)
            state.failed.add(name)
        if name not in state.failed:
            source = state.datasources[name] = canonical_type(source, state.analyser)
            state.warnings.extend(short_lived(source, state.analyser))
            types = {c.name: c.type for c in source.columns}
            known = state.relations[name]
            state.relations[name] = replace(known, types=tuple(types[c] for c in known.columns))


def _pipes(state: BuildState) -> None:
    """Templates are compiled, and every text that they can become is parsed alone and verified."""
    implicit = {p.materialize.target for p in state.project.pipes.values() if p.materialize}
    names = frozenset(state.project.datasources) | frozenset(state.project.pipes) | implicit | frozenset(state.failed)
    columns = frozenset(c for r in state.relations.values() for c in r.columns)
    for name, pipe in state.project.pipes.items():
        try:
            state.pipes[name] = compile_pipe(pipe, names, columns, state.composer.verifier)
            state.warnings.extend(state.pipes[name].warnings)
        except RookeryError as exc:
            if name not in state.failed:
                state.problems.add(exc)
            state.failed |= {name} | ({pipe.materialize.target} if pipe.materialize else set())


def _order(state: BuildState) -> None:
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


def _analyse(state: BuildState) -> None:
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
            pipe = _narrow_identifiers(state, pipe)
            state.outputs[name] = _outputs(state, pipe)
            if pipe.target:
                fit_target(state, pipe, pipe.target)
            elif pipe.kind == "endpoint":
                warn_of_one_tenants_rows(state, pipe)
            _guard_tenant_keys(state, pipe)
            written = state.project.pipes[name]
            state.warnings.extend(questionable(written, parameter_names(state.pipes, name)))
        except RookeryError as exc:
            state.failed |= {name} | target
            state.problems.add(exc)


def _outputs(state: BuildState, pipe: CompiledPipe) -> tuple[Column, ...]:
    """Output columns of the published node; every node is analysed in every sample, so that errors have a place."""
    found: tuple[Column, ...] = ()
    unchecked: dict[str, RookeryError] = {}
    runs = _dry_runs(state, pipe)
    for node in pipe.needed():
        for run in runs:
            try:
                found = run.describe(node.name)
            except UncheckedError as exc:
                unchecked.setdefault(node.name, _unchecked(state, pipe, node.name, exc))
            except RookeryError as exc:
                raise locate(exc, pipe.name, _written(state, pipe, node.name)) from exc
    doubts = {n: placed(d, pipe.name, _written(state, pipe, n)) for run in runs for n, d in run.doubts.items()}
    if not state.doubted.intersection(_closure(state.pipes, pipe.name)):
        state.warnings.extend({**doubts, **unchecked}.values())
    state.doubted |= {pipe.name} if doubts or unchecked else set()
    return () if pipe.published in unchecked else found


def _dry_runs(state: BuildState, pipe: CompiledPipe) -> list[DryRun]:
    """With every parameter given and, where that makes a difference, with none of the optional ones."""
    pipes = [state.pipes[n] for n in _closure(state.pipes, pipe.name)]
    specs, identifiers = specs_of(pipes), identifiers_of(pipes)
    declared = {s.name: s for s in declared_of(state.pipes, pipe.name)}
    likely = all_given(specs, identifiers, pipe.columns)
    plain = all_given(specs, identifiers, pipe.columns, plainly=True)
    pairs = [(likely, plain)]
    if any(p.varies for p in pipes):
        pairs.append((none_given(specs, declared, likely), none_given(specs, declared, plain)))
    return [DryRun(state, pipe, v, p, specs, identifiers) for v, p in pairs]


def _written(state: BuildState, pipe: CompiledPipe, node: str) -> Node:
    return next(n for n in state.project.pipes[pipe.name].nodes if n.name == node)


def _unchecked(state: BuildState, pipe: CompiledPipe, node: str, exc: RookeryError) -> RookeryError:
    return placed(exc, pipe.name, _written(state, pipe, node))


def _narrow_identifiers(state: BuildState, pipe: CompiledPipe) -> CompiledPipe:
    """Identifiers in templates may only be what the pipe can read or names itself."""
    reads = datasources_of(state, pipe.name, set())
    columns = {c for n in reads for c in state.relations[n].columns} | {a for n in pipe.nodes for a in n.aliases}
    columns |= {c.name for n in pipe.reads for c in state.outputs.get(n, ())}
    narrowed = replace(pipe, columns=frozenset(columns), datasources=frozenset(reads))
    state.pipes[pipe.name] = narrowed
    return narrowed


def _guard_tenant_keys(state: BuildState, pipe: CompiledPipe) -> None:
    """A parameter compared with the tenant column but not declared as tenant key is a trap; say so."""
    tenants = {r.tenant for n in state.pipes[pipe.name].datasources if (r := state.relations[n]).tenant}
    for parameter in pipe.parameters:
        if parameter.name in tenants and not parameter.tenant_key:
            state.warnings.append(
                RookeryError(
                    TENANT_KEY,
                    f"parameter `{parameter.name}` of pipe `{pipe.name}` selects the tenant, but callers choose it",
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


def parameter_names(pipes: Mapping[str, CompiledPipe], name: str) -> frozenset[str]:
    """Parameters that a pipe's templates use, and those of the pipes that it reads; not what is only declared."""
    nodes = [node for pipe in _closure(pipes, name) for node in pipes[pipe].nodes]
    return frozenset(spec.name for node in nodes for spec in node.template.parameters)


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
