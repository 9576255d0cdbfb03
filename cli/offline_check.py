"""Compiling a project against an engine in memory, for `check`. Importing this imports the engine."""

from __future__ import annotations

from functools import partial

from engine.compiler.build import Build, build
from engine.compiler.compose import Verifier
from engine.compiler.diagnostics import compile_all
from engine.project.parse import Survey
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.workspace.analyser import Analyser


def compiled(found: Survey) -> Build:
    """The project's build; nothing outlives it. Raises Problems with all that is wrong, in files and in SQL."""
    warehouse = EmbeddedWarehouse(None, database="check_empty")
    try:
        compile = partial(build, found.project, "check", Verifier(warehouse), Analyser(warehouse, "check"))
        return compile_all(found.project, lambda told: compile(reported=told), found.problems, found.unreadable)
    finally:
        warehouse.close()
