"""`rookery dev`: what each save shows, what a broken file keeps, and that nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.billing import ENDPOINT, EVENTS, FILES, USAGE_PIPE
from tests.cli.commands import REAL, Cli
from tests.cli.dev_process import developing, of, pipes

pytestmark = pytest.mark.feature

TESTS = """
fixtures:
  events:
    - {tenant_id: 7, event: call, units: 2}
    - {tenant_id: 7, event: call, units: 3}
    - {tenant_id: 8, event: export, units: 18446744073709551615}
tests:
  - name: usage of tenant 7
    endpoint: usage
    tenant: 7
    expect: [{event: call, events: 2, units: 5}]
"""
CALLS = {"event": "call", "events": 2, "units": 5}
EXPORTS = {"event": "export", "events": 1, "units": 18446744073709551615}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    found = Cli(tmp_path / "project", {"TMPDIR": str(tmp_path)})
    found.write({**FILES, "tests/usage.yaml": TESTS})
    return found


def left_behind(cli: Cli) -> list[Path]:
    """What a run has left in the project and in the directory for temporary files."""
    return [*cli.directory.parent.glob("rookery*"), *cli.directory.glob(".rookery*")]


def test_each_save_shows_the_pipes_that_it_affects(cli: Cli) -> None:
    with developing(cli) as dev:
        events = dev.round()
        assert [e["event"] for e in events][:2] == ["watching", "changed"]
        results = pipes(events)
        assert set(results) == {"usage_pipe", "kinds_pipe", "usage"}
        assert results["usage"]["rows"] == 2 and results["usage"]["data"] == [CALLS, EXPORTS]
        assert results["usage_pipe"]["target"] == "usage_daily" and results["usage_pipe"]["rows"] == 2
        assert events[-1]["state"] == "current" and events[-1]["sample_rows"] == 3

        # Only the endpoint.
        events = dev.write({"endpoints/usage.yaml": ENDPOINT.replace("BY event\n", "BY event DESC\n")})
        assert of(events, "changed")[0]["files"] == ["endpoints/usage.yaml"]
        assert list(pipes(events)) == ["usage"] and pipes(events)["usage"]["data"] == [EXPORTS, CALLS]

        # A materialized pipe, and the endpoint that reads its target; the rows are loaded again.
        events = dev.write({"pipes/usage_pipe.yaml": USAGE_PIPE.replace("count() AS", "10 * count() AS")})
        assert set(pipes(events)) == {"usage_pipe", "usage"}
        assert pipes(events)["usage"]["data"][1] == {"event": "call", "events": 20, "units": 5}

        # An incompatible change of the datasource, and a row: everything is loaded again.
        events = dev.write(
            {"datasources/events.yaml": EVENTS.replace("[tenant_id, timestamp]", "[tenant_id, event]")}
        )
        assert set(pipes(events)) == {"usage_pipe", "kinds_pipe", "usage"} and events[-1]["errors"] == 0
        events = dev.write({"tests/usage.yaml": TESTS.replace("units: 3", "units: 4")})
        assert pipes(events)["usage"]["data"][1]["units"] == 6
        dev.end()
    assert dev.process.returncode == 130 and not left_behind(cli)


def test_a_broken_file_keeps_the_last_good_state(cli: Cli) -> None:
    broken = ENDPOINT.replace("sum(units)", "sum(unitz)")
    with developing(cli) as dev:
        dev.round()
        events = dev.write(
            {
                "endpoints/usage.yaml": broken,
                "pipes/kinds_pipe.yaml": "nodes: [{name: a, sql: SELEC 1}]\n",
                "datasources/other.yaml": "colums: []\n",
            }
        )
        # The writes may be seen one after the other.
        while len(of(events, "problem")) < 3:
            assert events[-1]["state"] == "kept" and not pipes(events)
            events = dev.round()
        problems = {(e["file"], e["line"], e["code"]) for e in of(events, "problem")}
        assert ("endpoints/usage.yaml", 4, "RK2007") in problems
        assert {file for file, _, _ in problems} == {
            "endpoints/usage.yaml",
            "pipes/kinds_pipe.yaml",
            "datasources/other.yaml",
        }
        assert all(line for _, line, _ in problems) and events[-1]["state"] == "kept"
        (dev.cli.directory / "datasources/other.yaml").unlink()
        events = dev.round()
        assert len(of(events, "problem")) == 2 and events[-1]["state"] == "kept"
        dev.replace("pipes/kinds_pipe.yaml", FILES["pipes/kinds_pipe.yaml"])
        events = dev.round()
        assert len(of(events, "problem")) == 1
        events = dev.write({"endpoints/usage.yaml": ENDPOINT + "\n"})
        assert events[-1]["state"] == "current" and pipes(events)["usage"]["data"] == [CALLS, EXPORTS]


def test_saves_without_a_change_and_saves_in_quick_succession(cli: Cli) -> None:
    with developing(cli) as dev:
        dev.round()
        path = cli.directory / "endpoints/usage.yaml"
        # Stopped, so that it sees all of this at once.
        os.kill(dev.process.pid, signal.SIGSTOP)
        for n in range(1, 11):
            path.write_text(ENDPOINT.replace("sum(events)", f"sum(events) * {n}"))
        os.kill(dev.process.pid, signal.SIGCONT)
        events = dev.round()
        assert pipes(events)["usage"]["data"][0]["events"] == 20
        assert of(events, "changed")[0]["files"] == ["endpoints/usage.yaml"]
        # The next round is that of the next change of content.
        path.touch()
        dev.replace("endpoints/usage.yaml", path.read_text())
        (cli.directory / "endpoints/.usage.yaml.swp").write_text("of an editor")
        events = dev.write({"endpoints/usage.yaml": ENDPOINT})
        assert pipes(events)["usage"]["data"] == [CALLS, EXPORTS]


def test_an_interrupt_leaves_no_directory_and_no_traceback(cli: Cli, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*REAL, "dev"], cwd=cli.directory, env=cli.seen(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("rookery-dev-*/data/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in out, out
    assert not left_behind(cli)
