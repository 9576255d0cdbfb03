"""Compile a project against an engine in memory, for `check`. Importing this module imports the engine."""

from __future__ import annotations

from contextlib import closing
from functools import partial

from cli import interrupts
from engine.compiler.build import Build, KnownProblems, build
from engine.compiler.compose import Verifier
from engine.compiler.diagnostics import compile_all
from engine.project.parse import Survey
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.port import WarehouseOptions
from engine.workspace.analyser import Analyser


def compiled(survey: Survey) -> Build:
    """The build of a project. Raises Problems with every error, in files and in SQL."""
    with interrupts.raised(), closing(EmbeddedWarehouse(None, WarehouseOptions(database="check_empty"))) as warehouse:
        compile = partial(build, survey.project, "check", Verifier(warehouse), Analyser(warehouse, "check"))
        return compile_all(
            survey.project, lambda reported: compile(KnownProblems(reported)), survey.problems, survey.unreadable
        )
