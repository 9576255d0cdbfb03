"""Print data to standard output, and messages to standard error."""

from __future__ import annotations

import io
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from cli.tables import Column, Fitted, fitted, wrapped
from engine.errors import USAGE, Problems, RookeryError, published_page

Part = str | tuple[str, str | None]
"""Part of a line: text, or text and its style."""
# Text may come from senders of rows, and a terminal would obey control sequences in it.
_VISIBLE = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if chr(n) not in "\n\t"} | {13: "\\r"}
# These change the order in which a terminal shows the characters of a line.
_VISIBLE |= {n: f"\\u{n:04x}" for n in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
MAX_PAGES = 3
"""Maximum number of documentation pages that are listed after errors."""
_TSV = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_ASCII = str.maketrans({"–": "-", "…": "...", "→": "->", "·": "-", "×": "x"})
"""ASCII replacements for rookery's own non-ASCII characters, for terminals that have only ASCII."""


def prepare() -> None:
    """Make streams replace characters that they cannot print instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):
                stream.reconfigure(errors="backslashreplace")


def line(*parts: Part, stream: TextIO | None = None) -> None:
    """Print a line, with styles if the stream is a terminal. By default, it is standard output."""
    stream = stream or sys.stdout
    texts = [(part, None) if isinstance(part, str) else part for part in parts]
    pairs = [(printable(text, stream), style) for text, style in texts]
    if any(style for _, style in pairs) and stream is not None and stream.isatty():
        from rich.console import Console
        from rich.text import Text

        Console(file=stream, soft_wrap=True).print(Text.assemble(*((text, style or "") for text, style in pairs)))
    else:
        print("".join(text for text, _ in pairs), file=stream, flush=True)


def printable(text: str, stream: TextIO | None) -> str:
    """Text without control characters, in characters that the stream can encode."""
    # A carriage return without a line break would overwrite the line.
    visible = "\r\n".join(part.translate(_VISIBLE) for part in text.split("\r\n"))
    if visible.isascii() or stream is None or (stream.encoding or "").lower().startswith("utf"):
        return visible
    return visible.translate(_ASCII)


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
    """Print bytes of data: unchanged, except on a terminal, which would obey control sequences in them."""
    if sys.stdout.isatty():
        body = printable(body.decode(errors="backslashreplace"), sys.stdout).encode(errors="backslashreplace")
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()


def as_json(value: Any) -> None:
    """Print a value as JSON, for programs."""
    import orjson

    try:
        body = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # Names of files may have bytes that are not UTF-8, and JSON does not.
        body = json.dumps(value, indent=2, ensure_ascii=False).encode(errors="replace") + b"\n"
    raw(body)


def table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Column | str],
    empty: str = "nothing yet",
    number: str = ",",
) -> None:
    """Print rows under their column names; `empty` is the message if there are no rows.

    On a terminal the table fits its width, and integers have the format `number`. Otherwise, the output has
    tab-separated values with all columns.
    """
    all_columns = [Column(c) if isinstance(c, str) else c for c in columns]
    if not rows:
        say(empty)
    if not sys.stdout.isatty():
        data("\t".join(_tsv(c.name) for c in all_columns))
        for row in rows:
            data("\t".join(_tsv(row.get(c.name)) for c in all_columns))
        return
    if not rows:
        return

    found = _fitted(rows, all_columns, number, 0)
    heading, *others = found.lines
    line((heading, None if found.is_records else "bold"))
    for text in others:
        data(text)
    if found.omitted:
        say(f"not shown: {', '.join(found.omitted)}; --wide or --json shows all columns", "dim")


def indented_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], indent: int) -> None:
    """Print rows under their column names, indented, in lines of the terminal's width, or 80 columns."""
    found = _fitted(rows, columns, "d", indent)
    margin = " " * indent
    for number, text in enumerate(found.lines):
        style = "bold" if number == 0 and not found.is_records else None
        for part in text.split("\n"):
            line(margin, (part, style))
    if found.omitted:
        for text in fitting(f"{margin}not shown: {', '.join(found.omitted)}", indent + 2):
            line((text, "dim"))


def _fitted(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], number: str, indent: int) -> Fitted:
    def cell(value: Any) -> str:
        text = f"{value:{number}}" if type(value) is int else _text(value, "–", "yes", "no")
        return printable(text.expandtabs().replace("\r", "\\r"), sys.stdout)

    return fitted(rows, columns, None if wide() else _columns() - indent, cell)


def wide() -> bool:
    """Whether tables may be wider than the terminal."""
    from cli.options import options

    return options.wide


def _columns() -> int:
    """The width of the terminal. The last column stays free, because some terminals wrap when it is filled."""
    return max(shutil.get_terminal_size().columns, 20)


def _text(value: Any, none: str, true: str, false: str) -> str:
    if value is None:
        return none
    if isinstance(value, bool):
        return true if value else false
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def _tsv(value: Any) -> str:
    """A value as in ClickHouse's format TabSeparated."""
    return "\\N" if value is None else _text(value, "", "true", "false").translate(_TSV)


def one_line(text: str | None) -> str | None:
    """Text without line breaks, for a table."""
    return None if text is None else " ".join(text.split())


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
    text = f"{item['level']} {item['check']}: {item['object']}: {item['message']}"
    first, *others = paragraph(text, 2)
    line((item["level"], color), first.removeprefix(item["level"]))
    hints = paragraph(f"  hint: {item['hint']}", 8) if item.get("hint") else []
    for text in others:
        line(text)
    for text in hints:
        line((text, "dim"))


def paragraph(text: str, indent: int) -> list[str]:
    """Text wrapped to fit the terminal; lines after the first are indented. One line for other streams."""
    return fitting(text, indent) if sys.stdout.isatty() else [text]


def fitting(text: str, indent: int) -> list[str]:
    """Text wrapped to the terminal's width, or 80 columns; lines after the first are indented."""
    if wide():
        return [text]
    words = text.lstrip(" ")
    margin = text[: len(text) - len(words)]
    first, *others = wrapped(words, _columns() - max(indent, len(margin)))
    return [margin + first, *(" " * indent + other for other in others)]


class Update:
    """Shows the progress of long work. This class shows nothing."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show the activity, how much of it is done, and how much there is, or 0 if unknown."""

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """While the context is active, other output can be printed."""
        yield


@contextmanager
def progress(title: str) -> Iterator[Update]:
    """Show a progress bar on standard error, if that is a terminal. Yields the object that updates it.

    With --json nothing is shown: a program reads the output.
    """
    from cli.options import options

    if options.json or sys.stderr is None or not sys.stderr.isatty():
        yield Update()
        return
    from cli.progress_bar import Bar

    with Bar(title) as bar:
        yield bar


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
