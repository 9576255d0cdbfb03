"""docs/development.md: its table of events, and its example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.commands import Cli
from tests.cli.dev_process import Event, developing
from tests.docs.reading import ROOT

pytestmark = pytest.mark.feature
PAGE = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")
EVENTS = {
    event: set(re.findall(r"`([a-z_]+)`", re.sub(r"\(.*?\)", "", keys)))
    for event, keys in re.findall(r"^\| `([a-z]+)` \| [^|]+ \| ([^|]+) \|$", PAGE, re.MULTILINE)
    if event != "event"
}


def test_every_key_of_the_events_is_documented(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "project", {"TMPDIR": str(tmp_path)})
    folders = ("pipes", "datasources", "tests")
    cli.write({str(p.relative_to(ROOT)): p.read_text() for f in folders for p in (ROOT / f).glob("*.yaml")})
    cli.write({"pipes/with_an_error.yaml": "sql: SELECT throwIf(units > 0, 'no') AS failed FROM events\n"})
    seen: list[Event] = []
    with developing(cli, "--test") as dev:
        seen += dev.round()
        passed = {event["name"]: event["passed"] for event in seen if event["event"] == "test"}
        assert len(passed) == 6 and all(passed.values()), "the tests of the example project"
        usage = cli.directory / "pipes/usage.yaml"
        seen += dev.write({"pipes/usage.yaml": usage.read_text().replace("sum(units) AS", "sum(unitz) AS")})
    keys: dict[str, set[str]] = {}
    for event in seen:
        keys.setdefault(event["event"], set()).update(event.keys() - {"event"})
    assert keys.pop("test") >= {"name", "file", "line", "passed", "failure"}
    assert EVENTS.pop("test") == set()
    assert keys == EVENTS


def test_the_example_of_a_problem_is_real(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write(
        {str(p.relative_to(ROOT)): p.read_text() for f in ("pipes", "datasources") for p in (ROOT / f).glob("*")}
    )
    usage = tmp_path / "pipes/usage.yaml"
    usage.write_text(usage.read_text().replace("sum(units) AS", "sum(unitz) AS"))
    shown = next(line for line in PAGE.splitlines() if line.startswith("pipes/usage.yaml:"))
    assert cli("check", code=1).err.startswith(shown)
