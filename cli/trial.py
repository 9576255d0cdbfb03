"""Compiling a project against an engine in memory, for `check`. Importing this imports the engine."""

from __future__ import annotations

from engine.compiler.build import Build, build
from engine.compiler.compose import Verifier
from engine.errors import Collector, Problems
from engine.plan.analysis import Analyser
from engine.project.check import check
from engine.project.model import Project
from engine.warehouse.embedded import EmbeddedWarehouse


def compiled(project: Project) -> Build:
    """The project's build; nothing outlives it. Raises Problems with all that is wrong, in files and in SQL."""
    problems = Collector(check(project))
    files = {p.place.file for p in problems.problems if p.place}
    told = frozenset(r.name for r in project.resources() if r.place.file in files)
    warehouse = EmbeddedWarehouse(None, database="check_empty")
    try:
        found = build(project, "check", Verifier(warehouse), Analyser(warehouse, "check"), told=told)
    except Problems as exc:
        problems.add(exc)
    finally:
        warehouse.close()
    problems.raise_if_any()
    return found
