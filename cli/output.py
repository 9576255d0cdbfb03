"""Everything that is printed: data to standard output, talk to standard error, laid out for people."""

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
talk = Console(stderr=True, highlight=False, soft_wrap=True)
BRIEF_CHARACTERS = 120
"""Characters of an error in a table."""


def say(text: str, style: str | None = None) -> None:
    """A line of talk. Without a reader, or room on the disk for it, it is left out: work does not stop for it."""
    with suppress(OSError, ValueError):
        talk.print(text, style=style, markup=False)


def data(text: str) -> None:
    """A line of data."""
    out.print(text, markup=False)


def raw(body: bytes) -> None:
    """Bytes of data, as they are."""
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()


def as_json(value: Any) -> None:
    """A value for programs."""
    raw(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], empty: str = "nothing yet") -> None:
    """Rows under their column names; numbers to the right."""
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
    """A text that fits into a table; all of it is in the output for programs."""
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
    """An error: each problem with its place, code and hint."""
    problems = exc.problems if isinstance(exc, Problems) else [exc]
    for problem in problems:
        place = f"{problem.place}: " if problem.place else ""
        talk.print(f"{place}[bold red]{problem.code.id}[/] ", end="")
        talk.print(problem.message, markup=False)
        if problem.hint:
            talk.print(f"  hint: {problem.hint}", style="dim", markup=False)


def finding(found: Mapping[str, Any]) -> None:
    """What an examination found, as data: its name, the object, and what to do."""
    color = "bold red" if found["level"] == "error" else "yellow"
    out.print(f"[{color}]{found['level']}[/] {found['check']}: ", end="")
    out.print(f"{found['object']}: {found['message']}", markup=False)
    if found.get("hint"):
        out.print(f"  hint: {found['hint']}", style="dim", markup=False)


@contextmanager
def progress(title: str) -> Iterator[Any]:
    """A progress bar on standard error; yields a function (what, done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=talk, transient=True, disable=not talk.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def update(what: str, done: int, total: int) -> None:
            bar.update(task, description=what[:60] or title, completed=done, total=total or None)

        yield update


@contextmanager
def waiting(what: str, every: float = 2.0) -> Iterator[None]:
    """Tell every few seconds that something which cannot be measured still goes on."""
    ended = threading.Event()
    started = time.monotonic()

    def tell() -> None:
        say(f"{what} …")
        while not ended.wait(every):
            say(f"{what} … {time.monotonic() - started:.0f} s")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def plan(result: Mapping[str, Any]) -> None:
    """What a push would do or did: sources, then steps with what they cost."""
    sign = {"created": "+", "changed": "~", "removed": "-"}
    color = {"created": "green", "changed": "yellow", "removed": "red"}
    for change in result["changes"]:
        line = f"{sign[change['what']]} {change['kind']} {change['name']}"
        out.print(line, style=color[change["what"]], markup=False)
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
