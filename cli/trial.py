"""Compiling a project against an engine in memory, for `check`. Importing this imports the engine."""

from __future__ import annotations

from engine.compiler.build import Build, build
from engine.compiler.compose import Verifier
from engine.plan.analysis import Analyser
from engine.project.model import Project
from engine.warehouse.embedded import EmbeddedWarehouse


def compiled(project: Project) -> Build:
    """The project's build; nothing outlives it. Raises Problems."""
    warehouse = EmbeddedWarehouse(None, database="check_empty")
    try:
        return build(project, "check", Verifier(warehouse), Analyser(warehouse, "check"))
    finally:
        warehouse.close()
