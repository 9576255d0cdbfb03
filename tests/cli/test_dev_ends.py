"""How `rookery dev` ends: on signals, a closed pipe, and after a kill, without leaving anything behind."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.billing import ENDPOINT
from tests.cli.commands import REAL, Cli
from tests.cli.dev_process import dev_project, developing, left_behind, of
from tests.support.soak import soak_rounds

pytestmark = pytest.mark.feature


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return dev_project(tmp_path)


def test_an_interrupt_leaves_no_directory_and_no_traceback(cli: Cli, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*REAL, "dev"], cwd=cli.directory, env=cli.seen(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".rookery-scratch-*/data/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in out, out
    assert not left_behind(cli)


def test_warnings_are_reported_once_and_a_closed_pipe_ends_it(cli: Cli) -> None:
    cli.write({"pipes/notes.yml": "sql: SELECT 1 AS one\n", "elsewhere.yaml": "columns: []\n"})
    (cli.directory / "pipes/notes.yml").unlink()
    with developing(cli) as dev:
        events = dev.round()
        (warning,) = of(events, "problem")
        assert (warning["level"], warning["code"], events[-1]["warnings"]) == ("warning", "RK1018", 1)
        events = dev.write({"endpoints/usage.yaml": ENDPOINT + "\n"})
        assert not of(events, "problem") and events[-1]["warnings"] == 1 and events[-1]["errors"] == 0
        dev.close()
        dev.replace("endpoints/usage.yaml", ENDPOINT)
        assert dev.process.wait(120) == 128 + signal.SIGPIPE
        assert dev.stderr.read_text() == "" and not left_behind(cli)


def test_the_next_start_removes_what_a_killed_one_left(cli: Cli) -> None:
    with developing(cli) as killed:
        killed.round()
        killed.end(signal.SIGKILL)
    (left,) = left_behind(cli)
    with developing(cli) as dev:
        dev.round()
        assert not left.exists() and len(left_behind(cli)) == 1
        dev.end()
    assert not left_behind(cli)


def test_a_second_signal_does_not_wait_for_a_query(cli: Cli) -> None:
    slow = "sql: SELECT count() AS n FROM events AS a, numbers(100000000) AS b, numbers(100000) AS c WHERE NOT b.number = c.number\n"
    cli.write({"endpoints/slow.yaml": slow})
    with developing(cli, ROOKERY_MAX_SECONDS="100") as dev:
        while dev.event()["event"] != "result":
            pass
        dev.process.send_signal(signal.SIGINT)
        assert "Traceback" not in dev.end(signal.SIGTERM)
        assert dev.process.returncode == 130 and not left_behind(cli)


@pytest.mark.soak_only
def test_an_interrupt_at_any_moment(cli: Cli, tmp_path: Path) -> None:
    chance = random.Random("dev")
    for _ in range(soak_rounds(2)):
        process = subprocess.Popen(
            [*REAL, "dev", "--test"], cwd=cli.directory, env=cli.seen(), stdout=-1, stderr=-1, text=True
        )
        time.sleep(chance.uniform(0.2, 6))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in out + err and process.returncode in (130, -signal.SIGINT), err
        assert not left_behind(cli)
