"""Parses test files. All problems of all files are reported together, each with its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from engine.errors import BAD_VALUE, DUPLICATE_NAME, MISSING_KEY, UNKNOWN_KIND, Collector, Place, RookeryError
from engine.project.files import WRONG_EXTENSIONS, listed_files
from engine.project.source import Location, Value, YamlList, YamlMapping, YamlSource, read
from engine.project.suite import Case, Suite
from engine.project.validation_errors import problems_of

FOLDER = "tests"
"""The folder with test files. Its subfolders are for fixtures and expected rows, and are not searched."""


def load_suites(root: Path, files: Iterable[Path] = ()) -> tuple[Suite, ...]:
    """Load these test files, or by default all files in `tests/`. Raises Problems."""
    problems = Collector()
    suites = []
    for file in listed_files(root, list(files) or _found(root), problems):
        try:
            suites.append(parse_suite(file.text, file.file))
        except RookeryError as problem:
            problems.add(problem)
    problems.raise_if_any()
    return tuple(suites)


def _found(root: Path) -> list[Path]:
    """The test files of a project. Those with a wrong extension are listed too, so that they are reported."""
    folder = root / FOLDER
    extensions = {".yaml", *WRONG_EXTENSIONS}
    if not folder.is_dir():
        return []
    return sorted(p.absolute() for p in folder.iterdir() if p.suffix in extensions and not p.name.startswith("."))


def parse_suite(text: str, file: str | None) -> Suite:
    """Parse the text of a test file. `file` is the path to show in messages.

    Raises Problems that lists everything wrong in the file: BAD_YAML, DUPLICATE_KEY, UNKNOWN_KEY, MISSING_KEY,
    BAD_VALUE, BAD_NAME, DUPLICATE_NAME, UNKNOWN_KIND.
    """
    source = YamlSource(file, text)
    problems = Collector()
    suite = _suite(source, problems)
    problems.problems.sort(key=lambda p: (p.place or Place()).line or 0)
    problems.raise_if_any()
    if suite is None:
        raise RookeryError(UNKNOWN_KIND, "the file declares nothing", place=Place(file, 1, 1))
    return suite


def _suite(source: YamlSource, problems: Collector) -> Suite | None:
    tree = read(source, problems)
    if tree is None:
        return None
    if not isinstance(tree, YamlMapping):
        hint = "a test file has the key `tests`"
        problems.add(
            RookeryError(
                UNKNOWN_KIND, "the file must contain a mapping", hint=hint, place=source.place(tree.location)
            )
        )
        return None
    try:
        suite = Suite.model_validate(tree)
    except ValidationError as exc:
        for problem in problems_of(Suite, tree, source, exc):
            problems.add(problem)
        return None
    for problem in _faults(suite, tree, source):
        problems.add(problem)
    return suite


def _faults(suite: Suite, tree: YamlMapping, source: YamlSource) -> Iterator[RookeryError]:
    """What is wrong with a file whose keys are all valid."""
    fixtures = tree.get("fixtures")
    if isinstance(fixtures, YamlMapping):
        for name, value in fixtures.items():
            if isinstance(value, YamlMapping):
                hint = "write a path, or a list of rows"
                message = f"fixture `{name}` must be a path or a list"
                yield RookeryError(BAD_VALUE, message, hint=hint, place=source.place(value.location))
            yield from _rows_faults(value, source)
    seen: dict[str, Location] = {}
    tests = tree["tests"]
    for case, written in zip(suite.tests, tests if isinstance(tests, YamlList) else (), strict=True):
        if not isinstance(written, YamlMapping):
            continue
        first = seen.setdefault(case.name, written.location)
        if first is not written.location:
            hint = f"the first one is on line {first.line}"
            message = f"there are two tests with the name `{case.name}`"
            yield RookeryError(DUPLICATE_NAME, message, hint=hint, place=case.place_of("name"))
        yield from _case_faults(case, written, source)


def _case_faults(case: Case, written: YamlMapping, source: YamlSource) -> Iterator[RookeryError]:
    for keys in (("endpoint", "sql"), ("expect", "expect_file", "expect_error")):
        present = [key for key in keys if key in written]
        listed = " or ".join(f"`{key}`" for key in keys)
        if not present:
            yield RookeryError(MISSING_KEY, f"test `{case.name}` has no {listed}", place=case.place)
        elif len(present) > 1:
            message = f"test `{case.name}` has both `{present[0]}` and `{present[1]}`"
            yield RookeryError(BAD_VALUE, message, hint="keep one of them", place=case.place_of(present[1]))
    if "expect" in written and not isinstance(written["expect"], YamlList):
        yield RookeryError(
            BAD_VALUE, "`expect` must be a list of rows", hint="[] for no rows", place=case.place_of("expect")
        )
    yield from _rows_faults(written.get("expect"), source)


def _rows_faults(rows: Value | None, source: YamlSource) -> Iterator[RookeryError]:
    """Items of a list of rows that are not rows."""
    for item in rows if isinstance(rows, YamlList) else ():
        if not isinstance(item, YamlMapping):
            hint = "write {column: value, …}"
            yield RookeryError(BAD_VALUE, "a row must be a mapping", hint=hint, place=source.place(item.location))
