"""The README's tour, run as written, in a new directory.

Blocks that begin with a comment naming a file (`# pipes/usage.yaml`) are written to that file. Bash blocks are run in
order, as one shell would: directory and variables last. The HTML comment right before a block says what else holds:
`not run: …` (skipped), `in the background` (started and waited for), `needs node` (skipped where Node.js is missing),
and, before a block of another language, `prints` (what the bash block before it prints) or `prints at last`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.reading import ROOT, Block, blocks
from tests.support.forking import forker

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = list(blocks(TEXT))
NAMED = re.compile(r"(?:#|//) ([\w./-]+\.(?:yaml|py|mjs))\n")
NOTES = re.compile(r"|not run: .+|in the background|needs node|prints|prints at last")


class Tour:
    """A shell that keeps its directory and variables from block to block, and the servers that it started."""

    def __init__(self, directory: Path, port: int) -> None:
        self._port = port
        self._cwd, self._saved = directory / "cwd", directory / "environment"
        self._home = directory / "home"
        self._home.mkdir()
        self._cwd.write_text(f"{self._home}\n")
        self._saved.touch()
        kept = {k: v for k, v in os.environ.items() if not k.startswith("ROOKERY_") and k != "CI"}
        self._path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # Commands that end are forked, which saves their start-up. Servers are started, to receive their signals.
        path = f"{forker()}{os.pathsep}{self._path}"
        self._environment = {**kept, "PATH": path, "HOME": str(self._home), "ROOKERY_PORT": str(port)}
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def here(self) -> Path:
        return Path(self._cwd.read_text().strip())

    def write(self, name: str, text: str) -> None:
        file = self.here / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self._ported(text), encoding="utf-8")

    def run(self, text: str) -> str:
        """Run a block to its end; what it printed to standard output."""
        before = f'set -euo pipefail; . "{self._saved}"; cd "{self.here}"'
        after = f'export -p > "{self._saved}"; pwd > "{self._cwd}"'
        script = "\n".join([before, self._ported(text), after])
        done = subprocess.run(
            ["bash", "-c", script],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, text: str) -> None:
        """Start a block and wait until its server answers."""
        script = f'. "{self._saved}"; PATH="{self._path}"; cd "{self.here}"; exec {self._ported(text)}'
        process = subprocess.Popen(
            ["bash", "-c", script],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._started.append(process)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError(f"{text} did not start")

    def stop(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(30)

    def _ported(self, text: str) -> str:
        """The README uses the default port; here a free one replaces it."""
        return text.replace("7181", str(self._port))


@pytest.fixture
def tour(tmp_path: Path) -> Iterator[Tour]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    steps = Tour(tmp_path, port)
    try:
        yield steps
    finally:
        steps.stop()


@pytest.mark.proves("B2", "A10")
def test_the_tour_works_as_it_is_written(tour: Tour) -> None:
    printed = ""
    skipped = False
    for block in BLOCKS:
        named = NAMED.match(block.text)
        if block.note.startswith("prints"):
            if not skipped:
                _compare(block, printed)
        elif named:
            tour.write(named[1], block.text)
        elif block.language == "bash":
            skipped = block.note.startswith("not run") or (block.note == "needs node" and not shutil.which("node"))
            if block.note == "in the background":
                tour.start(block.text)
            elif not skipped:
                printed = tour.run(block.text)


def _compare(block: Block, printed: str) -> None:
    where = f"README.md:{block.line}"
    if block.note == "prints at last":
        assert printed.endswith(block.text), f"{where}: {printed}"
    elif block.language == "json":
        assert _without_request_id(printed) == _without_request_id(block.text), f"{where}: {printed}"
    else:
        assert printed == block.text, f"{where}: {printed}"


def _without_request_id(text: str) -> Any:
    """JSON with the same value in place of a request id, which is new in each request."""
    parsed = json.loads(text)
    return {**parsed, "request_id": "…"} if "request_id" in parsed else parsed


def test_every_note_is_valid() -> None:
    for block in BLOCKS:
        assert NOTES.fullmatch(block.note), f"README.md:{block.line}: {block.note}"
        if block.language in {"yaml", "python"}:
            assert NAMED.match(block.text), f"README.md:{block.line} is written to no file"


def test_the_two_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in re.findall(r"make (\w+)", TEXT):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), f"make {command}"


def test_the_port_is_the_default() -> None:
    from engine.settings import Settings

    assert str(Settings.model_fields["port"].default) == "7181"


def test_the_readme_says_that_claims_are_readable() -> None:
    assert "signed, not secret" in TEXT
    assert "signed, not secret" in (ROOT / "docs" / "tokens.md").read_text(encoding="utf-8")
