"""`rookery test`: what passes, what fails and how that is shown, and what a run never touches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cli.billing import FILES
from tests.cli.commands import ROOT, Cli

pytestmark = pytest.mark.feature

FIXTURES = """
fixtures:
  events:
    - {tenant_id: 7, event: call, units: 2}
    - {tenant_id: 7, event: call, units: 3}
    - {tenant_id: 8, event: export, units: 18446744073709551615}
"""
ONE_TENANT = FIXTURES.partition("    - {tenant_id: 8")[0]
"""For which there are only two workspaces: one for each placement."""
PASSING = """
tests:
  - name: usage of tenant 7
    endpoint: usage
    tenant: 7
    expect: [{event: call, events: 2, units: 5}]
  - name: tenant 8 sees nothing of it
    endpoint: usage
    tenant: 8
    expect: [{event: export, events: 1, units: 18446744073709551615}]
"""


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    cli = Cli(tmp_path / "project", {"TMPDIR": str(tmp_path)})
    cli.write({**FILES, "tests/usage.yaml": FIXTURES + PASSING})
    return cli


def test_passing_tests_leave_nothing_behind_and_use_neither_the_server_nor_the_data(cli: Cli, tmp_path: Path) -> None:
    theirs = {"ROOKERY_URL": "http://127.0.0.1:1", "ROOKERY_TOKEN": "none"}
    clickhouse = {"ROOKERY_CLICKHOUSE_URL": "http://127.0.0.1:1", "ROOKERY_DATA": "/nonexistent/data"}
    report = cli("test", "--json", "-k", "TENANT 7", **theirs, **clickhouse).json
    checks = [(o["check"], o["placement"]) for o in report["outcomes"]]
    assert checks == [("result", "pooled"), ("result", "tables"), ("isolation", "all")]
    assert report["passed"] and report["tests"] == 1 and report["failed"] == 0
    assert not (cli.directory / ".rookery").exists() and not list(tmp_path.glob("*rookery*"))


UNKNOWN_PARAMETER = """
  - {name: a parameter that the endpoint does not have, endpoint: usage, tenant: 7, params: {sinse: 3}, expect: []}
"""


NO_FILE = """
  - {name: a file that is not there, endpoint: usage, tenant: 7, expect_file: expected/none.csv}
"""


def test_a_wrong_result_is_shown_as_a_diff(cli: Cli, tmp_path: Path) -> None:
    """Also a file that is not there, and those that are outside of the project: others may have written it."""
    (tmp_path / "outside.csv").write_text("event,events\nSECRET,1\n")
    (cli.directory / "tests/link.csv").symlink_to(tmp_path / "outside.csv")
    os.mkfifo(cli.directory / "tests/pipe.csv")
    with (cli.directory / "tests/large.csv").open("wb") as large:
        large.truncate(33 << 20)
    outside = ("link.csv", "../../outside.csv", str(tmp_path / "outside.csv"), "pipe.csv", "large.csv")
    unread = "".join(f"  - {{name: {n}, endpoint: usage, tenant: 7, expect_file: {n}}}\n" for n in outside)
    wrong = PASSING.replace("units: 5", "units: 6").replace("18446744073709551615}]", "18446744073709551614}]")
    cli.write({"tests/usage.yaml": FIXTURES + wrong + UNKNOWN_PARAMETER + NO_FILE + unread})
    outcome = cli("test", "--junit", "out/report.xml", code=1, COLUMNS="80")
    assert outcome.text.count("outside the project") >= 3 and "not a regular file" in outcome.text
    assert "larger than 32 MiB" in outcome.text
    assert "SECRET" not in outcome.text
    assert "9 of 9 tests failed" in outcome.out and outcome.out.count("--update") == 3
    assert "usage of tenant 7" in outcome.out
    lines = [line.split() for line in outcome.out.splitlines()]
    assert ["-", "call", "2", "6"] in lines and ["+", "call", "2", "5"] in lines
    assert ["+", "export", "1", "18446744073709551615"] in lines
    assert "tests/usage.yaml:9: endpoint usage as tenant 7, placement pooled and tables" in " ".join(
        outcome.out.split()
    )
    # It would pass without the parameter, and show nothing about the one that was meant.
    assert "RK4029" in outcome.out and "sinse" in outcome.out
    # A path is one word.
    assert max(len(line) for line in outcome.out.splitlines() if str(tmp_path) not in line) <= 80
    suite = ElementTree.parse(cli.directory / "out/report.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("27", "18")
    assert {c.get("classname") for c in suite.iter("testcase")} == {"tests.usage"}
    assert "+ call" in (suite.find(".//failure").text or "")  # type: ignore[union-attr]


LEAKY = """
nodes:
  - name: kinds_seen
    sql: SELECT event, sum(units) AS units FROM kinds GROUP BY event ORDER BY event
"""
SHARED_TESTS = """
tests:
  - name: all kinds of events
    endpoint: all_kinds
    tenant: 7
    columns: [event]
    expect: [{event: call}, {event: export}]
  - name: shared on purpose
    endpoint: all_kinds
    tenant: 7
    columns: [event]
    expect: [{event: call}, {event: export}]
    isolated: false
  - {name: only tenant 7 has it, endpoint: seen_call, tenant: 7, expect: [{seen: 1}]}
  - {name: only tenant 8 has it, endpoint: seen_export, tenant: 8, expect: [{seen: 1}]}
