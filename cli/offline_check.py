"""Compile a project without a workspace, for `check` and `dev`. Importing this module imports the engine."""

from __future__ import annotations

from contextlib import closing

from cli import interrupts
from engine.compiler.build import Build, KnownProblems, build
from engine.compiler.compose import Verifier
from engine.compiler.diagnostics import compile_all
from engine.project.parse import Survey
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.port import Warehouse, WarehouseOptions
from engine.workspace.analyser import Analyser

NAME = "check"
"""The name of the workspace that a compiled project would have."""


class OfflineCompiler:
    """Compiles projects against an engine. Verified SQL is cached, so compiling a changed project is fast."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._verifier, self._analyser = Verifier(warehouse), Analyser(warehouse, NAME)

    def __call__(self, survey: Survey) -> Build:
        """The build of a project. Raises Problems with every error, in files and in SQL."""

        def compile(reported: frozenset[str]) -> Build:
            return build(survey.project, NAME, self._verifier, self._analyser, KnownProblems(reported))

        return compile_all(survey.project, compile, survey.problems, survey.unreadable)


def compiled(survey: Survey) -> Build:
    """The build of a project, compiled by an engine in memory. Raises the same as OfflineCompiler."""
    options = WarehouseOptions(database=f"{NAME}_empty")
    with interrupts.raised(), closing(EmbeddedWarehouse(None, options)) as warehouse:
        return OfflineCompiler(warehouse)(survey)
