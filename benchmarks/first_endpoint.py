"""Measures how long a newcomer waits: from a clone of the repository to the first response of an own endpoint."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Goal, Report
from tests.support.server import ROOT

GOAL_SECONDS = 120
MAX_SILENT_SECONDS = 15
METHOD = """The commands of the README on a terminal: clone, `make demo`, and the tour with its own files up to the
first call of its endpoint. Packages come from pip's cache or from a local index, so the speed of the network does not
count. The longest silence is the longest time without any output of a step."""
COLUMNS = ("step", "seconds", "longest silence", "installed MB")
_FILE = re.compile(r"```yaml\n# (\S{1,100})\n(.*?)```", re.DOTALL)
EVENTS = '{"tenant_id": 1, "event": "api_call"}\n{"tenant_id": 1, "event": "export", "units": 25}\n'


@dataclass(frozen=True, slots=True)
class Step:
    """One step and how long it took."""

    name: str
    seconds: float
    silence: float
    """The longest time without output, in seconds."""
    installed: int = 0
    """Bytes in the virtual environment afterwards."""


def run(directory: Path, *, quick: bool) -> list[Report]:
    """Measure each step once; `quick` makes no difference."""
    load = os.getloadavg()[0]
    clone, shop = directory / "rookery", directory / "shop"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ROOKERY_", "VIRTUAL_ENV", "PYTHON"))}
    environment["PATH"] = f"{clone / '.venv/bin'}:{environment['PATH']}"
    environment["ROOKERY_PORT"] = "0"
    steps = [_step("git clone", ["git", "clone", "--quiet", str(ROOT), str(clone)], directory, environment)]
    demo = _step("make demo", ["make", "demo"], clone, environment)
    steps.append(Step(demo.name, demo.seconds, demo.silence, _size(clone / ".venv")))
    shop.mkdir()
    steps.append(_step("rookery init", ["rookery", "init"], shop, environment))
    for name, text in _FILE.findall((clone / "README.md").read_text(encoding="utf-8")):
        (shop / name).write_text(text, encoding="utf-8")
    steps.append(_step("rookery push", ["rookery", "push"], shop, environment))
    with _serving(shop, environment) as ready:
        steps.append(ready)
        steps += _calls(shop, environment)
    total = sum(s.seconds for s in steps)
    silence = max(s.silence for s in steps)
    goals = [
        Goal(f"first own endpoint within {GOAL_SECONDS} s", f"{total:.0f} s", total <= GOAL_SECONDS),
        Goal(f"never silent for {MAX_SILENT_SECONDS} s", f"{silence:.1f} s", silence <= MAX_SILENT_SECONDS),
    ]
    rows = [[s.name, s.seconds, s.silence, round(s.installed / 1e6) if s.installed else ""] for s in steps]
    rows.append(["all together", total, silence, ""])
    notes = [f"load of the machine before the run: {load:.1f} on {os.cpu_count()} processors"]
    return [Report("first_endpoint", "From a clone to the first endpoint", METHOD, COLUMNS, rows, goals, notes)]


def _calls(shop: Path, environment: Mapping[str, str]) -> list[Step]:
    """Add a tenant, send events, and call the endpoint until its response has the rows."""
    (shop / "events.ndjson").write_text(EVENTS, encoding="utf-8")
    commands = (
        ("tenant add", ["rookery", "tenant", "add", "1", "--placement", "tables"]),
        ("append", ["rookery", "append", "events", "events.ndjson"]),
        ("get", ["rookery", "get", "usage", "--tenant", "1"]),
    )
    return [_step(f"rookery {name}", words, shop, environment) for name, words in commands]


def _step(name: str, words: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> Step:
    """Run a command on a terminal to its end. Raises CalledProcessError, with its output, if it fails."""
    started = latest = time.monotonic()
    silence, output = 0.0, b""
    master, slave = pty.openpty()
    with subprocess.Popen(words, cwd=cwd, env=dict(environment), stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        while part := _read(master):
            silence, latest = max(silence, time.monotonic() - latest), time.monotonic()
            output += part
        os.close(master)
    ended = time.monotonic()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words, output.decode(errors="replace")[-2000:])
    return Step(name, ended - started, max(silence, ended - latest))


def _read(terminal: int) -> bytes:
    """The next output; empty when no process has the terminal open any longer."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


@contextmanager
def _serving(shop: Path, environment: Mapping[str, str]) -> Iterator[Step]:
    """A running server, with the time until it announced its URL."""
    started = time.monotonic()
    with subprocess.Popen(
        ["rookery", "serve"], cwd=shop, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        try:
            while b"serves workspace" not in (line := process.stderr.readline()):
                if not line:
                    raise RuntimeError("rookery serve ended before it was ready")
            ready = time.monotonic() - started
            yield Step("rookery serve", ready, ready)
        finally:
            process.send_signal(signal.SIGTERM)
            process.stderr.read()


def _size(directory: Path) -> int:
    """Bytes of all files in a directory."""
    return sum(f.lstat().st_size for f in directory.rglob("*") if f.is_file() and not f.is_symlink())
