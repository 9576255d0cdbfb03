"""A running `rookery dev` and the events that it prints."""

from __future__ import annotations

import fcntl
import os
import re
import selectors
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tests.cli.billing import FILES
from tests.cli.commands import Cli
from tests.support.forking import Forked

HANG_SECONDS = 120
Event = dict[str, Any]
_STYLES = re.compile(r"\x1b\[[0-9;]*m")

FIXTURES = """
fixtures:
  events:
    - {tenant_id: 7, event: call, units: 2}
    - {tenant_id: 7, event: call, units: 3}
    - {tenant_id: 8, event: export, units: 18446744073709551615}
"""
CASES = """
tests:
  - name: usage of tenant 7
    endpoint: usage
    tenant: 7
    expect: [{event: call, events: 2, units: 5}]
"""
TESTS = FIXTURES + CASES


@dataclass
class Dev:
    """A running `rookery dev --json`. Files are written by renaming, so each write is one change."""

    cli: Cli
    process: Forked
    stdout: int
    stderr: Path
    _rest: bytes = b""
    _lines: list[bytes] = field(default_factory=list)

    def round(self) -> list[Event]:
        """The events up to the end of the next round."""
        events: list[Event] = []
        while not events or events[-1]["event"] != "done":
            events.append(self.event())
        return events

    def write(self, files: Mapping[str, str]) -> list[Event]:
        """Write files one after the other, and return the events of the round that processes them."""
        for name, text in files.items():
            self.replace(name, text)
        return self.round()

    def replace(self, name: str, text: str) -> None:
        path = self.cli.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # The folder above is not watched.
        new = self.cli.directory / "new"
        new.write_text(text, encoding="utf-8")
        new.replace(path)

    def is_silent(self, seconds: float = 1.0) -> bool:
        """Whether no event arrives for a while. On a slow machine, one may arrive too late to be noticed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.stdout, selectors.EVENT_READ)
            return not self._lines and not selector.select(seconds)

    def close(self) -> None:
        """Stop reading."""
        os.close(self.stdout)
        self.stdout = -1

    def end(self, number: signal.Signals = signal.SIGINT) -> str:
        """Send a signal, and return what the process printed after the last event that was read."""
        self.process.send_signal(number)
        self.process.wait(HANG_SECONDS)
        text = self._rest + b"\n".join(self._lines)
        while chunk := os.read(self.stdout, 65536):
            text += chunk
        return text.decode() + self.stderr.read_text()

    def event(self) -> Event:
        """The next event."""
        deadline = time.monotonic() + HANG_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.stdout, selectors.EVENT_READ)
            while not self._lines:
                assert selector.select(deadline - time.monotonic()), f"no event\n{self.stderr.read_text()}"
                chunk = os.read(self.stdout, 65536)
                assert chunk, f"the process has ended\n{self.stderr.read_text()}"
                *self._lines, self._rest = (self._rest + chunk).split(b"\n")
        event: Event = orjson.loads(self._lines.pop(0))
        return event


@contextmanager
def developing(cli: Cli, *arguments: str, **environment: str) -> Iterator[Dev]:
    """Start `rookery dev --json`; it is killed at the end if it still runs."""
    reader, writer = os.pipe()
    stderr = cli.directory.parent / "stderr"
    with stderr.open("wb") as errors, Path(os.devnull).open("rb") as nothing:
        streams = (nothing.fileno(), writer, errors.fileno())
        process = Forked(["dev", "--json", *arguments], cli.directory, cli.seen(**environment), streams)
    os.close(writer)
    dev = Dev(cli, process, reader, stderr)
    try:
        yield dev
    finally:
        # In order, so that no directory is left behind, also by tests that fail.
        process.terminate()
        try:
            process.wait(HANG_SECONDS)
        finally:
            process.kill()
            if dev.stdout >= 0:
                os.close(dev.stdout)


def terminal(cli: Cli, *arguments: str, steps: Mapping[str, Callable[[], None] | None], columns: int = 80) -> str:
    """What a command prints on a terminal.

    When it has printed the text of a step, the step's function is called; without one, Ctrl-C ends the command.
    """
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    seen = {k: v for k, v in cli.seen().items() if k != "COLUMNS"}
    printed, expected = b"", list(steps.items())
    process = Forked(arguments, cli.directory, seen, (slave, slave, slave))
    os.close(slave)
    try:
        # Reading fails as soon as no process has the terminal open.
        with suppress(OSError):
            while part := os.read(master, 65536):
                printed += part
                if expected and expected[0][0].encode() in printed:
                    _, call = expected.pop(0)
                    if call is None:
                        process.send_signal(signal.SIGINT)
                    else:
                        call()
        assert process.wait(HANG_SECONDS) == 130, printed.decode(errors="replace")
    finally:
        process.kill()
        os.close(master)
    return _STYLES.sub("", printed.decode(errors="replace")).replace("\r\n", "\n")


def of(events: list[Event], kind: str) -> list[Event]:
    """The events of a kind."""
    return [e for e in events if e["event"] == kind]


def pipes(events: list[Event]) -> dict[str, Event]:
    """Pipe → its result."""
    return {e["pipe"]: e for e in of(events, "result")}


def dev_project(directory: Path) -> Cli:
    """A project with a test, whose temporary files are in the same directory."""
    cli = Cli(directory / "project", {"TMPDIR": str(directory)})
    cli.write({**FILES, "tests/usage.yaml": TESTS})
    return cli


def assert_ended(dev: Dev, number: signal.Signals) -> None:
    """Send a signal. It leaves nothing behind."""
    assert "Traceback" not in dev.end(number)
    assert dev.process.returncode == 128 + number and not left_behind(dev.cli)


def left_behind(cli: Cli) -> list[Path]:
    """What a run has left in the project and in the directory for temporary files."""
    return [*cli.directory.parent.glob("*rookery*"), *cli.directory.glob(".rookery*")]
