"""Checks a materialized pipe's target with the engine before anything is created."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from engine.compiler import storage
from engine.compiler.build_state import BuildState, scratch_database, scratch_shape
from engine.compiler.definitions import check_definition
from engine.compiler.pipes import CompiledPipe, MaterializedTarget
from engine.compiler.refused_definitions import TableFactory, refused_parts, short_message
from engine.compiler.ttl_overflow import overflowing_ttls
from engine.errors import TARGET_COLUMNS, Place, Problems, RookeryError
from engine.project.check_datasource import check_keys
from engine.project.datasource import Datasource
from engine.schema import Table, literal


def check_with_engine(
    state: BuildState, pipe: CompiledPipe, target: MaterializedTarget, source: Datasource, *, implicit: bool
) -> None:
    """Refuse a target that the engine cannot create or fill. Raises Problems, each with its place.

    An implicit target has no file: its columns are the pipe's outputs, and the pipe's file has its engine.
    """
    problems: list[RookeryError] = []
    if implicit:
        problems += check_keys(source)
        problems += (
            check_definition(source, scratch_shape(state), state.composer.verifier, state.analyser)
            if not problems
            else ()
        )
        state.warnings.extend(overflowing_ttls(source, state.analyser) if not problems else ())
    if target.drop_tenant_column and not problems:
        problems += _without_tenant(state, source)
    if not problems:
        problems += _unconvertible_outputs(state, pipe, target, source)
    if problems:
        raise Problems([_with_place(p, pipe) for p in problems])


def _with_place(problem: RookeryError, pipe: CompiledPipe) -> RookeryError:
    """The problem, with the pipe's place if the problem has none."""
    if problem.place is not None and problem.place.file is not None:
        return problem
    place = replace(pipe.place, part=f"pipe `{pipe.name}`")
    return RookeryError(problem.code, problem.message, hint=problem.hint, place=place, detail=problem.detail)


def _without_tenant(state: BuildState, source: Datasource) -> Iterator[RookeryError]:
    """Yield problems of the target's tables in nests, which lack the tenant column."""
    database = scratch_database(state.workspace)

    def make_table(datasource: Datasource) -> Table:
        return storage.nest_table(datasource, state.workspace, database, "", drop_tenant=True)

    for problem in refused_parts(source, _without_mark(make_table), state.analyser):
        yield problem.with_hint(
            f"tables in nests lack `{source.tenant_column}` because of `drop_tenant_column`; do not use it here"
        )


def _without_mark(make_table: TableFactory) -> TableFactory:
    """Created without the mark, so that plans do not mistake these tables for objects of the workspace."""
    return lambda datasource: replace(make_table(datasource), mark=None)


def _unconvertible_outputs(
    state: BuildState, pipe: CompiledPipe, target: MaterializedTarget, source: Datasource
) -> Iterator[RookeryError]:
    """Yield outputs that cannot be converted to the type of the target's column."""
    types = {c.name: c.type for c in source.columns}
    for output in state.outputs[pipe.name]:
        column_type = types.get(output.name)
        if column_type is None or column_type == output.type:
            continue
        reason = _conversion_error(state, output.type, column_type)
        if reason is not None:
            message = (
                f"pipe `{pipe.name}` outputs `{output.name}` as {output.type}, which cannot become the "
                f"{column_type} of target `{target.name}`: {short_message(reason)}"
            )
            hint = "convert it in the SELECT, or change the type of the target's column"
            yield RookeryError(TARGET_COLUMNS, message, hint=hint, place=_place_of_output(pipe), detail=reason.detail)


def _place_of_output(pipe: CompiledPipe) -> Place:
    node = pipe.node(pipe.published)
    return node.place if node is not None else pipe.place


def _conversion_error(state: BuildState, output_type: str, column_type: str) -> RookeryError | None:
    """The engine's error if values of a type cannot be converted to another; None if the types are compatible."""
    value = f"SELECT materialize(defaultValueOfTypeName({literal(output_type)})) AS v"
    try:
        state.analyser.describe(value, {}, ())
    except RookeryError as exc:
        if exc.is_server_fault:
            raise
        return None
    try:
        state.analyser.describe(f"SELECT CAST(v, {literal(column_type)}) FROM ({value})", {}, ())
    except RookeryError as exc:
        if exc.is_server_fault:
            raise
        return exc
    return None
