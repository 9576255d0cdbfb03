"""Checks materialized pipes and their targets: which table fires the view, whether its output fits, and whose rows it
has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from engine.compiler import storage
from engine.compiler.build_state import BuildState, datasources_of
from engine.compiler.expiry_check import expiry_check
from engine.compiler.pipes import CompiledNode, CompiledPipe, MaterializedTarget
from engine.compiler.scope import GROUP_TENANTS
from engine.compiler.sharing import check_sharing
from engine.compiler.target_checks import check_with_engine
from engine.errors import (
    TARGET_COLUMNS,
    TENANT_MIX,
    TENANT_OUTPUT,
    UNKNOWN_TABLE,
    VIEW_SHAPE,
    Place,
    RookeryError,
)
from engine.project.datasource import Column as SourceColumn
from engine.project.datasource import Datasource, Tenant
from engine.schema import declared_ttl
from engine.sql.tenant_lineage import check_lineage, names_of_values
from engine.tenant_ids import base_type, integer_bounds


def check_target(state: BuildState, pipe: CompiledPipe, target: MaterializedTarget) -> None:
    """Compare a pipe's output with its target, and complete both in `state`. Raises RookeryError or Problems."""
    outputs = {c.name: c for c in state.outputs[pipe.name]}
    source = state.datasources.get(target.name)
    implicit = source is None
    if source is None:
        source = _implicit_target(state, pipe, target)
    _refuse_templates(state, pipe)
    triggers = _triggers(state, pipe)
    if target.per_tenant:
        source = _tenant_target(state, pipe, target, source, triggers)
    elif source.tenant_column is not None:
        _must_keep_tenants_apart(state, pipe, source.tenant_column)
    missing = [c.name for c in source.columns if c.name not in outputs and not c.default]
    extra = [n for n in outputs if n not in {c.name for c in source.columns}]
    if extra and not missing and _is_from_star(state, pipe, extra):
        state.warnings.append(_unstored_warning(pipe, target, extra))
    elif missing or extra:
        names = ", ".join(f"`{n}`" for n in missing or extra)
        verb = "does not output" if missing else "outputs"
        raise RookeryError(
            TARGET_COLUMNS,
            f"pipe `{pipe.name}` {verb} {names}, which target `{target.name}` {'needs' if missing else 'lacks'}",
            hint="give the output the target's column names with AS, or change the target's columns",
            place=pipe.place,
        )
    state.warnings.extend(_narrow_columns(pipe, source, {n: c.type for n, c in outputs.items()}))
    # A deployed build was checked when it was pushed. These checks need several calls of the engine.
    if state.tolerated is not None:
        check_with_engine(state, pipe, target, source, implicit=implicit)
    # Done after the other checks, because it records whose rows the target has. Pipes that read the target rely on
    # that.
    view_text = check_sharing(state, pipe, target, source)
    state.datasources[target.name] = _with_lasting_ttl(state, source)
    state.relations[target.name] = storage.relation(
        source, target_of_tenants=target.per_tenant, drop_tenant=target.drop_tenant_column
    )
    selected = tuple(c.name for c in source.columns if c.name in outputs)
    if view_text is not None:
        target, selected = replace(target, branches=(view_text,)), (*selected, GROUP_TENANTS)
    state.pipes[pipe.name] = replace(pipe, target=replace(target, columns=selected, triggers=triggers))


def _with_lasting_ttl(state: BuildState, target: Datasource) -> Datasource:
    """A target whose TTL keeps rows for which the declared one overflows."""
    ttl = target.engine.ttl or ""
    # Another pipe may fill the same target.
    if declared_ttl(ttl) != ttl:
        return target
    check = expiry_check(target, state.composer.verifier, state.analyser)
    if check is None:
        return target
    engine = target.engine.model_copy(update={"ttl": check.lasting_ttl})
    return target.model_copy(update={"engine": engine})


def _is_from_star(state: BuildState, pipe: CompiledPipe, names: list[str]) -> bool:
    """Whether a `*` outputs these columns. A new column of a datasource must not break the pipes that read it."""
    read = {c for d in datasources_of(state, pipe.name, set()) for c in state.relations[d].columns}
    return pipe.published_text().outputs is None and read.issuperset(names)


