"""Presents the outcomes of tests: as text, JSON and JUnit XML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cli import output
from cli.testing.model import Difference, Outcome, Report
from cli.testing.values import Cell
from engine.errors import Place
from engine.plurals import counted

MAX_LINES = 60
"""Maximum number of rows that are shown of a difference."""
CONTEXT = 3
"""Equal rows that are shown around different ones."""
MAX_CELL = 40
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_COLORS = {"-": "red", "+": "green"}


def print_file(outcomes: Sequence[Outcome]) -> None:
    """Print the outcomes of one file: a line per test, and what is wrong."""
    output.line((str(outcomes[0].place.file), "bold"))
    for same_test in _by_test(outcomes):
        failed = [o for o in same_test if o.failure]
        name = same_test[0].name
        if failed:
            output.line("  ", ("FAIL", "bold red"), f"  {name}")
            _print_failures(failed)
        elif any(o.updated for o in same_test):
            output.line("  ", ("new ", "yellow"), f"  {name}: the file with its expected rows is updated")
        else:
            output.line("  ", ("ok  ", "green"), f"  {name}")


def _by_test(outcomes: Sequence[Outcome]) -> Iterable[list[Outcome]]:
    """The outcomes of each test, in the order of the file."""

    def position(outcome: Outcome) -> tuple[int, int]:
        # Several tests may be on one line.
        return outcome.place.line or 0, outcome.place.column or 0

    for _, same_test in groupby(sorted(outcomes, key=position), position):
        yield list(same_test)


def _print_failures(failed: Sequence[Outcome]) -> None:
    """Print the failures of a test. The same failure with several placements is printed once."""
    shown: list[tuple[Difference, str]] = []
    for outcome in failed:
        if outcome.failure is None or any(d == outcome.failure and c == outcome.check for d, c in shown):
            continue
        shown.append((outcome.failure, outcome.check))
        same = [o.arrangement for o in failed if o.failure == outcome.failure and o.check == outcome.check]
        where = "isolation" if outcome.check == "isolation" else f"placement {' and '.join(same)}"
        tenant = f"tenant {outcome.tenant}" if outcome.tenant is not None else "admin"
        call = f"{_position(outcome.place)}: {outcome.call} as {tenant}, {where}"
        for text in (call, outcome.failure.message):
            for line in output.fitting(f"        {text}", 10):
                output.line(line)
        for sign, text in _diff(outcome.failure):
            output.line("        ", (f"{sign} {text}".rstrip(), _COLORS.get(sign)))
        for line in output.fitting(f"        hint: {outcome.failure.hint}", 10) if outcome.failure.hint else ():
            output.line((line, "dim"))


def _position(place: Place) -> str:
    return f"{place.file}:{place.line}"


def print_summary(report: Report) -> None:
    """Print the number of tests, and the time they took."""
    failed = len({str(o.place) for o in report.failures})
    time = f"in {report.seconds:.1f} s"
    if failed:
        output.line((f"{failed} of {counted(report.tests, 'test')} failed", "bold red"), f" {time}")
    else:
        output.line((f"{counted(report.tests, 'test')} passed", "green"), f" {time}")


def _diff(difference: Difference) -> list[tuple[str, str]]:
    """The rows of a difference as lines, with their sign. Long runs of equal rows are left out."""
    names = list(difference.columns)
    if not difference.lines:
        return []
    kept = _near_changes([sign for sign, _ in difference.lines])
    shown = [n for n in kept if n is not None][:MAX_LINES]
    cells = {n: [_cell(difference.lines[n][1], name) for name in names] for n in shown}
    widths = [max(len(row[i]) for row in [names, *cells.values()]) for i in range(len(names))]

    def joined(row: Sequence[str]) -> str:
        return "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))

    lines = [(" ", joined(names))]
    for number in kept:
        if number is None:
            lines.append((" ", "…"))
        elif number in cells:
            lines.append((difference.lines[number][0], joined(cells[number])))
    rest = sum(n is not None for n in kept) - len(shown)
    return [*lines, (" ", f"… and {counted(rest, 'more row')}")] if rest else lines


def _near_changes(signs: Sequence[str]) -> list[int | None]:
    """Positions of lines near a change; None for a gap."""
    changed = [n for n, sign in enumerate(signs) if sign != " "]
    near = sorted({n for c in changed for n in range(c - CONTEXT, c + CONTEXT + 1) if 0 <= n < len(signs)})
    result: list[int | None] = []
    for number in near:
        previous = next((n for n in reversed(result) if n is not None), -1)
        if number > previous + 1:
            result.append(None)
        result.append(number)
    return [*result, None] if near and near[-1] < len(signs) - 1 else result


def _cell(row: Mapping[str, Cell], name: str) -> str:
    value = row.get(name)
    if value is None:
        return "NULL"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # On one line and in full, except for very long values.
    text = " ".join(text.split()) if text.strip() else repr(text)
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 1]}…"


def as_dict(report: Report) -> dict[str, Any]:
    """The report for programs."""
    return {
        "passed": not report.failures,
        "tests": report.tests,
        "failed": len({str(o.place) for o in report.failures}),
        "seconds": round(report.seconds, 3),
        "outcomes": [outcome_as_dict(o) for o in report.outcomes],
    }


def outcome_as_dict(outcome: Outcome) -> dict[str, Any]:
    """An outcome for programs."""
    failure = outcome.failure
    return {
        "name": outcome.name,
        "file": outcome.place.file,
        "line": outcome.place.line,
        "check": outcome.check,
        "placement": outcome.arrangement,
        "call": str(outcome.call),
        "tenant": outcome.tenant,
        "seconds": round(outcome.seconds, 4),
        "passed": failure is None,
        "updated": outcome.updated,
        "failure": None
        if failure is None
        else {
            "message": failure.message,
            "hint": failure.hint,
            "rows": [{"sign": sign, "row": dict(row)} for sign, row in failure.lines if sign != " "],
        },
    }


def write_junit(report: Report, path: Path) -> None:
    """Write the report as JUnit XML, which most CI systems show."""
    root = ElementTree.Element(
        "testsuites",
        tests=str(len(report.outcomes)),
        failures=str(len(report.failures)),
        time=f"{report.seconds:.3f}",
    )
    for file, group in groupby(report.outcomes, lambda o: o.place.file or ""):
        outcomes = list(group)
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_xml(file),
            tests=str(len(outcomes)),
            failures=str(sum(o.failure is not None for o in outcomes)),
            errors="0",
            skipped="0",
            time=f"{sum(o.seconds for o in outcomes):.3f}",
        )
        for outcome in outcomes:
            _junit_case(suite, outcome)
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _junit_case(suite: ElementTree.Element, outcome: Outcome) -> None:
    check = "isolation" if outcome.check == "isolation" else outcome.arrangement
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=_xml(Path(outcome.place.file or "").with_suffix("").as_posix().replace("/", ".")),
        name=_xml(f"{outcome.name} [{check}]"),
        file=_xml(outcome.place.file or ""),
        line=str(outcome.place.line or 0),
        time=f"{outcome.seconds:.4f}",
    )
    if outcome.failure is not None:
        failure = ElementTree.SubElement(case, "failure", message=_xml(outcome.failure.message))
        lines = [f"{sign} {text}".rstrip() for sign, text in _diff(outcome.failure)]
        head = f"{_position(outcome.place)}: {outcome.call}"
        failure.text = _xml("\n".join([head, outcome.failure.message, *lines, outcome.failure.hint or ""]).rstrip())


def _xml(text: str) -> str:
    """Text without the characters that XML cannot contain."""
    return _NOT_XML.sub("\ufffd", text)
