"""From files to values: every problem of every file is reported at once, with its place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from engine.errors import BAD_NAME, BAD_YAML, UNKNOWN_KEY, UNKNOWN_KIND, Collector, Place, RookeryError
from engine.project.fields import name_fault
from engine.project.files import ProjectFile, find, listed_files
from engine.project.model import Datasource, Pipe, Project, Resource
from engine.project.source import Location, YamlMapping, YamlSource, YamlText, read
from engine.project.validation_errors import problems_of

_STAND_IN = "unnamed"


def parse_source(text: str, file: str | None, name: str) -> Resource:
    """The datasource or pipe that a file's text declares. Pure.

    `file` is shown in places; `name` is the resource's, which files take from their stem.
    Raises Problems with everything that is wrong: BAD_YAML, DUPLICATE_KEY, UNKNOWN_KEY, MISSING_KEY, BAD_VALUE,
    BAD_NAME, SORTING_KEY, UNKNOWN_KIND.
    """
    source = YamlSource(file, text)
    problems = Collector()
    fault = name_fault(name)
    if fault:
        problems.add(RookeryError(BAD_NAME, fault[0], hint=f"{fault[1]}; rename the file", place=Place(file, 1, 1)))
    resource = _resource(source, _STAND_IN if fault else name, problems)
    problems.problems.sort(key=_position)
    problems.raise_if_any()
    if resource is None:
        raise RookeryError(BAD_YAML, "the file declares nothing", place=Place(file, 1, 1))
    return resource


@dataclass(frozen=True, slots=True)
class Survey:
    """A folder's project as far as its files can be read, what is wrong with the others, and their names."""

    project: Project
    problems: Collector
    unreadable: frozenset[str]


def survey(root: Path) -> Survey:
    """The project in a folder: all files of `datasources/`, `pipes/` and `endpoints/`.

    Problems are those of `parse_source`, NO_FILE and DUPLICATE_NAME.
    """
    problems = Collector()
    return _survey(find(root, problems), problems)


def load(root: Path) -> Project:
    """The project in a folder. Raises Problems with all that `survey` finds."""
    return _whole(survey(root))


def load_files(root: Path, files: Iterable[Path]) -> Project:
    """The project that consists of these files only; paths are absolute or relative to `root`. Raises as `load`."""
    problems = Collector()
    return _whole(_survey(listed_files(root, files, problems), problems))


def _survey(files: Iterable[ProjectFile], problems: Collector) -> Survey:
    resources: dict[str, Resource] = {}
    unreadable: set[str] = set()
    for found in files:
        try:
            resource = parse_source(found.text, found.file, found.name)
            # The first of a name stays; that there are two is told here.
            Project.of([r for r in (resources.get(found.name), resource) if r is not None])
            resources[found.name] = resource
        except RookeryError as problem:
            problems.add(problem)
            unreadable.add(found.name)
    return Survey(Project.of(resources.values()), problems, frozenset(unreadable))


def _whole(found: Survey) -> Project:
    found.problems.raise_if_any()
    return found.project


def _resource(source: YamlSource, name: str, problems: Collector) -> Resource | None:
    tree = read(source, problems)
    if tree is None:
        return None
    if not isinstance(tree, YamlMapping):
        message, hint = "the file must hold a mapping", "a datasource has `columns`, a pipe has `nodes` or `sql`"
        problems.add(RookeryError(UNKNOWN_KIND, message, hint=hint, place=source.place(tree.location)))
        return None
    kind = _kind(tree, source, problems)
    if kind is None:
        return None
    if "name" in tree:
        message, hint = "unknown key `name`", "the name is that of the file, without .yaml"
        place = source.place(tree.key_locations["name"])
        problems.add(RookeryError(UNKNOWN_KEY, message, hint=hint, place=place))
    tree["name"] = _given(name, source)
    tree = kind.long_form(tree)
    try:
        return kind.model_validate(tree)
    except ValidationError as exc:
        for problem in problems_of(kind, tree, source, exc):
            problems.add(problem)
    return None


def _kind(tree: YamlMapping, source: YamlSource, problems: Collector) -> type[Datasource] | type[Pipe] | None:
    """Which of the two kinds of file a mapping is."""
    is_datasource, is_pipe = "columns" in tree, "nodes" in tree or "sql" in tree
    if is_datasource and is_pipe:
        message, hint = "the file has both `columns` and a query", "put the datasource and the pipe into two files"
    elif "nodes" in tree and "sql" in tree:
        message, hint = "the file has both `nodes` and `sql`", "`sql` is the short form of a single node"
    elif is_datasource or is_pipe:
        return Datasource if is_datasource else Pipe
    else:
        message, hint = "neither a datasource nor a pipe", "a datasource has `columns`, a pipe has `nodes` or `sql`"
        near = [m for key in tree for m in difflib.get_close_matches(key.lower(), ("columns", "nodes", "sql"), n=1)]
        hint = f"did you mean `{near[0]}`? {hint}" if near else hint
    problems.add(RookeryError(UNKNOWN_KIND, message, hint=hint, place=source.place(tree.location)))
    return None


def _position(problem: RookeryError) -> tuple[int, int]:
    place = problem.place or Place()
    return place.line or 0, place.column or 0


def _given(name: str, source: YamlSource) -> YamlText:
    text = YamlText(name)
    text.source, text.location, text.end, text.style, text.absent = source, Location(1, 1), Location(1, 1), "", False
    return text