def _unstored_warning(pipe: CompiledPipe, target: MaterializedTarget, names: list[str]) -> RookeryError:
    listed = ", ".join(f"`{n}`" for n in names)
    return RookeryError(
        TARGET_COLUMNS,
        f"pipe `{pipe.name}` selects {listed} by `*`, which target `{target.name}` lacks, so it is not stored",
        hint="to store the column, add it to the target; otherwise list the pipe's columns instead of `*`",
        place=pipe.place,
    )


def _narrow_columns(pipe: CompiledPipe, target: Datasource, outputs: Mapping[str, str]) -> Iterator[RookeryError]:
    """Yield a warning for each column of at most 16 bits that gets integers of 64 bits or more: counts and sums."""
    for column in target.columns:
        types = (column.type, outputs.get(column.name, column.type))
        stored, computed = (integer_bounds(base_type(t).removeprefix("Nullable(").removesuffix(")")) for t in types)
        if stored and computed and stored[1] < 1 << 16 and computed[1] >= (1 << 63) - 1:
            yield RookeryError(
                TARGET_COLUMNS,
                f"pipe `{pipe.name}` outputs {outputs[column.name]} for `{column.name}`, whose type in target "
                f"`{target.name}` is {column.type}: larger numbers wrap around",
                hint="give the column of the target a wider type",
                place=pipe.place,
            )


def _triggers(state: BuildState, pipe: CompiledPipe) -> tuple[str, ...]:
    """For each branch of the view, the datasource whose inserts fire it: the left-most one, through nodes."""
    triggers = []
    for leftmost in pipe.published_text().branch_leftmost:
        name = _leftmost_datasource(state, pipe, leftmost)
        if name is None or (name not in state.project.datasources and name not in state.datasources):
            raise RookeryError(
                VIEW_SHAPE,
                f"pipe `{pipe.name}` cannot be a materialized view: its first table is not a datasource",
                hint="a view fires on inserts into the left-most table of its FROM; put the datasource there",
                place=pipe.place,
            )
        triggers.append(name)
    return tuple(triggers)


def _leftmost_datasource(state: BuildState, view: CompiledPipe, name: str | None) -> str | None:
    """The left-most datasource that a name reads, directly or through nodes and other pipes. Raises VIEW_SHAPE for a
    template.
    """
    pipe = view
    while name is not None and name not in state.datasources:
        node = pipe.node(name)
        if node is None and name in state.pipes:
            pipe = state.pipes[name]
            node = pipe.node(pipe.published)
        if node is None:
            return None
        if node.static is None:
            raise _template_error(view, pipe, node)
        # A node that is a UNION has several left-most tables, but a view fires on the inserts into one.
        if len(node.static.branch_leftmost) != 1:
            return None
        name = node.static.branch_leftmost[0]
    return name


def _refuse_templates(state: BuildState, view: CompiledPipe) -> None:
    """Refuse a view that reads a template, directly or through other pipes."""
    pending, seen = [view], {view.name}
    while pending:
        pipe = pending.pop(0)
        for node in pipe.needed():
            if node.static is None:
                raise _template_error(view, pipe, node)
            for read in sorted(node.reads & frozenset(state.pipes) - seen):
                seen.add(read)
                pending.append(state.pipes[read])


def _template_error(view: CompiledPipe, pipe: CompiledPipe, node: CompiledNode) -> RookeryError:
    node_of_view = view.node(view.published)
    return RookeryError(
        VIEW_SHAPE,
        f"pipe `{view.name}` cannot be a materialized view: it reads pipe `{pipe.name}`, "
        f"whose node `{node.name}` is a template",
        hint="a view has no parameters: move the SQL that it needs to a pipe without a template, which both can read",
        place=node_of_view.place if node_of_view else view.place,
    )