"""


def test_a_result_with_other_tenants_rows_is_found(cli: Cli) -> None:
    seen = "sql: SELECT sum(units) > 0 AS seen FROM kinds WHERE event = '{}'\n"
    cli.write({f"pipes/seen_{event}.yaml": seen.format(event) for event in ("call", "export")})
    cli.write({"pipes/all_kinds.yaml": LEAKY, "tests/usage.yaml": FIXTURES + SHARED_TESTS})
    report = cli("test", "--json", code=1).json
    failed = {o["name"]: o for o in report["outcomes"] if not o["passed"]}
    # An event of only one tenant's rows is a leak for the other one, which has no test of that endpoint.
    assert {(name, o["check"], o["tenant"]) for name, o in failed.items()} == {
        ("all kinds of events", "isolation", "7"),
        ("only tenant 7 has it", "isolation", "8"),
        ("only tenant 8 has it", "isolation", "7"),
    }
    failure = failed["all kinds of events"]["failure"]
    assert {r["row"]["event"] for r in failure["rows"]} == {"export"}
    assert "depends on other tenants' rows" in failure["message"]


def test_a_row_that_cannot_be_stored_is_an_error_with_its_line(cli: Cli) -> None:
    rows = '{"tenant_id": 7, "event": "call"}\n\n{"tenant_id": 8, "event": "call", "units": "many"}\n'
    files = {"tests/usage.yaml": "fixtures: {events: rows.ndjson}\n" + PASSING, "tests/rows.ndjson": rows}
    cli.write(files)
    outcome = cli("test", code=1)
    assert "tests/rows.ndjson:3: RK5001" in outcome.err and "units" in outcome.err
    cli.write({"tests/usage.yaml": FIXTURES.replace("units: 3", "units: -3") + PASSING})
    assert "tests/usage.yaml:5:7: RK5001" in cli("test", code=1).err


def test_update_writes_the_expected_file(cli: Cli) -> None:
    texts = {"ndjson": '{"event": "call", "events": 2, "units": 5}\n', "csv": "event,events,units\ncall,2,5\n"}
    tests = [f"{{name: {f}, endpoint: usage, tenant: 7, expect_file: expected/usage.{f}}}" for f in texts]
    cli.write({"tests/usage.yaml": f"{ONE_TENANT}tests: [{', '.join(tests)}]\n"})
    assert cli("test", "--update").out.count("updated") == 2
    for format, text in texts.items():
        assert (cli.directory / f"tests/expected/usage.{format}").read_text() == text
    unchanged = cli("test", "--update").out
    assert unchanged.count("  ok    ") == 2 and "2 tests passed" in unchanged


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("{name: a, endpoint: usag, expect: []}", ["RK1010", "did you mean `usage`"]),
        ("{name: a, endpont: usage, expect: []}", ["RK1003", "did you mean `endpoint`"]),
        ("{name: a, endpoint: usage}", ["RK1004", "expect"]),
        ("{name: a, endpoint: usage, expect: [], expect_error: RK4006}", ["RK1005", "both"]),
        ("{name: a, endpoint: usage, expect_error: rk4006}", ["RK1005", "did you mean `RK4006`"]),
        ("{name: a, endpoint: usage, expect: [7]}", ["RK1005", "a row must be a mapping"]),
    ],
    ids=["endpoint", "key", "expectation", "both", "code", "row"],
)
def test_mistakes_in_a_file_are_reported_with_their_place(cli: Cli, test: str, words: list[str]) -> None:
    cli.write({"tests/usage.yaml": f"tests:\n  - {test}\n"})
    outcome = cli("test", code=1)
    assert "tests/usage.yaml:2:" in outcome.err and all(word in outcome.err for word in words), outcome.err


def test_no_tests_is_an_error(cli: Cli) -> None:
    assert "RK7002" in cli("test", "-k", "unknown", code=2).err
    (cli.directory / "tests/usage.yaml").unlink()
    assert "RK1008" in cli("test", code=1).err


@pytest.mark.soak_only
def test_the_tests_of_the_example_project_pass() -> None:
    """As in `tests/docs/test_development.py`, by this command."""
    outcome = Cli(ROOT)("test", "tests/usage.yaml", "--json")
    assert outcome.json["passed"] and outcome.json["tests"] == 6


def test_an_interrupt_leaves_no_directory_and_no_traceback(cli: Cli, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "test"]
    process = subprocess.Popen(
        command, cwd=cli.directory, env=cli.seen(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    # The engine has been opened once its directory has files.
    while not list(tmp_path.glob(".rookery-scratch-*/data/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in out, out
    assert not list(tmp_path.glob(".rookery-scratch-*"))


def test_files_outside_of_the_project_are_not_written(cli: Cli, tmp_path: Path) -> None:
    """Others may have written the project."""
    outside = tmp_path / "outside.csv"
    outside.write_text("event,events\nSECRET,1\n")
    (cli.directory / "tests/link.csv").symlink_to(outside)
    names = ("link.csv", "../../outside.csv", str(outside))
    tests = [f"{{name: {n}, endpoint: usage, tenant: 7, expect_file: {n}}}" for n in names]
    cli.write({"tests/usage.yaml": ONE_TENANT + "tests:\n" + "".join(f"  - {t}\n" for t in tests)})
    assert cli("test", "--update", code=1).text.count("outside the project") >= 3
    assert outside.read_text() == "event,events\nSECRET,1\n"
    for name in names:
        cli.write({"tests/usage.yaml": f"fixtures: {{events: {name}}}\n{PASSING}"})
        assert "RK1008" in (refused := cli("test", code=1).text) and "outside the project" in refused
