"""Compiling a project so that all that is wrong is told at once: unreadable files, broken rules, and SQL."""

from __future__ import annotations

from collections.abc import Callable

from engine.compiler.build import Build
from engine.errors import Collector, Problems
from engine.project.check import check
from engine.project.model import Project


def compile_all(
    project: Project,
    compiled: Callable[[frozenset[str]], Build],
    problems: Collector | None = None,
    unreadable: frozenset[str] = frozenset(),
) -> Build:
    """What a project compiles to. Raises Problems: those that are given, and all others.

    `compiled` builds the project without resources whose problems are told already, and what stands on them.
    `unreadable` are resources whose files cannot be read.
    """
    found = Collector([*(problems.problems if problems else ()), *check(project, unreadable)])
    files = {p.place.file for p in found.problems if p.place}
    told = unreadable | {r.name for r in project.resources() if r.place.file in files}
    try:
        build = compiled(told)
    except Problems as exc:
        found.add(exc)
    found.raise_if_any()
    return build
