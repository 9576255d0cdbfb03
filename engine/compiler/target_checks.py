"""What the engine is asked about a materialized pipe's target before anything is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from engine.compiler import storage
from engine.compiler.build_state import BuildState, scratch_database, scratch_shape
from engine.compiler.definitions import check_definition
from engine.compiler.pipes import CompiledPipe, MaterializedTarget
from engine.compiler.refused_definitions import Shape, plain, refusals
from engine.compiler.ttl_overflow import overflowing_ttls
from engine.errors import TARGET_COLUMNS, Place, Problems, RookeryError
from engine.project.check_datasource import check_keys
from engine.project.model import Datasource
from engine.schema import Table, literal


def hold_to_engine(
    state: BuildState, pipe: CompiledPipe, target: MaterializedTarget, source: Datasource, *, implicit: bool
) -> None:
    """Refuse a target that the engine would not make, or not fill. Raises Problems, each with its place.

    An implicit target has no file: its columns are the pipe's, and its engine stands in the pipe's file.
    """
    found: list[RookeryError] = []
    if implicit:
        found += check_keys(source)
        found += (
            check_definition(source, scratch_shape(state), state.composer.verifier, state.analyser)
            if not found
            else ()
        )
        state.warnings.extend(overflowing_ttls(source, state.analyser) if not found else ())
    if target.drop_tenant_column and not found:
        found += _without_tenant(state, source)
    if not found:
        found += _unfit(state, pipe, target, source)
    if found:
        raise Problems([_placed(p, pipe) for p in found])


def _placed(problem: RookeryError, pipe: CompiledPipe) -> RookeryError:
    """The problem at the pipe's place where it has none of its own."""
    if problem.place is not None and problem.place.file is not None:
        return problem
    place = replace(pipe.place, part=f"pipe `{pipe.name}`")
    return RookeryError(problem.code, problem.message, hint=problem.hint, place=place, detail=problem.detail)


def _without_tenant(state: BuildState, source: Datasource) -> Iterator[RookeryError]:
    """What of a target cannot be in tenants' own tables, which lack the tenant column."""
    database = scratch_database(state.workspace)

    def shape(datasource: Datasource) -> Table:
        return storage.nest_table(datasource, state.workspace, database, "", drop_tenant=True)

    for problem in refusals(source, _marked(shape), state.analyser):
        hint = f"`drop_tenant_column` leaves `{source.tenant_column}` out of tenants' own tables; do not name it here"
        yield RookeryError(problem.code, problem.message, hint=hint, place=problem.place, detail=problem.detail)


def _marked(shape: Shape) -> Shape:
    return lambda datasource: replace(shape(datasource), mark=None)


def _unfit(
    state: BuildState, pipe: CompiledPipe, target: MaterializedTarget, source: Datasource
) -> Iterator[RookeryError]:
    """Outputs that cannot be converted to the type of the target's column."""
    types = {c.name: c.type for c in source.columns}
    for output in state.outputs[pipe.name]:
        wanted = types.get(output.name)
        if wanted is None or wanted == output.type:
            continue
        why = _not_converted(state, output.type, wanted)
        if why is not None:
            message = (
                f"pipe `{pipe.name}` outputs `{output.name}` as {output.type}, which cannot become the "
                f"{wanted} of target `{target.name}`: {plain(why)}"
            )
            hint = "convert it in the SELECT, or change the type of the target's column"
            yield RookeryError(TARGET_COLUMNS, message, hint=hint, place=_of_output(pipe), detail=why.detail)


def _of_output(pipe: CompiledPipe) -> Place:
    node = pipe.node(pipe.published)
    return node.place if node is not None else pipe.place


def _not_converted(state: BuildState, given: str, wanted: str) -> RookeryError | None:
    """Why values of a type cannot be converted to another, as far as the types tell."""
    value = f"SELECT materialize(defaultValueOfTypeName({literal(given)})) AS v"
    try:
        state.analyser.describe(value, {}, ())
    except RookeryError as exc:
        if exc.is_server_fault:
            raise
        return None
    try:
        state.analyser.describe(f"SELECT CAST(v, {literal(wanted)}) FROM ({value})", {}, ())
    except RookeryError as exc:
        if exc.is_server_fault:
            raise
        return exc
    return None
