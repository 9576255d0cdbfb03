"""Print data to standard output, and messages to standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, TextIO

from engine.errors import USAGE, Problems, RookeryError, published_page

Part = str | tuple[str, str | None]
"""Part of a line: text, or text and its style."""
Update = Callable[[str, int, int], None]
"""A function that shows progress: the activity, how much of it is done, and how much there is, or 0 if unknown."""
WHOLE_CHARACTERS, COLUMN_GAP = 26, 2
"""Characters of a column that are never cropped, even if the table is then wider than the terminal."""
# Texts come from senders of rows, and a terminal would obey the control sequences in them.
_VISIBLE = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if chr(n) not in "\n\t\r"}
MAX_PAGES = 3
"""Pages of documentation that are named after errors."""
BRIEF_CHARACTERS = 120
"""Characters of an error message in a table."""


def line(*parts: Part, stream: TextIO | None = None) -> None:
    """Print a line, with styles if the stream is a terminal. By default, it is standard output."""
    stream = stream or sys.stdout
    texts = [(part, None) if isinstance(part, str) else part for part in parts]
    pairs = [(text.translate(_VISIBLE), style) for text, style in texts]
    if any(style for _, style in pairs) and stream is not None and stream.isatty():
        from rich.console import Console
        from rich.text import Text

        Console(file=stream, soft_wrap=True).print(Text.assemble(*((text, style or "") for text, style in pairs)))
    else:
        print("".join(text for text, _ in pairs), file=stream, flush=True)


def say(text: str, style: str | None = None) -> None:
    """Print a message."""
    _message((text, style))


def _message(*parts: Part) -> None:
    """Print on standard error. Nothing is printed if it is closed or its disk is full: the work continues."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            line(*parts, stream=sys.stderr)


def data(text: str) -> None:
    """Print a line of data."""
    line(text)


def raw(body: bytes) -> None:
    """Print bytes of data unchanged."""
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()


def as_json(value: Any) -> None:
    """Print a value as JSON, for programs."""
    import orjson

    raw(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], empty: str = "nothing yet") -> None:
    """Print rows under their column names, with numbers aligned right; `empty` is the message without rows."""
    if not rows:
        say(empty)
        return
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table

    grid, needed = Table(box=None, pad_edge=False, header_style="bold"), 0
    for name in columns:
        values = [r.get(name) for r in rows]
        natural = max(cell_len(part) for text in (name, *map(_cell, values)) for part in (text, *text.splitlines()))
        # Ids, names and times are of no use if they are cropped: only longer texts are.
        least = min(natural, WHOLE_CHARACTERS)
        needed += least + COLUMN_GAP
        justify: Literal["left", "right"] = "right" if all(isinstance(v, int | float) for v in values) else "left"
        grid.add_column(name, justify=justify, no_wrap=True, min_width=least)
    for row in rows:
        grid.add_row(*(_cell(row.get(name)) for name in columns))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    console.print(grid, markup=False, width=max(console.width, needed), crop=False)


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as `1 row` or `2,000 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def brief(text: str | None) -> str | None:
    """A string shortened for a table. The JSON output has all of it."""
    if text is None:
        return None
    words = " ".join(text.split())
    return words if len(words) <= BRIEF_CHARACTERS else f"{words[: BRIEF_CHARACTERS - 1]}…"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).translate(_VISIBLE)


def failure(exc: RookeryError) -> None:
    """Print an error: each of its problems with place, code and hint."""
    problems = exc.problems if isinstance(exc, Problems) else [exc]
    for problem in problems:
        place = f"{problem.place}: " if problem.place else ""
        _message(place, (problem.code.id, "bold red"), f" {problem.message}")
        if problem.hint:
            say(f"  hint: {problem.hint}", "dim")
    # One line for each code, which many files may have. The hint of a wrong command is its help.
    pages = dict.fromkeys(p.documentation or published_page(p.code) for p in problems if p.code is not USAGE)
    for page in list(pages)[:MAX_PAGES]:
        say(f"  docs: {page}", "dim")


def finding(item: Mapping[str, Any]) -> None:
    """Print a finding of `doctor`: its level, the check, the object, the message and a hint."""
    color = "bold red" if item["level"] == "error" else "yellow"
    line((item["level"], color), f" {item['check']}: {item['object']}: {item['message']}")
    if item.get("hint"):
        line((f"  hint: {item['hint']}", "dim"))


@contextmanager
def progress(title: str) -> Iterator[Update]:
    """Show a progress bar on standard error, if that is a terminal. Yields a function that updates it."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _label, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
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
        line((f"{signs[change['what']]} {change['kind']} {change['name']}", colors[change["what"]]))
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
        line((text, "red" if destructive else None))
    for mode in result.get("fanout", []):
        line(f"  fan-out of {mode['datasource']}: {mode['from']} → {mode['to']}")
    for warning in result.get("warnings", []):
        place = f"{warning['place']}: " if warning.get("place") else ""
        say(f"warning: {place}{warning['code']} {warning['error']}", "yellow")
        if "hint" in warning:
            say(f"  hint: {warning['hint']}", "dim")
