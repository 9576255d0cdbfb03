"""The files of the project, for commands that read or write them. Importing this module imports YAML and pydantic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cli.options import options
from engine.errors import (
    BAD_NAME,
    NO_FILE,
    NOT_A_PROJECT,
    TARGET_EXISTS,
    UNKNOWN_RESOURCE,
    UNKNOWN_TABLE,
    Collector,
    Place,
    Problems,
    RookeryError,
)
from engine.project.files import FOLDERS
from engine.project.model import Project
from engine.project.overlooked import misspelled, overlooked
from engine.project.parse import Survey, load, load_files, parse_source, survey
from engine.project.pipe import Node, Pipe
from engine.project.write import render_pipe

_QUERY = "query"
"""How messages name the query of a pipe that has no file yet."""


def project_folder() -> Path:
    """The directory of the project. Raises RK7004 outside a project."""
    root = options.project
    if not root.is_dir():
        problem = "is not a directory" if root.exists() else "does not exist"
        raise RookeryError(NOT_A_PROJECT, f"{root.resolve()} {problem}", hint="check the path after -C")
    if not any((root / f).is_dir() for f in FOLDERS):
        hint = "rookery init creates a project; -C DIRECTORY selects one"
        if near := [f"rename {name}/ to {folder}/" for name, folder in misspelled(root)]:
            hint = f"{'; '.join(near)}, or: {hint}"
        raise RookeryError(NOT_A_PROJECT, f"{root.resolve()} has no datasources/ or pipes/", hint=hint)
    return root


def surveyed() -> Survey:
    """The files of the project, with the errors of those that cannot be read. Raises RK7004 outside a project."""
    return survey(project_folder())


def overlooked_files() -> list[dict[str, Any]]:
    """Warnings about files of the project that are not read."""
    return [w.as_dict() for w in overlooked(options.project)]


def _valid_project() -> Project:
    """The project. Raises Problems for files that cannot be read."""
    survey = surveyed()
    if survey.problems.problems:
        # Some files cannot be read. Compiling the others reports all errors at once.
        from cli.offline_check import compiled

        compiled(survey)
    return survey.project


def _bodies(project: Project) -> list[dict[str, str]]:
    return [{"name": r.name, "file": r.place.file or "", "text": r.text} for r in project.resources()]


def names(files: Sequence[Path]) -> set[str]:
    """Names of the resources in files."""
    return {r.name for r in load_files(options.project, _paths(files)).resources()}


def _paths(files: Iterable[Path]) -> list[Path]:
    """Absolute paths. A path that does not exist is searched in the project by its name. Raises RK1008."""
    paths = []
    for file in files:
        path = file.absolute()
        if not path.exists():
            named = by_name(file.name.removesuffix(".yaml"))
            if named is None:
                raise RookeryError(
                    NO_FILE, f"file {file} does not exist", hint="use a path, or the name of a resource"
                )
            path = named
        paths.append(path)
    return paths


def by_name(name: str) -> Path | None:
    """The file of a resource, searched in the folders of the project."""
    root = options.project.resolve()
    return next((p for f in FOLDERS for p in sorted((root / f).rglob(f"{name}.yaml"))), None)


def push_body(files: Sequence[Path] | None, *, push_deps: bool = False, **flags: Any) -> dict[str, Any]:
    """The body of `POST /v0/push`. Raises Problems for files that cannot be read."""
    body: dict[str, Any] = dict(flags)
    if not files:
        project = _valid_project()
    else:
        listed = load_files(options.project, _paths(files))
        body["only"] = [r.name for r in listed.resources()]
        body["with_dependencies"] = push_deps
        project = load(options.project).merged(listed) if push_deps else listed
    body["files"] = _bodies(project)
    return body


def bodies_with(name: str, path: Path | None) -> list[dict[str, str]]:
    """The files of the project, if there is one. The file at `path` replaces that of the resource `name`."""
    found = _bodies(load(options.project)) if any((options.project / f).is_dir() for f in FOLDERS) else []
    if path is None:
        return found
    listed = load_files(options.project, [path.resolve()])
    return [*(b for b in found if b["name"] != name), *_bodies(listed)]


def write_pipe(name: str, sql: str, folder: str, *, force: bool) -> tuple[Path, list[RookeryError] | None]:
    """Write the file of a pipe. Returns its path, and warnings; None instead of warnings if the file exists already.

    Raises RK3011 if another file exists, and Problems for SQL that is not valid. Tables may be declared later, so
    unknown ones only cause warnings.
    """
    if folder not in FOLDERS:
        raise RookeryError(BAD_NAME, f"a project has no folder {folder}", hint=", ".join(FOLDERS))
    existing = by_name(name)
    path = existing or options.project / folder / f"{name}.yaml"
    if not path.resolve().is_relative_to(options.project.resolve()):
        raise RookeryError(NO_FILE, f"{path} is outside the project", hint="remove the link")
    try:
        pipe = Pipe(name=name, nodes=(Node(name=f"{name}_0", sql=sql),))
    except ValueError as exc:
        raise RookeryError(
            BAD_NAME, f"`{name}` is not a valid name of a pipe", hint="use letters, digits and _"
        ) from exc
    if existing is not None and not force:
        _require_same_query(path, name, sql)
        return path, None
    text = render_pipe(pipe)
    problems = list(_problems_of_query(pipe, text))
    if any(p.code is not UNKNOWN_TABLE for p in problems):
        raise Problems(problems)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path, problems


def _problems_of_query(pipe: Pipe, text: str) -> Iterator[RookeryError]:
    """Yield the problems of a pipe in a file with this text, with their places in its query."""
    # The engine takes a second to start, so it is imported only for the commands that need it.
    from cli.offline_check import compiled

    new = parse_source(text, _QUERY, pipe.name)
    others = survey(options.project) if options.project.is_dir() else Survey(Project.of(()), Collector(), frozenset())
    resources = [new, *(r for r in others.project.resources() if r.name != pipe.name)]
    try:
        compiled(Survey(Project.of(resources), Collector(), others.unreadable - {pipe.name}))
    except Problems as exc:
        start = new.nodes[0].position(1, 1) if isinstance(new, Pipe) else Place()
        for problem in exc.problems:
            if problem.place and problem.place.file == _QUERY:
                yield RookeryError(
                    problem.code,
                    problem.message,
                    hint=problem.hint,
                    place=_in_query(problem.place, start),
                )


def _in_query(place: Place, start: Place) -> Place:
    """A place in a file as one in the query, which begins at `start` in the file."""
    line = max((place.line or 1) - (start.line or 1), 0) + 1
    column = max((place.column or 1) - (start.column or 1), 0) + 1
    return replace(place, file=_QUERY, line=line, column=column)


def _require_same_query(path: Path, name: str, sql: str) -> None:
    """Raise RK3011 if a file has another query, or is not the file of a pipe."""
    present = parse_source(path.read_text(encoding="utf-8"), str(path), name)
    if not isinstance(present, Pipe) or present.nodes[0].sql.strip() != sql.strip():
        raise RookeryError(TARGET_EXISTS, f"{path} exists and differs", hint="--force overwrites it")


def node_names(request: dict[str, Any]) -> list[str]:
    """Names of the pipe's nodes; none if its file is not in the request. Raises RK3007 for a datasource."""
    source = next((f for f in request["files"] if f["name"] == request["pipe"]), None)
    if source is None:
        return []
    parsed = parse_source(source["text"], source["file"], source["name"])
    if not isinstance(parsed, Pipe):
        raise RookeryError(UNKNOWN_RESOURCE, f"`{request['pipe']}` is not a pipe")
    return [n.name for n in parsed.nodes]
