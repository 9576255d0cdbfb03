"""Compiles a project and reports all problems together: unreadable files, broken rules, and SQL errors."""

from __future__ import annotations

from collections.abc import Callable

from engine.compiler.build import Build
from engine.errors import Collector, Problems
from engine.project.check import check
from engine.project.model import Project


def compile_all(
    project: Project,
    compile_project: Callable[[frozenset[str]], Build],
    problems: Collector | None = None,
    unreadable: frozenset[str] = frozenset(),
) -> Build:
    """Compile a project. Raises Problems with `problems` and all that are found.

    `compile_project` builds the project. Its argument names the resources with reported problems, which it must skip
    together with the resources that depend on them. `unreadable` are resources whose files cannot be read.
    """
    collected = Collector([*(problems.problems if problems else ()), *check(project, unreadable)])
    files = {p.place.file for p in collected.problems if p.place}
    reported = unreadable | {r.name for r in project.resources() if r.place.file in files}
    try:
        build = compile_project(reported)
    except Problems as exc:
        collected.add(exc)
    collected.raise_if_any()
    return build
