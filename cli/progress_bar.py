"""A progress bar on standard error. Importing this module imports Rich."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cli.output import Update, printable

LABEL_CHARACTERS = 60


class Bar(Update):
    """Shows progress while its context is active, and disappears at the end."""

    def __init__(self, title: str) -> None:
        self._title = title
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        # Such a terminal cannot erase the bar.
        disabled = console.is_dumb_terminal
        self._progress = Progress(*columns, console=console, transient=True, disable=disabled)
        self._task = self._progress.add_task(title, total=None)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show the activity, how much of it is done, and how much there is, or 0 if unknown."""
        # It may name a tenant, whose id may contain what would be markup.
        description = printable(what[:LABEL_CHARACTERS], sys.stderr) or self._title
        self._progress.update(self._task, description=description, completed=done, total=total or None)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """While the context is active, other output can be printed."""
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()
