"""Compiles a checked project into a `Build`, an immutable value that all later stages read.

`build()` runs a list of passes over the project. The engine's parser and analyser are passed in, so that the compiler
itself does not access a database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from engine.compiler import storage
from engine.compiler.build_state import Analyser, BuildState, Undeclared, datasources_of, scratch_shape
from engine.compiler.compose import Composer, Verifier
from engine.compiler.declared_parameters import check_parameter_names, declaration_warnings
from engine.compiler.definitions import canonical_types, check_definition, unusable_columns
from engine.compiler.dry_run import (
    DryRun,
    UncheckedError,
    all_parameters,
    identifiers_of,
    required_parameters,
    specs_of,
)
from engine.compiler.error_location import locate
from engine.compiler.expiry_check import ExpiryCheck, expiry_check
from engine.compiler.pipes import CompiledPipe, check_node_count, compile_pipe, placed
from engine.compiler.scope import Relation
from engine.compiler.sharing import warn_of_one_tenants_rows
from engine.compiler.state_columns import warn_of_raw_states
from engine.compiler.targets import check_target
from engine.compiler.ttl_overflow import overflowing_ttls
from engine.errors import (
    CYCLE,
    TENANT_KEY,
    RookeryError,
)
from engine.project.datasource import Datasource
from engine.project.model import Project
from engine.project.pipe import Node
from engine.schema import Column
from engine.template.parameters import ParameterSpec


@dataclass(frozen=True, slots=True)
class Build:
    """A compiled project. Immutable: a changed project becomes a new build. All threads share it."""

    workspace: str
    """The name of the workspace, which is also that of its database."""
    project: Project
    relations: Mapping[str, Relation]
    """Datasources and targets as their readers see them, by name."""
    datasources: Mapping[str, Datasource]
    """Datasources by name, including targets without a file of their own."""
    pipes: Mapping[str, CompiledPipe]
    order: tuple[str, ...]
    """Datasources and pipes in order of data flow."""
    composer: Composer
    """Composes statements of this build, and caches them."""
    warnings: tuple[RookeryError, ...] = ()
    outputs: Mapping[str, tuple[Column, ...]] = field(default_factory=dict)
    """Pipe → the output columns of its published node."""
    undeclared: tuple[Undeclared, ...] = ()
    """Pipes that share tenants' rows without a declaration, deployed before one was required."""
    expiry_checks: Mapping[str, ExpiryCheck] = field(default_factory=dict)
    """Datasource → the condition for rows whose TTL does not overflow, for TTLs that may."""

    @property
    def endpoints(self) -> dict[str, CompiledPipe]:
        """The pipes that are published over HTTP."""
        return {n: p for n, p in self.pipes.items() if p.kind == "endpoint"}

    def takes(self, name: str) -> bool:
        """Whether a datasource accepts rows from clients, which is the case unless a pipe fills it."""
        return all(p.target is None or p.target.name != name for p in self.pipes.values())

    def reaches_nests(self, name: str) -> bool:
        """Whether a landing datasource's rows are delivered to nests, for a copy or for targets there."""
        relation = self.relations[name]
        targets = (p.target for p in self.pipes.values() if p.target is not None and p.target.per_tenant)
        return relation.kind == "landing" and (relation.in_nest or any(name in t.triggers for t in targets))

    def landings_of(self, name: str) -> frozenset[str]:
        """The datasources whose rows clients send, and from which a datasource's rows are derived through any number
        of pipes.

        For a name that the build does not know, these are all datasources.
        """
        if name not in self.relations:
            return frozenset(self.relations)
        landings: set[str] = set()
        seen, pending = {name}, [name]
        while pending:
            current = pending.pop()
            if self.takes(current):
                landings.add(current)
            targets = [p.target for p in self.pipes.values() if p.target is not None and p.target.name == current]
            new = {trigger for target in targets for trigger in target.triggers} - seen
            seen |= new
            pending += new
        return frozenset(landings)

    def materialized(self) -> list[CompiledPipe]:
        """The materialized pipes in order of data flow."""
        return [self.pipes[n] for n in self.order if n in self.pipes and self.pipes[n].target]

    def filling_pipes(self) -> set[str]:
        """The materialized pipes, and all pipes that they read: those on which stored rows depend."""
        return {name for pipe in self.materialized() for name in _closure(self.pipes, pipe.name)}


@dataclass(frozen=True, slots=True)
class KnownProblems:
    """Problems of a project that a build does not report."""

    reported: frozenset[str] = frozenset()
    """Resources with problems that are reported already. They are skipped, and so are those that depend on them."""
    tolerated: frozenset[str] | None = frozenset()
    """Deployed resources that were accepted before a rule existed: pipes that share tenants' rows without a
    declaration, and datasources with unusable columns. None for all resources.
    """


