"""Print data to standard output, and messages to standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from engine.errors import Problems, RookeryError

out = Console(highlight=False, soft_wrap=True)
messages = Console(stderr=True, highlight=False, soft_wrap=True)
BRIEF_CHARACTERS = 120
"""Characters of an error message in a table."""


def say(text: str, style: str | None = None) -> None:
    """Print a message. It is dropped if standard error is closed or its disk is full: the work continues."""
    with suppress(OSError, ValueError):
        messages.print(text, style=style, markup=False)


def data(text: str) -> None:
    """Print a line of data."""
    out.print(text, markup=False)


def raw(body: bytes) -> None:
    """Print bytes of data unchanged."""
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()


def as_json(value: Any) -> None:
    """Print a value as JSON, for programs."""
    raw(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], empty: str = "nothing yet") -> None:
    """Print rows under their column names, with numbers aligned right; `empty` is the message without rows."""
    if not rows:
        say(empty)
        return
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        numeric = all(isinstance(r.get(name), int | float) for r in rows)
        grid.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(_cell(row.get(name)) for name in columns))
    Console(highlight=False, width=None if out.is_terminal else 400).print(grid, markup=False)


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as `1 row` or `2,000 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def brief(text: str | None) -> str | None:
    """A string shortened for a table. The JSON output has all of it."""
    if text is None:
        return None
    line = " ".join(text.split())
    return line if len(line) <= BRIEF_CHARACTERS else f"{line[: BRIEF_CHARACTERS - 1]}…"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def failure(exc: RookeryError) -> None:
    """Print an error: each of its problems with place, code and hint."""
    problems = exc.problems if isinstance(exc, Problems) else [exc]
    for problem in problems:
        place = f"{problem.place}: " if problem.place else ""
        messages.print(f"{place}[bold red]{problem.code.id}[/] ", end="")
        messages.print(problem.message, markup=False)
        if problem.hint:
            messages.print(f"  hint: {problem.hint}", style="dim", markup=False)


def finding(item: Mapping[str, Any]) -> None:
    """Print a finding of `doctor`: its level, the check, the object, the message and a hint."""
    color = "bold red" if item["level"] == "error" else "yellow"
    out.print(f"[{color}]{item['level']}[/] {item['check']}: ", end="")
    out.print(f"{item['object']}: {item['message']}", markup=False)
    if item.get("hint"):
        out.print(f"  hint: {item['hint']}", style="dim", markup=False)


@contextmanager
def progress(title: str) -> Iterator[Any]:
    """Show a progress bar on standard error. Yields a function (label, done, total) that updates it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def update(label: str, done: int, total: int) -> None:
            bar.update(task, description=label[:60] or title, completed=done, total=total or None)

        yield update


@contextmanager
def waiting(activity: str, interval_seconds: float = 2.0) -> Iterator[None]:
    """Print a message every few seconds during an activity whose progress cannot be measured."""
    ended = threading.Event()
    started = time.monotonic()

    def report() -> None:
        say(f"{activity} …")
        while not ended.wait(interval_seconds):
            say(f"{activity} … {time.monotonic() - started:.0f} s")

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()


def plan(result: Mapping[str, Any]) -> None:
    """Print what a push would do or did: changed files, then steps with their reasons and costs."""
    signs = {"created": "+", "changed": "~", "removed": "-"}
    colors = {"created": "green", "changed": "yellow", "removed": "red"}
    for change in result["changes"]:
        line = f"{signs[change['what']]} {change['kind']} {change['name']}"
        out.print(line, style=colors[change["what"]], markup=False)
    grouped: dict[tuple[str, str, str, bool, str], list[str]] = {}
    for step in result["steps"]:
        subject = step["subject"] if step["tenant"] is None else step["subject"].split(".", 1)[-1] + " in nests"
        key = (
            step["action"],
            subject,
            step["reason"],
            step["destructive"],
            step["cost"] if not step["tenant"] else "",
        )
        grouped.setdefault(key, []).append(step["tenant"])
    for (action, subject, reason, destructive, cost), tenants in grouped.items():
        count = f" ({len(tenants)} tenants)" if tenants[0] is not None else ""
        text = f"  {action} {subject}{count}: {reason}" + (f"; {cost}" if cost else "")
        out.print(text, style="red" if destructive else None, markup=False)
    for mode in result.get("fanout", []):
        out.print(f"  fan-out of {mode['datasource']}: {mode['from']} → {mode['to']}", markup=False)
    for warning in result.get("warnings", []):
        place = f"{warning['place']}: " if warning.get("place") else ""
        say(f"warning: {place}{warning['code']} {warning['error']}", "yellow")
        if "hint" in warning:
            say(f"  hint: {warning['hint']}", "dim")