def _implicit_target(state: BuildState, pipe: CompiledPipe, target: MaterializedTarget) -> Datasource:
    """The datasource of a target without a file: columns of the pipe's output, engine of the pipe's file."""
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
    state: BuildState,
    pipe: CompiledPipe,
    target: MaterializedTarget,
    source: Datasource,
    triggers: tuple[str, ...],
) -> Datasource:
    """A per-tenant target with its tenant column, which the pipe must output and which must come first in the sorting
    key.
    """
    columns = {state.relations[t].tenant for t in triggers}
    tenant = next(iter(columns)) if len(columns) == 1 else None
    if tenant is None:
        raise RookeryError(
            TENANT_OUTPUT,
            f"per-tenant pipe `{pipe.name}` reads `{triggers[0]}`, and needs sources with the same tenant column",
            hint="a per-tenant pipe must read a landing datasource or another per-tenant target first",
            place=pipe.place,
        )
    if tenant not in {c.name for c in state.outputs[pipe.name]}:
        raise RookeryError(
            TENANT_OUTPUT,
            f"per-tenant pipe `{pipe.name}` must output the tenant column `{tenant}`",
            hint=f"add `{tenant}` to the SELECT (and to its GROUP BY); `drop_tenant_column: true` hides it",
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
    # From here on the target is filtered like any other datasource with a tenant column.
    return source.model_copy(update={"tenant": Tenant(column=tenant, landing=False)})


def _must_keep_tenants_apart(state: BuildState, pipe: CompiledPipe, tenant: str) -> None:
    """Refuse a pipe that fills a datasource with a tenant column unless rows keep their tenant. Raises RK2013."""
    reads = datasources_of(state, pipe.name, set())
    if not any(state.relations[n].tenant for n in reads):
        return
    names = {c for n in reads for c in state.relations[n].columns} | _names_of_values(state, pipe, set())
    if not _keeps_tenants_apart(state, pipe, tenant, {}, frozenset(names)):
        message = f"pipe `{pipe.name}` stores rows without their tenant in a datasource that has a tenant column"
        raise RookeryError(TENANT_MIX, message, hint="put the datasource first in FROM", place=pipe.place)


def _names_of_values(state: BuildState, pipe: CompiledPipe, seen: set[str]) -> set[str]:
    """Every name that a pipe, or a pipe that it reads, gives to a value."""
    names: set[str] = set()
    for node in pipe.needed():
        if node.static is not None:
            names |= names_of_values(state.composer.verifier.tree(node.static.canonical))
        for read in sorted(node.reads & frozenset(state.pipes) - seen):
            seen.add(read)
            names |= _names_of_values(state, state.pipes[read], seen)
    return names


def _keeps_tenants_apart(
    state: BuildState, pipe: CompiledPipe, tenant: str, known: dict[str, bool], names: frozenset[str]
) -> bool:
    """Whether a pipe's output has tenants' rows. Raises RK2013 unless each node provably keeps them apart.

    `known` caches the result by pipe; `names` are the names of values in all parts of the view.
    """
    bearing = {n for n, r in state.relations.items() if r.tenant == tenant}
    for node in pipe.needed():
        for read in sorted(node.reads & frozenset(state.relations)):
            other = state.relations[read].tenant
            if other not in (None, tenant):
                message = f"`{read}` has the tenant column `{other}`, not `{tenant}`"
                hint = "datasources that are read together must have the same tenant column"
                raise RookeryError(TENANT_MIX, message, hint=hint, place=node.place)
        for read in node.reads & frozenset(state.pipes):
            if read not in known:
                known[read] = _keeps_tenants_apart(state, state.pipes[read], tenant, known, names)
            bearing |= {read} if known[read] else set()
        assert node.static is not None, "a view with a template has been refused"
        try:
            tree = state.composer.verifier.tree(node.static.canonical)
            has_tenants = check_lineage(tree, tenant, frozenset(bearing), names)
        except RookeryError as exc:
            place = Place(
                node.place.file, node.place.line, node.place.column, f"pipe `{pipe.name}`, node `{node.name}`"
            )
            raise RookeryError(exc.code, exc.message, hint=exc.hint, place=place) from exc
        bearing |= {node.name} if has_tenants else set()
    return pipe.published in bearing
