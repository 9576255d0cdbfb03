"""Ctrl-C at random moments of the commands, with a server of their own: exit code 130, and never a traceback."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.billing import FILES
from tests.cli.commands import REAL, Cli
from tests.support.soak import soak_rounds

ROUNDS = soak_rounds(1)
COMMANDS = {
    "check": 0,
    "plan": 0,
    "push": 0,
    "tenant ls": 0,
    "tenant add 1 2": 0,
    "append events rows.ndjson": 0,
    "doctor --deep": 0,
}
WRITING = ("push", "append events rows.ndjson")
DONE = ("pushed", "appended", "added", "healthy", "are fine", "nothing to do")


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project directory with its workspace, of which each test gets a copy."""
    cli = Cli(tmp_path_factory.mktemp("pushed"))
    cli.write({**FILES, "rows.ndjson": '{"tenant_id": 1, "event": "a"}\n' * 200_000})
    cli("push")
    return cli.directory


# The others are left to `make soak`: the handler is the same, and most of them leave nothing unfinished.
@pytest.mark.soak
@pytest.mark.parametrize(
    "command",
    [c if c in WRITING else pytest.param(c, marks=pytest.mark.soak_only) for c in COMMANDS],
)
def test_an_interrupt_at_any_moment(pushed: Path, tmp_path: Path, command: str) -> None:
    shutil.copytree(pushed, tmp_path, symlinks=True, dirs_exist_ok=True)
    cli = Cli(tmp_path)
    chance = random.Random(command)
    for _ in range(ROUNDS):
        process = subprocess.Popen(
            [*REAL, *command.split()], cwd=tmp_path, env=cli.seen(), stdout=-1, stderr=-1, text=True
        )
        try:
            # The interpreter itself needs a moment before the entry point can handle the signal.
            process.wait(chance.uniform(0.5, 4))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in out + err
        # When the command has ended, and the interpreter is ending, the signal has its default effect.
        assert process.returncode in (130, -signal.SIGINT, COMMANDS[command]), err
        if process.returncode == 130:
            assert not [word for word in DONE if word in out + err]
    # Nothing stays locked.
    cli("tenant", "ls")
