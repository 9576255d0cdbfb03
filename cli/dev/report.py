"""Shows what `rookery dev` finds: as text of the terminal's width, or as a stream of JSON events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import orjson

from cli import output
from cli.dev.preview import Preview
from cli.tables import Column
from cli.testing.model import Outcome
from cli.testing.report import outcome_as_dict, print_file
from cli.testing.values import json_text
from engine.errors import RookeryError
from engine.plurals import counted

Level = Literal["error", "warning"]
_STATES = {"current": "up to date", "kept": "the last good state stays", "none": "nothing works yet"}
MAX_SHOWN = 50
"""Maximum number of problems that the text shows. The stream has all of them."""
_TEXTS = ("String", "Array", "Map", "Tuple", "JSON", "Dynamic", "Variant", "Nested")


@dataclass(frozen=True, slots=True)
class Problem:
    """An error or a warning."""

    level: Level
    error: RookeryError


@dataclass(frozen=True, slots=True)
class Round:
    """How a save was processed."""

    state: Literal["current", "kept", "none"]
    """Whether the workspace has the current files, those of the last good state, or none yet."""
    errors: int
    warnings: int
    results: int
    tests: int
    failed_tests: int
    rows: int
    """Sample rows in the workspace."""
    seconds: float


class Reporter(Protocol):
    """Shows events in the order in which they happen."""

    def watching(self, root: Path) -> None:
        """Files are watched from now on."""

    def changed(self, files: Sequence[str]) -> None:
        """Files were saved, or the first round begins."""

    def problems(self, problems: Sequence[Problem]) -> None: ...

    def result(self, preview: Preview) -> None: ...

    def tests(self, outcomes: Sequence[Outcome]) -> None: ...

    def done(self, round: Round) -> None: ...


class JsonReporter:
    """Prints each event as a line of JSON."""

    def watching(self, root: Path) -> None:
        self._event("watching", directory=str(root.resolve()))

    def changed(self, files: Sequence[str]) -> None:
        self._event("changed", files=list(files))

    def problems(self, problems: Sequence[Problem]) -> None:
        for problem in problems:
            place = problem.error.place
            self._event(
                "problem",
                level=problem.level,
                **problem.error.as_dict(),
                file=place.file if place else None,
                line=place.line if place else None,
                column=place.column if place else None,
            )

    def result(self, preview: Preview) -> None:
        answer = preview.answer
        self._event(
            "result",
            pipe=preview.pipe.name,
            kind=preview.pipe.kind,
            target=preview.target,
            tenant=preview.tenant,
            parameters=preview.call.params,
            rows=preview.rows,
            seconds=answer.seconds,
            columns=[{"name": c.name, "type": c.type.text} for c in answer.columns],
            data=[orjson.Fragment(json_text(row)) for row in answer.rows],
        )

    def tests(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._event("test", **outcome_as_dict(outcome))

    def done(self, round: Round) -> None:
        self._event(
            "done",
            state=round.state,
            errors=round.errors,
            warnings=round.warnings,
            results=round.results,
            tests=round.tests,
            failed_tests=round.failed_tests,
            sample_rows=round.rows,
            seconds=round.seconds,
        )

    def _event(self, event: str, **fields: Any) -> None:
        output.raw(orjson.dumps({"event": event, **fields}, option=orjson.OPT_APPEND_NEWLINE))


class TextReporter:
    """Prints text that fits the terminal, or 80 columns."""

    def __init__(self) -> None:
        self._has_hinted = False

    def watching(self, root: Path) -> None:
        _print(f"watching {root.resolve()}; Ctrl-C ends", style="dim")

    def changed(self, files: Sequence[str]) -> None:
        output.data("")
        names = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
        _print(f"{datetime.now():%H:%M:%S} {names or 'start'}", style="bold")

    def problems(self, problems: Sequence[Problem]) -> None:
        for problem in problems[:MAX_SHOWN]:
            error, is_warning = problem.error, problem.level == "warning"
            place = f"{error.place}: " if error.place else ""
            text = f"{'warning: ' if is_warning else ''}{place}{error.code.id} {error.message}"
            _print(text, style="yellow" if is_warning else "red")
            if error.hint:
                _print(f"  hint: {error.hint}", style="dim", indent=8)
        if len(problems) > MAX_SHOWN:
            _print(f"… and {len(problems) - MAX_SHOWN:,} more; --json prints all")

    def result(self, preview: Preview) -> None:
        count = counted(preview.rows, "row")
        target = f" → {preview.target}" if preview.target else ""
        texts = {n: v if isinstance(v, str) else f"[{', '.join(v)}]" for n, v in preview.call.params.items()}
        arguments = "".join(f" {name}={text}" for name, text in texts.items())
        tenant = f" as tenant {preview.tenant}" if preview.tenant is not None else ""
        seconds = preview.answer.seconds
        _print(f"{preview.pipe.name}{target}{arguments}{tenant}: {count} in {seconds * 1000:.1f} ms", style="cyan")
        columns = [Column(c.name, rank, _is_text(c.type.text)) for rank, c in enumerate(preview.answer.columns)]
        if preview.answer.rows:
            output.indented_table(preview.answer.rows, columns, indent=2)
        if preview.rows > len(preview.answer.rows) > 0:
            _print(f"  … {preview.rows - len(preview.answer.rows):,} more", style="dim")

    def tests(self, outcomes: Sequence[Outcome]) -> None:
        for file in dict.fromkeys(o.place.file for o in outcomes):
            print_file([o for o in outcomes if o.place.file == file])

    def done(self, round: Round) -> None:
        failures = []
        if round.errors:
            failures.append(counted(round.errors, "error"))
        if round.failed_tests:
            failures.append(f"{round.failed_tests:,} of {counted(round.tests, 'test')} failed")
        state = _STATES[round.state]
        if round.state == "current":
            state += f" with {counted(round.rows, 'sample row')}"
        if round.tests and not round.failed_tests:
            state += f", {counted(round.tests, 'test')} passed"
        text = f"{', '.join(failures)}; {state}" if failures else state
        _print(f"{text}, {round.seconds:.1f} s", style="red" if failures else "green")
        if round.state == "current" and not round.rows and not self._has_hinted:
            self._has_hinted = True
            _print("hint: fixtures in tests/, or --data DATASOURCE=FILE, provide sample rows", style="dim")


def _is_text(type: str) -> bool:
    return any(word in type for word in _TEXTS)


def _print(text: str, *, style: str | None = None, indent: int = 2) -> None:
    """Print text in lines that fit the terminal. Lines after the first are indented."""
    for line in output.fitting(text, indent):
        output.line((line, style))
