"""Runs the test files of the project, and prints their outcomes. Importing this module imports the engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from cli import interrupts, output
from cli.options import options
from cli.project_files import surveyed
from cli.testing.engine import throwaway
from cli.testing.model import Outcome, Report
from cli.testing.report import print_file, print_summary
from cli.testing.runner import Plan, Runner, planned
from engine.errors import NO_FILE, USAGE, Collector, RookeryError
from engine.project.model import Project
from engine.project.suite import Case, Suite
from engine.project.suites import FOLDER, load_suites


def run(files: Sequence[Path], select: str | None, *, update: bool) -> Report:
    """Run test files, or all of the project. Raises the errors of files, of the project and of fixtures."""
    started = time.monotonic()
    report = Report()
    plans = _plans(files, select, update=update)
    with interrupts.raised(), throwaway(options.loaded()) as engine, output.progress("test") as bar:
        total = sum(len(plan.cases) * (len(plan.arrangements()) + 1) for _, plan in plans)

        def finished(outcome: Outcome) -> None:
            report.outcomes.append(outcome)
            bar(outcome.name, len(report.outcomes), total)

        for project, plan in plans:
            before = len(report.outcomes)
            Runner(engine, project, finished, lambda text: output.say(f"warning: {text}", "yellow")).run(plan)
            if not options.json:
                print_file(report.outcomes[before:])
    report.seconds = time.monotonic() - started
    if not options.json:
        print_summary(report)
    return report


def _plans(files: Sequence[Path], select: str | None, *, update: bool) -> list[tuple[Project, Plan]]:
    """The project with the plan for each file that has selected tests."""
    survey = surveyed()
    survey.problems.raise_if_any()
    suites = load_suites(options.project, [file.absolute() for file in files])
    if not suites:
        hint = "docs/testing.md shows a first test"
        raise RookeryError(NO_FILE, f"the project has no test files: {FOLDER}/*.yaml", hint=hint)
    problems, plans = Collector(), []
    for suite in suites:
        try:
            plan = planned(survey.project, suite, options.project, _selection(suite, select), update=update)
        except RookeryError as problem:
            problems.add(problem)
            continue
        if plan.cases:
            plans.append((survey.project, plan))
    problems.raise_if_any()
    if not plans:
        raise RookeryError(USAGE, f"no test contains `{select}`", hint="-k searches the files and names of tests")
    return plans


class _selection:  # noqa: N801
    """Whether a test's file or name contains a text, regardless of case."""

    def __init__(self, suite: Suite, text: str | None) -> None:
        self._file, self._text = suite.file, (text or "").lower()

    def __call__(self, case: Case) -> bool:
        return self._text in f"{self._file}::{case.name}".lower()
