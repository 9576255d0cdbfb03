"""Runs the test files of the project, and prints their outcomes. Importing this module imports the engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from cli import interrupts, output
from cli.options import options
from cli.project_files import surveyed
from cli.testing.clock import Clock
from cli.testing.engine import throwaway
from cli.testing.model import Outcome, Report
from cli.testing.report import print_file, print_summary
from cli.testing.runner import Plan, Runner, Selection, planned
from engine.errors import NO_FILE, USAGE, Collector, RookeryError
from engine.project.model import Project
from engine.project.suites import FOLDER, load_suites


def run(files: Sequence[Path], select: str | None, *, update: bool) -> Report:
    """Run test files, or all of the project. Raises the errors of files, of the project and of fixtures."""
    started = time.monotonic()
    report = Report()
    project, plans = _plans(files, select, update=update)
    with interrupts.raised(), throwaway(options.loaded()) as engine, output.progress("test") as bar:
        total = sum(
            len(plan.cases) * sum(a.judged for a in plan.arrangements()) + len(plan.isolated()) for plan in plans
        )

        def finished(outcome: Outcome) -> None:
            report.outcomes.append(outcome)
            bar(outcome.name, len(report.outcomes), total)

        for plan in plans:
            before = len(report.outcomes)
            Runner(engine, project, finished, lambda text: output.say(f"warning: {text}", "yellow")).run(plan)
            if not options.json:
                print_file(report.outcomes[before:])
    report.seconds = time.monotonic() - started
    if not options.json:
        print_summary(report)
    return report


def _plans(files: Sequence[Path], select: str | None, *, update: bool) -> tuple[Project, list[Plan]]:
    """The project, and a plan for each file that has selected tests."""
    # First, because checking the project takes seconds.
    suites = load_suites(options.project, map(_path, files))
    if not suites:
        hint = "docs/testing.md shows a first test"
        raise RookeryError(NO_FILE, f"the project has no test files: {FOLDER}/*.yaml", hint=hint)
    survey = surveyed()
    survey.problems.raise_if_any()
    zone = ZoneInfo(options.loaded().timezone or "UTC")
    selection = Selection(options.project, select or "", Clock(datetime.now(zone).replace(tzinfo=None)), update)
    problems, plans = Collector(), []
    for suite in suites:
        try:
            plan = planned(survey.project, suite, selection)
        except RookeryError as problem:
            problems.add(problem)
            continue
        if plan.cases:
            plans.append(plan)
    problems.raise_if_any()
    if not plans:
        raise RookeryError(USAGE, f"no test contains `{select}`", hint="-k searches the files and names of tests")
    return survey.project, plans


def _path(file: Path) -> Path:
    """The absolute path of a file that is named relative to the current directory or to the project."""
    in_project = options.project / file
    return (in_project if in_project.exists() and not file.exists() else file).absolute()
