"""Runs the real command line in processes and returns their outcome."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tests.support.forking import forker
from tests.support.server import Server

ROOT = Path(__file__).resolve().parents[2]
REAL = (sys.executable, "-m", "cli.main")


@dataclass
class Outcome:
    """The outcome of a command: exit code, data (stdout), messages (stderr)."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.out)

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass
class Cli:
    """The command line in a directory; `environment` is what it sees besides PATH, `command` how it is started: forked
    from a process that has imported it, or as users start it (`REAL`)."""

    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = field(default_factory=lambda: (str(forker() / "rookery"),))

    def __call__(self, *arguments: object, code: int = 0, input: str | bytes = b"", **environment: str) -> Outcome:
        """Run a command; it must end with `code`, and never with a traceback."""
        completed = subprocess.run(
            [*self.command, *map(str, arguments)],
            cwd=self.directory,
            env=self.seen(**environment),
            input=input.encode() if isinstance(input, str) else input,
            capture_output=True,
            timeout=120,
        )
        outcome = Outcome(completed.returncode, completed.stdout.decode(), completed.stderr.decode())
        assert "Traceback" not in outcome.text, outcome.text
        assert outcome.code == code, f"{arguments}: {outcome.code} instead of {code}\n{outcome.text}"
        return outcome

    def terminal(self, *arguments: object, columns: int = 80, code: int = 0, **environment: str) -> str:
        """Run a command whose output is a terminal of a width. Returns what it printed, both streams together.

        The interpreter reads its variables when it starts, so with one of them the command is started as users start it.
        """
        seen = {k: v for k, v in self.seen(**environment).items() if k != "COLUMNS" or "COLUMNS" in environment}
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        interpreters = any(name.startswith(("PYTHON", "LC_")) for name in environment)
        words = [*(REAL if interpreters else self.command), *map(str, arguments)]
        with subprocess.Popen(
            words, cwd=self.directory, env=seen, stdin=slave, stdout=slave, stderr=slave
        ) as process:
            os.close(slave)
            printed = b""
            # Reading fails as soon as no process has the terminal open.
            with suppress(OSError):
                while part := os.read(master, 65536):
                    printed += part
            os.close(master)
        text = printed.decode(errors="replace").replace("\r\n", "\n")
        assert "Traceback" not in text, text
        assert process.returncode == code, f"{arguments}: {process.returncode} instead of {code}\n{text}"
        return text

    def seen(self, **environment: str) -> dict[str, str]:
        """The environment of a command."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ROOKERY_") and k != "CI"}
        return {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **self.environment, **environment}

    def at(self, directory: Path) -> Cli:
        """The same in another directory."""
        return Cli(directory, self.environment, self.command)

    def write(self, files: Mapping[str, str]) -> None:
        """Write files of the project."""
        write(self.directory, files)


def write(directory: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def for_server(server: Server, directory: Path) -> Cli:
    """The command line as admin of a running server."""
    directory.mkdir(parents=True, exist_ok=True)
    return Cli(directory, {"ROOKERY_URL": server.url, "ROOKERY_TOKEN": server.admin_token})
