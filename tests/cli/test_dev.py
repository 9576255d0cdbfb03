"""`rookery dev`: what each save shows, and what a broken file keeps."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.cli.billing import ENDPOINT, EVENTS, FILES, USAGE_PIPE
from tests.cli.commands import Cli
from tests.cli.dev_process import (
    CASES,
    FIXTURES,
    TESTS,
    assert_ended,
    dev_project,
    developing,
    left_behind,
    of,
    pipes,
    terminal,
)

pytestmark = pytest.mark.feature

CALLS = {"event": "call", "events": 2, "units": 5}
EXPORTS = {"event": "export", "events": 1, "units": 18446744073709551615}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return dev_project(tmp_path)


def test_each_save_shows_the_pipes_that_it_affects(cli: Cli) -> None:
    """Also of tenants with tables of their own; rows with relative times do not count as changed at each save."""
    rows = TESTS.replace("event: call, units: 2", "timestamp: $now-1h, event: call, units: 2")
    rows = f"tenants: {{7: tables, 8: pooled}}\n{rows}"
    cli.write({"tests/usage.yaml": rows})
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
        assert set(pipes(events)) == {"usage_pipe", "usage"} and events[-1]["sample_rows"] == 3
        assert pipes(events)["usage"]["data"][1] == {"event": "call", "events": 20, "units": 5}

        # An incompatible change of the datasource, and a row: everything is loaded again.
        events = dev.write(
            {"datasources/events.yaml": EVENTS.replace("[tenant_id, timestamp]", "[tenant_id, event]")}
        )
        assert set(pipes(events)) == {"usage_pipe", "kinds_pipe", "usage"} and events[-1]["errors"] == 0
        events = dev.write({"tests/usage.yaml": rows.replace("units: 3", "units: 4")})
        assert pipes(events)["usage"]["data"][1]["units"] == 6
        assert set(pipes(dev.write({"endpoints/usage.yaml": ENDPOINT}))) == {"usage"}
        dev.end()
    assert dev.process.returncode == 130 and not left_behind(cli)


def test_saves_without_a_change_and_saves_in_quick_succession(cli: Cli) -> None:
    rows = "\n".join(
        f'{{"tenant_id": {t}, "event": "{e}", "units": {u}}}'
        for t, e, u in ((7, "call", 2), (7, "call", 3), (8, "export", EXPORTS["units"]))
    )
    # The new file restarts the watch, which must not count as a change.
    cli.write({"rows.ndjson": rows, "tests/usage.yaml": "fixtures: {events: ../rows.ndjson}\n" + CASES})
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
        path.touch()
        dev.replace("endpoints/usage.yaml", path.read_text())
        (cli.directory / "endpoints/.usage.yaml.swp").write_text("of an editor")
        assert dev.is_silent()
        events = dev.write({"endpoints/usage.yaml": ENDPOINT})
        assert pipes(events)["usage"]["data"] == [CALLS, EXPORTS]
        events = dev.write({"rows.ndjson": rows.replace("export", "call")})
        assert pipes(events)["usage"]["rows"] == 1
        assert_ended(dev, signal.SIGHUP)


ROWS = '{"tenant_id": 7, "event": "call"}\n{"tenant_id": 9, "event": "view", "units": 4}\n'


def test_sample_rows_of_a_file(cli: Cli) -> None:
    rows = cli.directory.parent / "elsewhere" / "rows.ndjson"
    rows.parent.mkdir()
    rows.write_text(ROWS)
    with developing(cli, "--data", f"events={rows}", "--rows", "1") as dev:
        usage = pipes(events := dev.round())["usage"]
        assert usage["rows"] == 2 and usage["data"] == [{"event": "call", "events": 1, "units": 1}]
        assert events[-1]["sample_rows"] == 2
        # Every bad row is reported; the others are loaded.
        dev.replace("new_rows", f'{ROWS}\n{{"tenant_id": 7, "units": "many"}}\n{{"tenant_id": 7, "units": -1}}\n')
        (cli.directory / "new_rows").replace(rows)
        events = dev.round()
        problems = of(events, "problem")
        assert [(e["code"], e["file"], e["line"]) for e in problems] == [("RK5001", str(rows), n) for n in (4, 5)]
        assert "units" in problems[0]["error"] and "many" in problems[0]["error"]
        assert events[-1]["state"] == "current" and events[-1]["sample_rows"] == 2 and "usage" in pipes(events)
        rows.unlink()
        events = dev.round()
        assert of(events, "problem")[0]["code"] == "RK1008" and events[-1]["state"] == "kept"


OF_A_TENANT = """
sql: SELECT event FROM events WHERE tenant_id = {{ UInt32(of_tenant, required=True) }} ORDER BY event
parameters: [{name: of_tenant, type: UInt32, tenant_key: true}]
"""


def test_a_tenant_sees_its_own_rows(cli: Cli) -> None:
    cli.write({"endpoints/mine.yaml": OF_A_TENANT})
    with developing(cli, "--tenant", "7") as dev:
        results = pipes(dev.round())
        assert results["usage"]["data"] == [CALLS] and results["usage_pipe"]["rows"] == 1
        assert results["usage"]["tenant"] == "7" and results["mine"]["rows"] == 2
    with developing(cli, "--tenant", "seven") as dev:
        events = dev.round()
        assert of(events, "problem")[0]["code"] == "RK3005" and events[-1]["state"] == "none"


@pytest.mark.parametrize("option", ["events", "events=", "=rows.ndjson", ".rookery/data"])
def test_an_option_without_a_datasource_is_refused(cli: Cli, option: str) -> None:
    assert "RK7002" in cli("dev", "--data", option, code=2).err


PARAMETERS = """
sql: |
  SELECT event FROM usage_daily
  WHERE event = {{ String(event, example='export') }}
    AND units > {{ UInt64(least, PLACE) }}
