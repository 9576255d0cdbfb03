"""Rules across the files of a project, as far as they can be checked without parsing SQL."""

from __future__ import annotations

from collections.abc import Iterator

from engine.errors import BAD_VALUE, DUPLICATE_NAME, TARGET_CLASH, UNKNOWN_TABLE, Place, RookeryError, did_you_mean
from engine.project.check_datasource import check_datasource, check_engine
from engine.project.check_pipe import check_pipe
from engine.project.datasource import Engine
from engine.project.model import Project
from engine.project.pipe import Materialize, Pipe


def check(project: Project, unreadable: frozenset[str] = frozenset()) -> list[RookeryError]:
    """Return all problems of a project, sorted by file and line; an empty list if there are none. Pure.

    `unreadable` names resources that exist but whose files could not be parsed. References to them are not reported.
    """
    problems: list[RookeryError] = []
    for datasource in project.datasources.values():
        problems.extend(check_datasource(datasource))
    for pipe in project.pipes.values():
        problems.extend(check_pipe(pipe))
    problems.extend(_names(project))
    problems.extend(_targets(project, unreadable))
    return sorted(problems, key=_position)


def _position(problem: RookeryError) -> tuple[str, int, int]:
    place = problem.place or Place()
    return place.file or "", place.line or 0, place.column or 0


def _names(project: Project) -> Iterator[RookeryError]:
    """Report names that differ only in case, and nodes with the name of a datasource or pipe."""
    by_lower_case: dict[str, str] = {}
    places = {resource.name: resource.place for resource in project.resources()}
    for pipe in project.pipes.values():
        if pipe.materialize:
            # A target without a file of its own becomes a table of this name, too.
            places.setdefault(pipe.materialize.target, pipe.materialize.place_of("target"))
    for name, place in places.items():
        other = by_lower_case.setdefault(name.lower(), name)
        if other != name:
            message = f"`{name}` differs from `{other}` only in upper and lower case"
            hint = "some file systems treat them as the same name; rename one of them"
            yield RookeryError(DUPLICATE_NAME, message, hint=hint, place=place)
    for pipe in project.pipes.values():
        for node in pipe.nodes:
            if node.name in places:
                message = f"node `{node.name}` has the same name as a datasource or pipe"
                hint = f"rename the node, for example to {node.name[:100]}_node"
                yield RookeryError(DUPLICATE_NAME, message, hint=hint, place=node.place_of("name"))


def _targets(project: Project, unreadable: frozenset[str]) -> Iterator[RookeryError]:
    """Report pipes and targets that contradict each other."""
    pipes_by_target: dict[str, list[Pipe]] = {}
    for pipe in project.pipes.values():
        if pipe.materialize:
            pipes_by_target.setdefault(pipe.materialize.target, []).append(pipe)
    # A pipe with an `engine` declares its target for the other pipes that fill it.
    created = {target for target, pipes in pipes_by_target.items() if any(_engine(pipe) for pipe in pipes)}
    for pipe in project.pipes.values():
        if pipe.materialize:
            yield from _target(project, pipe.materialize, created | unreadable)
    for pipes in pipes_by_target.values():
        yield from _agreement(pipes)
    for datasource in project.datasources.values():
        # A file that cannot be read may be the pipe that fills this datasource.
        if datasource.shared.min_tenants and datasource.name not in pipes_by_target and not unreadable:
            message = f"no pipe fills `{datasource.name}`, so its rows cannot be groups of tenants"
            hint = "remove `min_tenants`, or write the pipe that fills it"
            yield RookeryError(BAD_VALUE, message, hint=hint, place=datasource.shared.place_of("min_tenants"))


def _target(project: Project, materialize: Materialize, without_file: set[str]) -> Iterator[RookeryError]:
    """Check a pipe against its target. `without_file` are targets that exist without a readable file of their own."""
    target, place = materialize.target, materialize.place_of("target")
    datasource = project.datasources.get(target)
    if materialize.engine:
        yield from check_engine(materialize.engine)
    if target in project.pipes:
        message, hint = f"target `{target}` is a pipe", "a target is a datasource"
        yield RookeryError(TARGET_CLASH, message, hint=hint, place=place)
    elif datasource is None:
        if target not in without_file:
            message, hint = f"target `{target}` does not exist", _near(target, project)
            yield RookeryError(UNKNOWN_TABLE, message, hint=hint, place=place)
    elif datasource.is_landing:
        message = f"target `{target}` is a landing datasource, which only accepts events"
        hint = "fill another datasource, or set `landing: false` under its `tenant`"
        yield RookeryError(TARGET_CLASH, message, hint=hint, place=place)
    elif token := next((t for t in datasource.tokens if t.scope == "APPEND"), None):
        message = f"token `{token.name}` could not append to `{target}`, because a pipe fills it"
        yield RookeryError(BAD_VALUE, message, hint="remove the token", place=token.place_of("scope"))
    elif datasource.strict:
        message = f"`strict` only applies to rows that are sent, but a pipe fills `{target}`"
        yield RookeryError(BAD_VALUE, message, hint="remove `strict`", place=datasource.place_of("strict"))
    elif materialize.per_tenant and datasource.tenant is None:
        message = f"target `{target}` of a per-tenant pipe has no tenant column"
        hint = "add `tenant: {column: …, landing: false}` to it"
        yield RookeryError(TARGET_CLASH, message, hint=hint, place=place)
    elif materialize.engine and materialize.engine != datasource.engine:
        message = f"`engine` differs from the engine that the file of `{target}` declares"
        hint = "remove it here: the target's own file decides"
        yield RookeryError(TARGET_CLASH, message, hint=hint, place=materialize.place_of("engine"))


def _near(name: str, project: Project) -> str:
    """A hint for a target that does not exist."""
    meant = did_you_mean(name, project.datasources)
    return f"{meant + ' ' if meant else ''}write datasources/{name}.yaml, or set `engine` here to create it"


def _agreement(pipes: list[Pipe]) -> Iterator[RookeryError]:
    """Report pipes that fill the same target but describe it differently."""
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
    """The engine that a pipe declares for its target."""
    return pipe.materialize.engine if pipe.materialize else None


def _disagreement(pipe: Pipe, other: Pipe, key: str) -> RookeryError:
    materialize = pipe.materialize
    target = materialize.target if materialize else ""
    message = f"`{key}` differs from that of pipe `{other.name}`, which also fills `{target}`"
    place = materialize.place_of(key) if materialize else pipe.place
    return RookeryError(TARGET_CLASH, message, hint="use the same value in both pipes", place=place)
