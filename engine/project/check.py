"""Rules across the files of a project that need no understanding of SQL."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from engine.errors import BAD_VALUE, DUPLICATE_NAME, TARGET_CLASH, UNKNOWN_TABLE, Place, RookeryError
from engine.project.check_datasource import check_datasource, check_engine
from engine.project.check_pipe import check_pipe
from engine.project.model import Engine, Materialize, Pipe, Project


def check(project: Project, unreadable: frozenset[str] = frozenset()) -> list[RookeryError]:
    """Everything that is wrong with a project, in order of files and lines; an empty list when nothing is. Pure.

    `unreadable` are resources that there are, but whose files cannot be read.
    """
    found: list[RookeryError] = []
    for datasource in project.datasources.values():
        found.extend(check_datasource(datasource))
    for pipe in project.pipes.values():
        found.extend(check_pipe(pipe))
    found.extend(_names(project))
    found.extend(_targets(project, unreadable))
    return sorted(found, key=_order)


def _order(problem: RookeryError) -> tuple[str, int, int]:
    place = problem.place or Place()
    return place.file or "", place.line or 0, place.column or 0


def _names(project: Project) -> Iterator[RookeryError]:
    """Names that differ only in case, and nodes named like something else."""
    taken: dict[str, str] = {}
    places = {resource.name: resource.place for resource in project.resources()}
    for pipe in project.pipes.values():
        if pipe.materialize:
            places.setdefault(pipe.materialize.target, pipe.materialize.place_of("target"))
    for name, place in places.items():
        other = taken.setdefault(name.lower(), name)
        if other != name:
            message = f"`{name}` differs from `{other}` only in upper and lower case"
            hint = "file systems and readers mix them up; rename one"
            yield RookeryError(DUPLICATE_NAME, message, hint=hint, place=place)
    for pipe in project.pipes.values():
        for node in pipe.nodes:
            if node.name in places:
                message = f"node `{node.name}` has the name of a datasource or pipe"
                hint = f"rename the node, such as {node.name[:100]}_node"
                yield RookeryError(DUPLICATE_NAME, message, hint=hint, place=node.place_of("name"))


def _targets(project: Project, unreadable: frozenset[str]) -> Iterator[RookeryError]:
    filled: dict[str, list[Pipe]] = {}
    for pipe in project.pipes.values():
        if pipe.materialize:
            filled.setdefault(pipe.materialize.target, []).append(pipe)
    made = {target for target, pipes in filled.items() if any(_engine(pipe) for pipe in pipes)} | unreadable
    for pipe in project.pipes.values():
        if pipe.materialize:
            yield from _target(project, pipe.materialize, made)
    for pipes in filled.values():
        yield from _agreement(pipes)
    for datasource in project.datasources.values():
        if datasource.shared.min_tenants and datasource.name not in filled and not unreadable:
            message = f"no pipe fills `{datasource.name}`, so its rows are no groups of tenants"
            hint = "remove `min_tenants`, or write the pipe that fills it"
            yield RookeryError(BAD_VALUE, message, hint=hint, place=datasource.shared.place_of("min_tenants"))


def _target(project: Project, materialize: Materialize, made: set[str]) -> Iterator[RookeryError]:
    """One pipe and the datasource that it fills; `made` are the targets that come into being with a pipe."""
    target, place = materialize.target, materialize.place_of("target")
    datasource = project.datasources.get(target)
    if materialize.engine:
        yield from check_engine(materialize.engine)
    if target in project.pipes:
        message, hint = f"target `{target}` is a pipe", "a target is a datasource"
        yield RookeryError(TARGET_CLASH, message, hint=hint, place=place)
    elif datasource is None:
        if target not in made:
            yield RookeryError(
                UNKNOWN_TABLE, f"target `{target}` does not exist", hint=_near(target, project), place=place
            )
    elif datasource.is_landing:
        message = f"target `{target}` is a landing datasource, which takes events only"
        hint = "fill another datasource, or say `landing: false` in its `tenant`"
        yield RookeryError(TARGET_CLASH, message, hint=hint, place=place)
    elif datasource.strict:
        message = f"`strict` is for rows from outside, and a pipe fills `{target}`"
        yield RookeryError(BAD_VALUE, message, hint="remove `strict`", place=datasource.place_of("strict"))
    elif materialize.per_tenant and datasource.tenant is None:
        message = f"target `{target}` of a per-tenant pipe has no tenant column"
        hint = "add `tenant: {column: …, landing: false}` to it"
        yield RookeryError(TARGET_CLASH, message, hint=hint, place=place)
    elif materialize.engine and materialize.engine != datasource.engine:
        message = f"`engine` is another than that of `{target}`"
        hint = "remove it here: the datasource has a file of its own"
        yield RookeryError(TARGET_CLASH, message, hint=hint, place=materialize.place_of("engine"))


def _near(name: str, project: Project) -> str:
    near = difflib.get_close_matches(name, list(project.datasources), n=1)
    meant = f"did you mean `{near[0]}`? " if near else ""
    return f"{meant}write datasources/{name}.yaml, or give `engine` here to have it made"


def _agreement(pipes: list[Pipe]) -> Iterator[RookeryError]:
    """Several pipes that fill one target."""
    first, *others = pipes
    for pipe in others:
        for key in ("per_tenant", "drop_tenant_column"):
            if getattr(pipe.materialize, key) != getattr(first.materialize, key):
                yield _disagreement(pipe, first, key)
    with_engine = [pipe for pipe in pipes if _engine(pipe)]
    for pipe in with_engine[1:]:
        if _engine(pipe) != _engine(with_engine[0]):
            yield _disagreement(pipe, with_engine[0], "engine")


def _engine(pipe: Pipe) -> Engine | None:
    return pipe.materialize.engine if pipe.materialize else None


def _disagreement(pipe: Pipe, other: Pipe, key: str) -> RookeryError:
    materialize = pipe.materialize
    target = materialize.target if materialize else ""
    message = f"`{key}` differs from that of pipe `{other.name}`, which fills `{target}` too"
    place = materialize.place_of(key) if materialize else pipe.place
    return RookeryError(TARGET_CLASH, message, hint="say the same in both pipes", place=place)
