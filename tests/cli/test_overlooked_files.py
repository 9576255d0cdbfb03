"""Files that are probably meant to be part of the project are never ignored silently."""

from __future__ import annotations

from pathlib import Path

from tests.cli.commands import Cli, for_server
from tests.support.server import Server

ONE = "sql: SELECT 1 AS one\n"
USUAL = {
    "pipes/one.yaml": ONE,
    "pipes/README.md": "notes",
    "pipes/.draft.sql": "SELECT 1",
    "docker-compose.yml": "services: {}\n",
    "reports/x.yaml": ONE,
    "query.sql": "SELECT 1",
}
OVERLOOKED = [
    ("endpoint/x.yaml", "endpoint/", "endpoints"),
    ("datasource/deep/x.yaml", "datasource/", "datasources"),
    ("Pipes/x.yml", "Pipes/", "pipes"),
    ("usage.yaml", "usage.yaml", "endpoints/"),
    ("usage.yml", "usage.yml", "endpoints/"),
    ("pipes/x.sql", "pipes/x.sql", "x.yaml"),
    ("pipes/deep/x.json", "pipes/deep/x.json", "move"),
    ("pipes/x.yml~", "pipes/x.yml~", "x.yaml"),
    ("pipes/x.yaml.bak", "pipes/x.yaml.bak", "x.yaml"),
]


def test_check_warns(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write({**USUAL, **{file: ONE for file, _, _ in OVERLOOKED}})
    text = cli("check").err
    warnings = {w["place"]: w for w in cli("check", "--json").json["warnings"]}
    assert warnings.keys() == {place for _, place, _ in OVERLOOKED}
    for _, place, hint in OVERLOOKED:
        assert hint in text.partition(f"{place}: RK1018")[2].partition("hint:")[2].partition("RK1018")[0], place
        assert warnings[place]["code"] == "RK1018" and hint in warnings[place]["hint"]


def test_usual_files_cause_no_warning(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write(USUAL)
    assert cli("check", "--json").json["warnings"] == []


def test_plan_and_push_warn(shared_server: Server, tmp_path: Path) -> None:
    cli = for_server(shared_server, tmp_path)
    cli.write({**USUAL, "endpoint/x.yaml": ONE})
    assert "RK1018" in cli("plan", code=3).err
    assert "RK1018" not in cli("push", "pipes/one.yaml").err
    assert [w["code"] for w in cli("push", "--json").json["warnings"]] == ["RK1018"]
    assert "RK1018" in cli("push").err


def test_the_warning_accompanies_the_errors_that_it_explains(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write({"pipes/one.yaml": "sql: SELECT * FROM events\n", "datasource/events.yaml": ONE})
    text = cli("check", code=1).err
    assert "RK1018" in text and "RK1010" in text


def test_a_project_with_misspelled_folders_only(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write({"pipe/one.yaml": ONE})
    text = cli("check", code=1).err
    assert "RK7004" in text and "pipes/" in text.partition("hint:")[2]


def test_many_files_are_counted(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write({"pipes/one.yaml": ONE, **{f"pipes/{n}.csv": "" for n in range(30)}})
    warnings = cli("check", "--json").json["warnings"]
    assert len(warnings) == 21 and "10 more" in warnings[-1]["error"]
