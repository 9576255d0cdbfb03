"""What `rookery dev` does on each save: read, compile, push, and show what changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from cli.dev.inputs import Choices, Inputs, read
from cli.dev.preview import preview, problem_of
from cli.dev.report import Problem, Reporter, Round
from cli.dev.scratch import Scratch, State, affected_pipes, stores_differ
from cli.options import options
from cli.testing.clock import Clock
from cli.testing.engine import ThrowawayEngine
from cli.testing.model import Outcome
from cli.testing.runner import Plan, Runner, Selection, planned
from engine.compiler.build import Build
from engine.errors import Collector, Problems, RookeryError
from engine.project.suite import Suite


class Rounds:
    """Processes saves one after the other. Used by one thread."""

    def __init__(
        self, engine: ThrowawayEngine, choices: Choices, reporter: Reporter, zone: ZoneInfo, step: Callable[[], None]
    ) -> None:
        """`step` is called between steps. It may raise an exception to end the round."""
        self._engine, self._choices, self._reporter, self._zone, self._step = engine, choices, reporter, zone, step
        self._scratch = Scratch(engine, step)
        self._clock = self._now()
        self._last: Inputs | str | None = None
        """What the last round read, or the message why it could not."""
        self._known_warnings: frozenset[str] = frozenset()

    def _now(self) -> Clock:
        return Clock(datetime.now(self._zone).replace(tzinfo=None))

    def files(self) -> list[Path]:
        """Files with sample rows, which may be anywhere."""
        suites = self._last.suites if isinstance(self._last, Inputs) else ()
        named = [
            (options.project / suite.file).parent / value
            for suite in suites
            for value in suite.fixtures.values()
            if isinstance(value, str)
        ]
        return [*self._choices.data.values(), *named]

    def close(self) -> None:
        """Close the workspace."""
        self._scratch.close()

    def run(self) -> None:
        """Process what has changed since the last round. Does nothing if the content of all files is the same."""
        started = time.monotonic()
        try:
            inputs = read(self._choices, self._clock)
        except RookeryError as exc:
            if self._last != str(exc):
                self._last = str(exc)
                self._reporter.changed([])
                self._done(_Counts(self._errors([exc])), started)
            return
        before = self._last
        if isinstance(before, Inputs) and inputs.same_as(before):
            return
        self._last = inputs
        self._reporter.changed(inputs.changed_files(before) if isinstance(before, Inputs) else [])
        self._done(self._process(inputs), started)

    def _process(self, inputs: Inputs) -> _Counts:
        found = Collector([*inputs.problems])
        build = None
        try:
            build = self._scratch.compile(inputs)
        except RookeryError as exc:
            found.problems = [*problems_in(exc), *found.problems]
        if build is None or found.problems:
            return _Counts(self._errors(found.problems))
        self._step()
        before = self._scratch.state
        names = affected_pipes(before, inputs, build)
        try:
            loaded = self._scratch.update(self._with_fresh_times(inputs, build), build)
        except RookeryError as exc:
            return _Counts(self._errors(problems_in(exc)))
        counts = _Counts(self._errors(loaded.errors))
        counts.warnings = self._warn([*inputs.warnings, *build.warnings, *loaded.warnings])
        self._show(names, counts)
        if self._choices.test:
            self._run_tests(before, names, counts)
        return counts

    def _with_fresh_times(self, inputs: Inputs, build: Build) -> Inputs:
        """The inputs with relative times from now on, if sample rows are about to be loaded."""
        before = self._scratch.state
        if before is None or stores_differ(before, inputs, build):
            self._clock = self._now()
            # If the files cannot be read by then, the next round reports it.
            with suppress(RookeryError):
                inputs = replace(inputs, fixtures=read(self._choices, self._clock).fixtures)
            # Otherwise the next round would take the new times for a change.
            self._last = inputs
        return inputs

    def _show(self, names: Sequence[str], counts: _Counts) -> None:
        """Show the results of pipes, and the errors of those that fail."""
        state = self._good_state()
        for name in names:
            self._step()
            try:
                shown = preview(state, name, self._choices)
                error = problem_of(shown)
            except RookeryError as exc:
                # No answer, or no token for it.
                error = RookeryError(exc.code, exc.message, hint=exc.hint, place=state.build.pipes[name].place)
            if error is not None:
                counts.errors += self._errors([error])
            else:
                counts.results += 1
                self._reporter.result(shown)

    def _run_tests(self, before: State | None, names: Sequence[str], counts: _Counts) -> None:
        """Run the tests of pipes, and those of changed test files."""
        state = self._good_state()
        outcomes: list[Outcome] = []
        errors: list[RookeryError] = []

        def finished(outcome: Outcome) -> None:
            outcomes.append(outcome)
            self._step()

        # Its warnings concern the same rows as those of the preview.
        runner = Runner(self._engine, state.inputs.survey.project, finished, lambda _: None)
        for suite in state.inputs.suites:
            try:
                plan = self._plan(state.inputs, suite, _selected(before, state.inputs, suite, names))
                if plan.cases:
                    runner.run(plan)
            except RookeryError as exc:
                errors += problems_in(exc)
        self._reporter.tests(outcomes)
        counts.errors += self._errors(errors)
        counts.tests = len({str(o.place) for o in outcomes})
        counts.failed_tests = len({str(o.place) for o in outcomes if o.failure})

    def _plan(self, inputs: Inputs, suite: Suite, selected: frozenset[str]) -> Plan:
        plan = planned(inputs.survey.project, suite, Selection(options.project, "", self._now(), update=False))
        return replace(plan, cases=[case for case in plan.cases if case.name in selected])

    def _good_state(self) -> State:
        assert self._scratch.state is not None, "the update has succeeded"
        return self._scratch.state

    def _errors(self, errors: Sequence[RookeryError]) -> int:
        """Report errors. Returns their number."""
        self._reporter.problems([Problem("error", error) for error in errors])
        return len(errors)

    def _warn(self, warnings: Sequence[RookeryError]) -> int:
        """Report the warnings that the last good round did not have. Returns the number of all."""
        self._reporter.problems([Problem("warning", w) for w in warnings if str(w) not in self._known_warnings])
        self._known_warnings = frozenset(map(str, warnings))
        return len(warnings)

    def _done(self, counts: _Counts, started: float) -> None:
        state = self._scratch.state
        self._reporter.done(
            Round(
                "none" if state is None else "current" if state.inputs is self._last else "kept",
                counts.errors,
                counts.warnings,
                counts.results,
                counts.tests,
                counts.failed_tests,
                state.rows if state else 0,
                time.monotonic() - started,
            )
        )


@dataclass(slots=True)
class _Counts:
    """What a round has reported."""

    errors: int = 0
    warnings: int = 0
    results: int = 0
    tests: int = 0
    failed_tests: int = 0


def problems_in(error: RookeryError) -> list[RookeryError]:
    """The errors that an error consists of."""
    return error.problems if isinstance(error, Problems) else [error]


def _selected(before: State | None, inputs: Inputs, suite: Suite, names: Sequence[str]) -> frozenset[str]:
    """Names of the tests of a file to run: all of a changed file, otherwise those that call one of the pipes, and
    queries if there is any pipe.
    """
    if (
        before is None
        or suite not in before.inputs.suites
        or (before.inputs.expected.get(suite.file) != inputs.expected[suite.file])
    ):
        return frozenset(case.name for case in suite.tests)
    return frozenset(case.name for case in suite.tests if case.endpoint in names or (case.sql and names))
