"""Parses project files into models. All problems of all files are reported together, each with its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from engine.errors import (
    BAD_NAME,
    BAD_YAML,
    UNKNOWN_KEY,
    UNKNOWN_KIND,
    Collector,
    Place,
    RookeryError,
    did_you_mean,
)
from engine.project.datasource import Datasource
from engine.project.fields import name_fault
from engine.project.files import ProjectFile, listed_files, project_files
from engine.project.model import Project, Resource
from engine.project.pipe import Pipe
from engine.project.source import Location, YamlMapping, YamlSource, YamlText, read
from engine.project.validation_errors import problems_of

_PLACEHOLDER_NAME = "unnamed"
"""Name under which a file with an invalid name is parsed, so that its other problems are reported as well."""


def parse_source(text: str, file: str | None, name: str) -> Resource:
    """Parse the text of a file into a datasource or pipe. Pure.

    `file` is the path to show in messages. `name` is the name of the resource: for files, their name without .yaml.
    Raises Problems that lists everything wrong in the file: BAD_YAML, DUPLICATE_KEY, UNKNOWN_KEY, MISSING_KEY,
    BAD_VALUE, BAD_NAME, SORTING_KEY, UNKNOWN_KIND.
    """
    source = YamlSource(file, text)
    problems = Collector()
    fault = name_fault(name)
    if fault:
        problems.add(RookeryError(BAD_NAME, fault[0], hint=f"{fault[1]}; rename the file", place=Place(file, 1, 1)))
    resource = _resource(source, _PLACEHOLDER_NAME if fault else name, problems)
    problems.problems.sort(key=_position)
    problems.raise_if_any()
    if resource is None:
        raise RookeryError(BAD_YAML, "the file declares nothing", place=Place(file, 1, 1))
    return resource


@dataclass(frozen=True, slots=True)
class Survey:
    """What `survey` finds in a folder."""

    project: Project
    """The resources whose files could be parsed."""
    problems: Collector
    """What is wrong with the other files."""
    unreadable: frozenset[str]
    """Names of the resources whose files could not be parsed."""


def survey(root: Path) -> Survey:
    """Read all files in the folders `datasources/`, `pipes/` and `endpoints/`, and continue past faulty ones.

    The problems have the codes of `parse_source`, NO_FILE or DUPLICATE_NAME.
    """
    problems = Collector()
    return _survey(project_files(root, problems), problems)


def load(root: Path) -> Project:
    """Load the project in a folder. Raises Problems if `survey` finds any."""
    return _require_sound(survey(root))


def load_files(root: Path, files: Iterable[Path]) -> Project:
    """Load a project from these files only. Relative paths start at `root`. Raises the same problems as `load`."""
    problems = Collector()
    return _require_sound(_survey(listed_files(root, files, problems), problems))


def _survey(files: Iterable[ProjectFile], problems: Collector) -> Survey:
    """Parse files one by one. A faulty file does not prevent the others from being checked."""
    resources: dict[str, Resource] = {}
    unreadable: set[str] = set()
    for file in files:
        try:
            resource = parse_source(file.text, file.file, file.name)
            # Raises DUPLICATE_NAME if an earlier file has the same name. The earlier resource is kept.
            Project.of([r for r in (resources.get(file.name), resource) if r is not None])
            resources[file.name] = resource
        except RookeryError as problem:
            problems.add(problem)
            unreadable.add(file.name)
    return Survey(Project.of(resources.values()), problems, frozenset(unreadable))


def _require_sound(survey: Survey) -> Project:
    """The project of a survey. Raises Problems if it has any."""
    survey.problems.raise_if_any()
    return survey.project


def _resource(source: YamlSource, name: str, problems: Collector) -> Resource | None:
    """The resource in a file; None, with problems, if it is not valid."""
    tree = read(source, problems)
    if tree is None:
        return None
    if not isinstance(tree, YamlMapping):
        message = "the file must contain a mapping"
        hint = "a datasource has the key `columns`, a pipe has `nodes` or `sql`"
        problems.add(RookeryError(UNKNOWN_KIND, message, hint=hint, place=source.place(tree.location)))
        return None
    kind = _kind(tree, source, problems)
    if kind is None:
        return None
    if "name" in tree:
        message, hint = "unknown key `name`", "remove it: the name is that of the file, without .yaml"
        place = source.place(tree.key_locations["name"])
        problems.add(RookeryError(UNKNOWN_KEY, message, hint=hint, place=place))
    # The model has the name of the resource, but files do not repeat it.
    tree["name"] = YamlText.at(name, source, Location(1, 1))
    tree = kind.long_form(tree)
    try:
        return kind.model_validate(tree)
    except ValidationError as exc:
        for problem in problems_of(kind, tree, source, exc):
            problems.add(problem)
    return None


def _kind(tree: YamlMapping, source: YamlSource, problems: Collector) -> type[Datasource] | type[Pipe] | None:
    """The model for a file, from the keys of its mapping; None, with a problem, if it is unclear."""
    is_datasource, is_pipe = "columns" in tree, "nodes" in tree or "sql" in tree
    if is_datasource and is_pipe:
        message, hint = "the file has both `columns` and a query", "move the datasource and the pipe into two files"
    elif "nodes" in tree and "sql" in tree:
        message, hint = "the file has both `nodes` and `sql`", "keep one of them: `sql` is short for a single node"
    elif is_datasource or is_pipe:
        return Datasource if is_datasource else Pipe
    else:
        message = "the file declares neither a datasource nor a pipe"
        hint = "a datasource has `columns`, a pipe has `nodes` or `sql`"
        meant = next((m for key in tree if (m := did_you_mean(key, ("columns", "nodes", "sql")))), None)
        hint = f"{meant} {hint}" if meant else hint
    problems.add(RookeryError(UNKNOWN_KIND, message, hint=hint, place=source.place(tree.location)))
    return None


def _position(problem: RookeryError) -> tuple[int, int]:
    place = problem.place or Place()
    return place.line or 0, place.column or 0