def build(project: Project, workspace: str, verifier: Verifier, analyser: Analyser, known: KnownProblems) -> Build:
    """Compile a project. Raises `Problems` with everything else that is wrong."""
    if known.tolerated is None:
        verifier = verifier.of_deployed()
    state = BuildState(
        project, workspace, analyser, Composer(verifier), failed=set(known.reported), tolerated=known.tolerated
    )
    # Each pass needs the earlier ones: SQL is verified against the names of relations, sorted by what they read, and
    # analyzed after what they read.
    for compile_pass in (_relations, _definitions, _pipes, _order, _analyze):
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
        dict(state.expiry_checks),
    )


def _relations(state: BuildState) -> None:
    """Create a relation for each datasource file, and mark the targets of per-tenant pipes."""
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
    """Check the types and expressions of datasources, and whether the engine can create such a table."""
    for name, source in state.datasources.items():
        if name in state.failed:
            continue
        for problem in check_definition(source, scratch_shape(state), state.composer.verifier, state.analyser):
            state.problems.add(problem)
            state.failed.add(name)
        if name not in state.failed:
            # A plan compares types as text with those of the live schema, so they must have the engine's spelling.
            source = state.datasources[name] = canonical_types(source, state.analyser)
            if state.tolerated is not None and name not in state.tolerated:
                for problem in unusable_columns(source, state.analyser):
                    state.problems.add(problem)
            state.warnings.extend(overflowing_ttls(source, state.analyser))
            if check := expiry_check(source, state.composer.verifier, state.analyser):
                state.expiry_checks[name] = check
            types = {c.name: c.type for c in source.columns}
            relation = state.relations[name]
            state.relations[name] = replace(relation, types=tuple(types[c] for c in relation.columns))


def _pipes(state: BuildState) -> None:
    """Compile the templates, and verify all SQL that they can produce."""
    implicit = {p.materialize.target for p in state.project.pipes.values() if p.materialize}
    # A failed resource counts as a known name, so a pipe that reads it does not cause another error.
    names = frozenset(state.project.datasources) | frozenset(state.project.pipes) | implicit | frozenset(state.failed)
    columns = frozenset(c for r in state.relations.values() for c in r.columns)
    for name, pipe in state.project.pipes.items():
        try:
            # A server must start with what was deployed before there was a limit.
            if state.tolerated is not None:
                check_node_count(pipe)
            state.pipes[name] = compile_pipe(pipe, names, columns, state.composer.verifier)
            state.warnings.extend(state.pipes[name].warnings)
        except RookeryError as exc:
            if name not in state.failed:
                state.problems.add(exc)
            # Without the pipe, nothing is known about a target that has no file of its own.
            state.failed |= {name} | ({pipe.materialize.target} if pipe.materialize else set())


def _order(state: BuildState) -> None:
    """Sort the resources in order of data flow. A cycle is an error that names its members."""
    sources: dict[str, set[str]] = {n: set() for n in state.datasources}
    for name, pipe in state.pipes.items():
        sources.setdefault(name, set()).update(pipe.reads)
        if pipe.target:
            sources.setdefault(pipe.target.name, set()).add(name)
    sorted_names: dict[str, bool] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if sorted_names.get(name):
            return
        if name in path:
            members = path[path.index(name) :]
            place = next((state.pipes[m].place for m in members if m in state.pipes), None)
            if not state.failed.issuperset(members):
                circle = " → ".join((*members, name))
                state.problems.add(RookeryError(CYCLE, f"these depend on each other: {circle}", place=place))
            state.failed.update(members)
            return
        for other in sorted(sources.get(name, ())):
            visit(other, (*path, name))
        sorted_names[name] = True
        state.order.append(name)

    # Sorted at each step, so that a project has the same order, and therefore the same plan, in every process.
    for name in sorted(sources):
        visit(name, ())


def _analyze(state: BuildState) -> None:
    """Analyze each pipe's output types with the engine, in order, and compare them with its target."""
    for name in state.order:
        if name not in state.pipes:
            continue
        pipe = state.pipes[name]
        target = {pipe.target.name} if pipe.target else set()
        if state.failed & ({name} | pipe.reads | target):
            # It depends on a resource with a reported problem. Its own errors would only be consequences of that
            # problem.
            state.failed |= {name} | target
            continue
        try:
            written = state.project.pipes[name]
            # Deployed pipes keep working.
            if state.tolerated is not None:
                check_parameter_names(pipe, written)
            pipe = _narrow_identifiers(state, pipe)
            state.outputs[name] = _outputs(state, pipe)
            if pipe.target:
                check_target(state, pipe, pipe.target)
            elif pipe.kind == "endpoint":
                warn_of_one_tenants_rows(state, pipe)
                warn_of_raw_states(state, pipe)
            _warn_of_tenant_parameters(state, pipe)
            state.warnings.extend(declaration_warnings(written, parameter_names(state.pipes, name)))
        except RookeryError as exc:
            state.failed |= {name} | target
            state.problems.add(exc)