"""


STATES = """
columns:
  - {name: event, type: String}
  - {name: units, type: "AggregateFunction(sum, UInt64)"}
engine: {type: AggregatingMergeTree, sorting_key: [event]}
shared: true
"""
STATES_PIPE = """
sql: SELECT toString(event) AS event, sumState(units) AS units FROM events GROUP BY event
materialize: {target: states}
"""
STANDARD = "sql: SELECT event, units FROM events\ntype: standard\n"
FAILING = "sql: |\n  SELECT\n    throwIf(units > 4, 'too many') AS failed\n  FROM parts\n"


def test_every_kind_of_pipe_without_the_projects_data_and_server(cli: Cli) -> None:
    # Two files, whose rows are two parts of the targets.
    halves = [
        FIXTURES.replace("call, units: 3", "call, units: 2"),
        "fixtures: {events: [{tenant_id: 7, event: call}]}\n",
    ]
    cli.write({f"tests/usage{n}.yaml": half + CASES for n, half in enumerate(halves)})
    (cli.directory / "tests/usage.yaml").unlink()
    cli.write({"datasources/states.yaml": STATES, "pipes/states_pipe.yaml": STATES_PIPE})
    cli.write({"pipes/parts.yaml": STANDARD, "endpoints/failing.yaml": FAILING})
    with developing(cli, ROOKERY_DATA="/nonexistent/data", ROOKERY_URL="http://127.0.0.1:1") as dev:
        events = dev.round()
        results = pipes(events)
        states = {row["event"]: row["units"] for row in results["states_pipe"]["data"]}
        assert states == {"call": 5, "export": 18446744073709551615}
        assert results["parts"]["kind"] == "standard" and results["parts"]["rows"] == 4
        assert results["usage_pipe"]["rows"] == results["kinds_pipe"]["rows"] == 2
        (problem,) = of(events, "problem")
        assert (problem["file"], bool(problem["line"])) == ("endpoints/failing.yaml", True)
        assert events[-1]["state"] == "current"
        events = dev.write({"pipes/parts.yaml": STANDARD.replace("units FROM", "1 AS units FROM")})
        assert set(pipes(events)) == {"parts", "failing"} and events[-1]["errors"] == 0
        # Parameters have their examples; one without is a problem.
        (problem,) = of(dev.write({"endpoints/mine.yaml": OF_A_TENANT}), "problem")
        assert problem["file"] == "endpoints/mine.yaml" and "--tenant" in problem["hint"]
        chosen = pipes(dev.write({"endpoints/chosen.yaml": PARAMETERS.replace("PLACE", "1")}))["chosen"]
        assert chosen["data"] == [{"event": "export"}] and chosen["parameters"] == {"event": "export"}
        events = dev.write({"endpoints/chosen.yaml": PARAMETERS.replace("PLACE", "required=True")})
        (problem,) = of(events, "problem")
        assert (problem["code"], problem["file"]) == ("RK4007", "endpoints/chosen.yaml") and problem["line"]
        assert "example" in problem["hint"] and events[-1]["state"] == "current"
    assert not left_behind(cli)


def test_a_directory_without_a_project_is_refused(cli: Cli) -> None:
    assert "RK7004" in Cli(cli.directory.parent, cli.environment)("dev", code=1).err


def test_a_broken_file_keeps_the_last_good_state(cli: Cli) -> None:
    """The project begins broken. Folders may be created, replaced and removed at any time."""
    broken = ENDPOINT.replace("sum(units)", "sum(unitz)")
    (cli.directory / "endpoints/usage.yaml").unlink()
    (cli.directory / "endpoints").rmdir()
    cli.write({"pipes/usage_pipe.yaml": USAGE_PIPE.replace("events GROUP", "eventz GROUP")})
    with developing(cli) as dev:
        events = dev.round()
        assert events[-1]["state"] == "none" and events[-1]["errors"] >= 1
        assert set(pipes(dev.write({"pipes/usage_pipe.yaml": USAGE_PIPE}))) == {"usage_pipe", "kinds_pipe"}
        other = cli.directory / "elsewhere"
        other.mkdir()
        (other / "usage.yaml").write_text(ENDPOINT)
        other.rename(cli.directory / "endpoints")
        assert list(pipes(dev.round())) == ["usage"]
        (cli.directory / "endpoints").rename(other)
        events = dev.round()
        assert of(events, "changed")[0]["files"] == ["endpoints/usage.yaml"] and not pipes(events)
        assert dev.write({"tests/usage.yaml": "tests: ["})[-1]["state"] == "kept"
        assert dev.write({"tests/usage.yaml": TESTS})[-1]["errors"] == 0
        other.rename(cli.directory / "endpoints")
        assert list(pipes(dev.round())) == ["usage"]
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
        assert_ended(dev, signal.SIGTERM)


def test_the_tests_of_what_changed_are_run(cli: Cli) -> None:
    other = "tests:\n  - {name: a query, sql: SELECT 1 AS one, expect: [{one: 1}]}\n"
    kinds = "  - {name: kinds, endpoint: kinds_seen, expect: []}\n"
    cli.write({"tests/other.yaml": other + kinds, "endpoints/kinds_seen.yaml": "sql: SELECT event FROM kinds\n"})
    usage = "tenants: {7: pooled, 8: pooled}\n" + TESTS.replace(
        "tenant: 7\n    expect", "tenant: 7\n    isolated: false\n    expect"
    )
    cli.write({"tests/usage.yaml": usage})
    with developing(cli, "--test") as dev:
        events = dev.round()
        assert {e["name"] for e in of(events, "test")} == {"usage of tenant 7", "a query", "kinds"}
        assert (events[-1]["tests"], events[-1]["failed_tests"]) == (3, 0)
        events = dev.write({"endpoints/usage.yaml": ENDPOINT.replace("sum(units)", "1 + sum(units)")})
        assert {e["name"] for e in of(events, "test")} == {"usage of tenant 7", "a query"}
        assert events[-1]["failed_tests"] == 1 and events[-1]["state"] == "current"
        failed = next(e for e in of(events, "test") if not e["passed"])
        assert failed["file"] == "tests/usage.yaml" and failed["line"]
        events = dev.write({"tests/usage.yaml": usage.replace("units: 5", "units: 6")})
        assert {e["name"] for e in of(events, "test")} == {"usage of tenant 7"} and not events[-1]["failed_tests"]
        # The rows are the same, so only the tests had workspaces of their own.
        assert workspaces(cli) == {"test1"}
        # Other rows need a new workspace, which replaces the old one.
        dev.write({"pipes/usage_pipe.yaml": USAGE_PIPE.replace("count() AS", "1 + count() AS")})
        assert len(workspaces(cli)) == 1 and workspaces(cli) != {"test1"}
        events = dev.write({"tests/usage.yaml": usage.replace("endpoint: usage", "endpoint: usagee")})
        assert of(events, "problem")[0]["code"] == "RK1010" and of(events, "problem")[0]["line"]


def workspaces(cli: Cli) -> set[str]:
    """The workspaces whose databases a session has."""
    metadata = next(cli.directory.parent.glob(".rookery-scratch-*/data/metadata"))
    return {path.name.split("_")[0].removesuffix(".sql") for path in metadata.glob("test*")} - {"test"}


def test_text_fits_eighty_columns(cli: Cli) -> None:
    wide = ", ".join(f"{n} AS column_{n}" for n in range(20))
    long = f"sql: SELECT 'some words of a long text that wraps ' || repeat('and more ', 30) AS text, {wide} FROM events\n"
    cli.write({"endpoints/long.yaml": long, "endpoints/wrong.yaml": "sql: SELECT nothing_of_this_name FROM events\n"})
    cli.write(
        {
            "tests/usage.yaml": "tenants: {7: pooled, 8: pooled}\n"
            + TESTS.replace("tenant: 7\n    expect", "tenant: 7\n    isolated: false\n    expect")
        }
    )
    wrong = cli.directory / "endpoints/wrong.yaml"
    text = terminal(cli, "dev", "--test", steps={"nothing works yet": wrong.unlink, "up to date": None})
    assert "nothing_of_this_name" in text and "not shown: column_" in text and "usage of tenant 7" in text
    too_long = [line for line in text.splitlines() if len(line) > 80]
    assert not too_long
