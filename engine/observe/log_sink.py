"""Where log lines go: standard error, and the log file."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from engine.observe import log_lines, metrics
from engine.observe.log_file import LogFile
from engine.observe.redaction import redact
from engine.observe.requests import RequestRecord

GATHER_SECONDS = 0.05
"""How long lines of the access log wait, so that many are written at once."""
MAX_WAITING_LINES = 50_000
"""Maximum number of these lines; if writing is slower than requests arrive, further ones are dropped and counted."""

REQUEST_LEVEL = "info"
"""The level of the lines of the access log."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Writes lines of at least a level."""

    level: str
    """The lowest level that is written."""
    write: Callable[[Sequence[Mapping[str, Any]]], None]

    def takes(self, level: str) -> bool:
        return log_lines.LEVELS.index(level) >= log_lines.LEVELS.index(self.level)


class Sink:
    """Writes events to every destination. Safe for threads.

    Lines of the access log are formatted and written by a thread, because the event loop must not wait for a disk or
    a pipe.
    """

    def __init__(self, destinations: Sequence[Destination]) -> None:
        self._destinations = destinations
        self._takes_requests = any(d.takes(REQUEST_LEVEL) for d in destinations)
        self._waiting: deque[RequestRecord] = deque()
        self._wakes = threading.Event()
        self._writing = threading.RLock()
        self._writer: threading.Thread | None = None

    @property
    def level(self) -> str:
        """The lowest level that a destination takes."""
        return min((d.level for d in self._destinations), key=log_lines.LEVELS.index, default="error")

    def write(self, event: Mapping[str, Any]) -> None:
        """Write an event, after the lines of requests that ended before it."""
        with self._writing:
            self.flush()
            self._write([event])

    def request(self, record: RequestRecord) -> None:
        """Write the line of a request soon. The record must not change after this call."""
        if not self._takes_requests:
            return
        if len(self._waiting) >= MAX_WAITING_LINES:
            metrics.LOG_LINES_DROPPED.inc()
            return
        self._waiting.append(record)
        if not self._wakes.is_set():
            if self._writer is None or not self._writer.is_alive():
                # Not started earlier, because a thread does not survive a fork.
                self._writer = threading.Thread(target=self._write_waiting, name="access log", daemon=True)
                self._writer.start()
            self._wakes.set()

    def flush(self) -> None:
        """Write the lines that wait."""
        with self._writing:
            # Only those that wait now: others may be added at the same time, faster than they are written.
            records = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if records:
                self._write([_request_event(record) for record in records])

    def _write_waiting(self) -> None:
        """Write waiting lines, many at a time. Runs in the thread `access log`."""
        while True:
            self._wakes.wait()
            time.sleep(GATHER_SECONDS)
            # Cleared before the lines are taken: a line that is added later wakes this thread again.
            self._wakes.clear()
            self.flush()

    def _write(self, events: Sequence[Mapping[str, Any]]) -> None:
        for destination in self._destinations:
            taken = [event for event in events if destination.takes(event["level"])]
            if taken:
                destination.write(taken)


def _request_event(record: RequestRecord) -> dict[str, Any]:
    moment = datetime.fromtimestamp(record.moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields = {name: redact(v) if isinstance(v, str) else v for name, v in record.line().items()}
    return {"timestamp": moment, "level": REQUEST_LEVEL, "event": "request", **log_lines.shortened(fields)}


def standard_error(level: str, *, as_json: bool) -> Destination:
    """Lines on standard error.

    Failures are only counted: the disk of the log may be full, or the process that reads it may have ended, and
    neither may fail the work that logs.
    """
    line = log_lines.as_json if as_json else log_lines.as_text

    def write(events: Sequence[Mapping[str, Any]]) -> None:
        text = "\n".join(line(event) for event in events)
        try:
            print(text, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            metrics.LOG_LINES_DROPPED.inc(len(events))

    return Destination(level, write)


def log_file(level: str, file: LogFile) -> Destination:
    """Lines of JSON in a log file."""

    def write(events: Sequence[Mapping[str, Any]]) -> None:
        lost = file.write([log_lines.as_json(event).encode("utf-8", "replace") + b"\n" for event in events])
        if lost:
            metrics.LOG_LINES_DROPPED.inc(lost)

    return Destination(level, write)
