"""Runs `rookery dev`. Importing this module imports the engine.

The main thread only waits for signals; all work is done by a thread, which ends at its next step after a signal. So
no signal interrupts Python code at an arbitrary place. If the thread does not end in time, or at a second signal, the
process removes its directory and ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from zoneinfo import ZoneInfo

from cli.dev.inputs import Choices
from cli.dev.report import JsonReporter, Reporter, TextReporter
from cli.dev.rounds import Rounds
from cli.dev.watching import watched_changes
from cli.options import options
from cli.project_files import surveyed
from cli.testing.engine import engine_in
from engine.settings import Settings
from engine.warehouse.unfinished import scratch_directory

STOP_SECONDS = 5.0
"""Seconds that the work may take to end in an orderly way."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(Exception):
    """The session ends because of a signal."""


class Stop:
    """Whether a signal has asked the session to end. The handler only sets a number: taking a lock could block
    forever.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.count = 0

    def is_set(self) -> bool:
        return self.number is not None

    def check(self) -> None:
        """Raise StoppedError after a signal."""
        if self.is_set():
            raise StoppedError

    @contextmanager
    def handling(self) -> Iterator[None]:
        """While the context is active, a signal only asks the session to end."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in before.items():
            # `nohup` ignores SIGHUP, and a shell SIGINT in background jobs. They stay ignored.
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        # The first signal decides the exit code. A second one, of any kind, ends the wait for the work.
        self.number, self.count = self.number or number, self.count + 1


def run(choices: Choices, *, as_json: bool) -> None:
    """Watch the project until a signal, and end the process then. Raises RK7004 outside a project."""
    surveyed()
    stop, reporter = Stop(), JsonReporter() if as_json else TextReporter()
    settings = options.loaded()
    with stop.handling(), scratch_directory() as scratch:
        work = _Work(scratch.path, settings, choices, reporter, stop)
        # A daemon, so that it cannot keep the process alive while it waits for a query.
        thread = threading.Thread(target=work.run, name="rookery-dev", daemon=True)
        thread.start()
        ends_at = None
        while thread.is_alive():
            # In short steps: the handler only notes a signal, so this loop has to look for one.
            thread.join(0.1)
            if stop.is_set() and ends_at is None:
                ends_at = time.monotonic() + STOP_SECONDS
            if ends_at is not None and (time.monotonic() > ends_at or stop.count > 1):
                break
        # `_end` skips the finalizers, which would remove the directory otherwise.
        _remove(scratch.path)
        if stop.number is not None:
            _end(128 + stop.number)
        if isinstance(work.error, BrokenPipeError):
            _end(128 + signal.SIGPIPE)
    if work.error is not None:
        raise work.error


def _remove(directory: Path) -> None:
    """Remove a directory in which an engine may still write."""
    for _ in range(20):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.05)


def _end(code: int) -> None:
    """End the process. A regular shutdown of the interpreter could print errors of threads that still run."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(code)


class _Work:
    """What the thread does."""

    def __init__(self, directory: Path, settings: Settings, choices: Choices, reporter: Reporter, stop: Stop) -> None:
        self.error: BaseException | None = None
        """What ended the work, if not a signal."""
        self._directory, self._settings, self._choices = directory, settings, choices
        self._reporter, self._stop = reporter, stop

    def run(self) -> None:
        """Work until a signal, or until an error, which is kept."""
        try:
            self._run()
        except StoppedError:
            pass
        except BaseException as exc:
            self.error = exc

    def _run(self) -> None:
        self._reporter.watching(options.project)
        with engine_in(self._directory, self._settings, drop=True) as engine:
            zone = ZoneInfo(self._settings.timezone or "UTC")
            with closing(Rounds(engine, self._choices, self._reporter, zone, self._stop.check)) as rounds:
                for _ in watched_changes(options.project, rounds.files, self._stop):
                    self._stop.check()
                    rounds.run()
                self._stop.check()