def _outputs(state: BuildState, pipe: CompiledPipe) -> tuple[Column, ...]:
    """The output columns of the published node. Every node is analyzed, so that errors name the node."""
    columns: tuple[Column, ...] = ()
    unchecked: dict[str, RookeryError] = {}
    runs = _dry_runs(state, pipe)
    for node in pipe.needed():
        for run in runs:
            try:
                columns = run.describe(node.name)
            except UncheckedError as exc:
                unchecked.setdefault(node.name, _unchecked(state, pipe, node.name, exc))
            except RookeryError as exc:
                raise locate(exc, pipe.name, _source_node(state, pipe, node.name)) from exc
    doubts = {n: placed(d, pipe.name, _source_node(state, pipe, n)) for run in runs for n, d in run.doubts.items()}
    # A pipe repeats the warnings of the pipes that it reads. They are reported only once, where they occur first.
    if not state.doubted.intersection(_closure(state.pipes, pipe.name)):
        state.warnings.extend({**doubts, **unchecked}.values())
    state.doubted |= {pipe.name} if doubts or unchecked else set()
    return () if pipe.published in unchecked else columns


def _dry_runs(state: BuildState, pipe: CompiledPipe) -> list[DryRun]:
    """Dry runs with all parameters and, if a template depends on parameters, another with only the required ones."""
    pipes = [state.pipes[n] for n in _closure(state.pipes, pipe.name)]
    specs, identifiers = specs_of(pipes), identifiers_of(pipes)
    declared = {s.name: s for s in declared_of(state.pipes, pipe.name)}
    all_values = all_parameters(specs, identifiers, pipe.columns)
    plain_values = all_parameters(specs, identifiers, pipe.columns, plainly=True)
    # A parameter may add or remove parts of the SQL, so that the version without optional parameters is analyzed as
    # well.
    pairs = [(all_values, plain_values)]
    if any(p.varies for p in pipes):
        pairs.append(
            (required_parameters(specs, declared, all_values), required_parameters(specs, declared, plain_values))
        )
    return [DryRun(state, pipe, v, p, specs, identifiers) for v, p in pairs]


def _source_node(state: BuildState, pipe: CompiledPipe, node: str) -> Node:
    return next(n for n in state.project.pipes[pipe.name].nodes if n.name == node)


def _unchecked(state: BuildState, pipe: CompiledPipe, node: str, exc: RookeryError) -> RookeryError:
    return placed(exc, pipe.name, _source_node(state, pipe, node))


def _narrow_identifiers(state: BuildState, pipe: CompiledPipe) -> CompiledPipe:
    """Limit the names that templates may choose as identifiers to columns that the pipe reads or defines."""
    reads = datasources_of(state, pipe.name, set())
    columns = {c for n in reads for c in state.relations[n].columns} | {a for n in pipe.nodes for a in n.aliases}
    columns |= {c.name for n in pipe.reads for c in state.outputs.get(n, ())}
    narrowed = replace(pipe, columns=frozenset(columns), datasources=frozenset(reads))
    state.pipes[pipe.name] = narrowed
    return narrowed


def _warn_of_tenant_parameters(state: BuildState, pipe: CompiledPipe) -> None:
    """Warn of a parameter that is named like the tenant column but is not a tenant key: callers choose its value."""
    tenants = {r.tenant for n in state.pipes[pipe.name].datasources if (r := state.relations[n]).tenant}
    for parameter in pipe.parameters:
        if parameter.name in tenants and not parameter.tenant_key:
            state.warnings.append(
                RookeryError(
                    TENANT_KEY,
                    f"parameter `{parameter.name}` of pipe `{pipe.name}` selects the tenant, but callers choose it",
                    hint=(
                        "declare it under `parameters` with `tenant_key: true`, or "
                        "remove it, because tokens select the tenant"
                    ),
                    place=pipe.place,
                )
            )


def declared_of(pipes: Mapping[str, CompiledPipe], name: str) -> tuple[ParameterSpec, ...]:
    """The parameters that the files of a pipe and of the pipes that it reads declare. The outer declaration wins."""
    declared = {n for p in _closure(pipes, name) for n in pipes[p].declared}
    return tuple(s for s in parameters_of(pipes, name) if s.name in declared)


def parameters_of(pipes: Mapping[str, CompiledPipe], name: str) -> tuple[ParameterSpec, ...]:
    """The parameters of a pipe and of all pipes that it reads. The outer declaration wins."""
    specs: dict[str, ParameterSpec] = {}
    for pipe in _closure(pipes, name):
        for spec in pipes[pipe].parameters:
            known = specs.get(spec.name)
            if known is None or (spec.name in pipes[pipe].declared and not known.explicit):
                specs[spec.name] = spec
    return tuple(specs.values())


def parameter_names(pipes: Mapping[str, CompiledPipe], name: str) -> frozenset[str]:
    """The parameters that the templates of a pipe, or of the pipes that it reads, use. Those that are only declared
    are excluded.
    """
    nodes = [node for pipe in _closure(pipes, name) for node in pipes[pipe].nodes]
    return frozenset(spec.name for node in nodes for spec in node.template.parameters)


def _closure(pipes: Mapping[str, CompiledPipe], name: str) -> list[str]:
    """A pipe and all pipes that it reads, in breadth-first order."""
    names: list[str] = []
    pending = [name]
    while pending:
        current = pending.pop(0)
        if current not in names and current in pipes:
            names.append(current)
            pending.extend(sorted(pipes[current].reads))
    return names
