"""`check` needs no server, reports all problems with their places, and never prints a traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.billing import EVENTS, FILES, USAGE, USAGE_PIPE
from tests.cli.commands import Cli

PLACE = re.compile(r"^(?:datasources|pipes|endpoints)/[\w.-]+:\d+:\d+(?:, .*)?: RK\d{4} ")

FILES_WITH_PROBLEMS = {
    "datasources/broken.yaml": ("columns: [\n", "RK1001"),
    "datasources/twice.yaml": ("columns:\n  - {name: a, type: String}\ncolumns: []\n", "RK1002"),
    "datasources/misspelt.yaml": ("columns:\n  - {name: a, typ: String}\n", "RK1003"),
    "datasources/nothing.yaml": ("description: no columns, no nodes\n", "RK1017"),
    "datasources/kindless.yaml": ("columns:\n  - {name: a}\n", "RK1004"),
    "datasources/bad_value.yaml": ("columns:\n  - {name: a, type: String}\nfinal: yes\n", "RK1005"),
    "datasources/odd-name.yaml": ("columns:\n  - {name: a, type: String}\n", "RK1006"),
    "datasources/list.yaml": ("- 1\n- 2\n", "RK1017"),
    "datasources/empty.yaml": ("", "RK1"),
    "datasources/binary.yaml": ("\0\0", "RK1"),
}
PROBLEMS_ACROSS_FILES = {
    "datasources/untyped.yaml": ("columns:\n  - {name: a, type: Strin}\n", "RK1016"),
    "datasources/no_tenant.yaml": ("tenant: missing\ncolumns:\n  - {name: a, type: String}\n", "RK1012"),
    "datasources/not_first.yaml": (EVENTS.replace("[tenant_id, timestamp]", "[timestamp, tenant_id]"), "RK1012"),
    "datasources/partitioned.yaml": (
        EVENTS.replace("sorting_key:", "partition_key: toYYYYMM(timestamp), sorting_key:"),
        "RK1014",
    ),
    "endpoints/unknown_table.yaml": ("sql: SELECT 1 FROM event\n", "RK1010"),
    "endpoints/round.yaml": ("sql: SELECT 1 FROM about\n", ""),
    "endpoints/about.yaml": ("sql: SELECT 1 FROM round\n", "RK1011"),
    "endpoints/syntax.yaml": ("sql: SELECT (1 FROM events\n", "RK2001"),
    "endpoints/two_statements.yaml": ("sql: SELECT 1; SELECT 2\n", "RK2001"),
    "endpoints/ddl.yaml": ("sql: DROP TABLE events\n", "RK2001"),
    "endpoints/file_function.yaml": ("sql: SELECT * FROM file('/etc/passwd')\n", "RK1010"),
    "endpoints/function.yaml": ("sql: SELECT sleep(3) FROM events\n", "RK2003"),
    "endpoints/column.yaml": ("sql: SELECT unitz FROM events\n", "RK2007"),
    "endpoints/types.yaml": ("sql: SELECT units + event FROM events\n", "RK2007"),
    "endpoints/template.yaml": ("sql: SELECT {{ String(a FROM events\n", "RK2005"),
    "pipes/forgetful.yaml": (
        USAGE_PIPE.replace("tenant_id, event, count()", "event, count()")
        .replace("usage_sums", "forgetful_sums")
        .replace("usage_daily", "forgotten")
        .replace("GROUP BY tenant_id, event", "GROUP BY event"),
        "RK2008",
    ),
    "datasources/forgotten.yaml": (USAGE, ""),
    "pipes/misfit.yaml": ("sql: SELECT event, 1 AS other FROM events\nmaterialize: {target: fits}\n", "RK2011"),
    "pipes/careless.yaml": ("sql: SELECT event FROM events\nmaterialize: {target: for_everyone}\n", "RK2014"),
    "datasources/for_everyone.yaml": (
        "columns:\n  - {name: event, type: LowCardinality(String)}\nengine: {sorting_key: event}\n",
        "",
    ),
    "datasources/fits.yaml": ("columns:\n  - {name: event, type: String}\nengine: {sorting_key: event}\n", ""),
}


def listed(text: str) -> dict[str, list[str]]:
    """Problems by file."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if PLACE.match(line):
            found.setdefault(line.partition(":")[0], []).append(line)
    return found


@pytest.mark.parametrize(
    "problems",
    [
        pytest.param(FILES_WITH_PROBLEMS, marks=pytest.mark.soak_only),
        pytest.param(PROBLEMS_ACROSS_FILES, marks=pytest.mark.soak_only),
        FILES_WITH_PROBLEMS | PROBLEMS_ACROSS_FILES,
    ],
    ids=["in files", "across files", "both"],
)
def test_all_problems_are_reported_with_their_places(tmp_path: Path, problems: dict[str, tuple[str, str]]) -> None:
    cli = Cli(tmp_path)
    cli.write(FILES)
    cli.write({file: text for file, (text, _) in problems.items()})
    listing = listed(cli("check", code=1).err)
    for file, (_, code) in problems.items():
        if code:
            assert any(f" {code}" in line for line in listing.get(file, [])), f"{file}: {listing.get(file)}"
    assert not set(listing) - set(problems), "a file that is right is blamed"


UNKNOWN = {
    "SELECT units,\n    countt(units) AS cont\n  FROM events GROUP BY units": "3:5",
    "SELECT units, 'eventz' AS e\n  FROM events\n  JOIN eventz USING (units)": "4:8",
    "SELECT {{ Int8(a, 1) }} AS countt,\n    countt(units) AS n\n  FROM events": "3:5",
    "SELECT units FROM\n  numberz(5)": "3:3",
}


def test_an_unknown_name_has_its_own_position(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write({**FILES, **{f"endpoints/own{n}.yaml": f"sql: |\n  {sql}\n" for n, sql in enumerate(UNKNOWN)}})
    listing = listed(cli("check", code=1).err)
    for number, position in enumerate(UNKNOWN.values()):
        file = f"endpoints/own{number}.yaml"
        assert [line.startswith(f"{file}:{position}, ") for line in listing[file]] == [True]


@pytest.mark.parametrize("command", ["check", "push"])
def test_resources_over_an_unreadable_file_are_not_reported(tmp_path: Path, command: str) -> None:
    cli = Cli(tmp_path)
    cli.write(
        {
            **FILES,
            "datasources/events.yaml": EVENTS.replace("columns:", "colums:"),
            "datasources/other.yaml": EVENTS,
            "endpoints/reads_it.yaml": "sql: SELECT nothing FROM events\n",
            "endpoints/own.yaml": "sql: |\n  SELECT units,\n    max(unitz) AS most\n  FROM other GROUP BY units\n",
        }
    )
    text = cli(command, code=1).err
    listing = listed(text)
    assert set(listing) == {"datasources/events.yaml", "endpoints/own.yaml"}
    assert listing["endpoints/own.yaml"][0].startswith("endpoints/own.yaml:3:9, ")
    assert "did you mean `units`?" in text


def test_problems_in_json_have_codes_places_and_hints(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write({"datasources/events.yaml": EVENTS.replace("type: UInt32", "typ: UInt32")})
    errors = cli("--json", "check", code=1).json["errors"]
    assert any(
        e["code"] == "RK1003" and e["hint"] and e["place"].startswith("datasources/events.yaml:4:") for e in errors
    )


@pytest.mark.proves("D13")
def test_a_tenant_column_that_is_not_first_is_an_error_with_a_hint(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write({"datasources/events.yaml": EVENTS.replace("[tenant_id, timestamp]", "[timestamp]")})
    text = cli("check", code=1).err
    assert "RK1012" in text
    assert "hint:" in text


def test_an_unprotected_tenant_parameter_gets_a_warning(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write(FILES)
    cli.write(
        {"endpoints/open.yaml": "sql: SELECT count() AS n FROM events WHERE tenant_id = {{ UInt32(tenant_id) }}\n"}
    )
    outcome = cli("check")
    assert "RK2010" in outcome.err
    assert "fine" in outcome.err


def test_missing_projects_files_and_folders_are_errors(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    assert "RK7004" in cli("check", code=1).err
    assert "RK7004" in cli("push", code=1).err
    assert "RK7004" in cli("-C", "nowhere", "check", code=1).err
    (cli.directory / ".gitignore").write_text("dist")
    cli("init")
    assert (cli.directory / ".gitignore").read_text() == "dist\n.rookery/\n"
    assert "nothing changed" in cli("init").err
    assert (cli.directory / ".gitignore").read_text() == "dist\n.rookery/\n"
    assert "RK7002" in cli("init", "", code=2).err
    assert "0 datasources" in cli("check").err
    assert "RK1008" in cli("push", "endpoints/none.yaml", code=1).err
    cli.write({"pipes/p.yml": "sql: SELECT 1\n"})
    assert "p.yml" in cli("check", code=1).err


def test_template_parameters_that_no_request_can_set_are_refused(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    names = ("q", "format", "token", "output_format_json_quote_64bit_integers")
    sql = "sql: |\n  SELECT\n    {{{{ String({}, 'a') }}}} AS a\n"
    cli.write({f"endpoints/p{n}.yaml": sql.format(name) for n, name in enumerate(names)})
    for command in ("check", "push"):
        listing = listed(cli(command, code=1).err)
        for number, name in enumerate(names):
            (line,) = listing[f"endpoints/p{number}.yaml"]
            assert line.startswith(f"endpoints/p{number}.yaml:3") and "RK1006" in line and f"`{name}`" in line


def test_a_token_that_could_never_append_is_refused(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    table = "columns:\n  - {name: n, type: UInt8}\nengine: {sorting_key: [n]}\n"
    cli.write(
        {
            "datasources/source.yaml": table + "tokens:\n  - {name: a, scope: APPEND}\n",
            "datasources/copy.yaml": table + "tokens:\n  - {name: r, scope: READ}\n  - {name: a, scope: APPEND}\n",
            "pipes/fill.yaml": "sql: SELECT n FROM source\nmaterialize: {target: copy}\n",
        }
    )
    text = cli("check", code=1).err
    assert "datasources/copy.yaml:6" in text and "RK1005" in text and "`a`" in text
    assert text.count("RK") == 1


GENERATED = {
    "SELEC 1": "RK2001",
    "SELECT nonesuch FROM events": "RK2007",
    "SELECT {{ Nonesuch(a) }} AS a": "RK2005",
    "INSERT INTO events VALUES (1)": "RK2001",
}


def test_no_file_is_written_for_invalid_sql(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write(FILES)
    for sql, code in GENERATED.items():
        text = cli("pipe", "generate", "made", sql, code=1).err
        assert "query:1:" in text and code in text
    assert code in cli("pipe", "generate", "made", sql, "--force", code=1).err
    assert "query:2:4" in cli("pipe", "generate", "made", "SELECT\n   nonesuch FROM events", code=1).err
    assert not (tmp_path / "pipes" / "made.yaml").exists()
    cli("check")


def test_the_tables_of_a_generated_pipe_may_come_later(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    cli = Cli(tmp_path / "project")
    assert "RK1010" in cli("pipe", "generate", "made", "SELECT * FROM later").err
    assert "RK1010" in cli("check", code=1).err
    cli("pipe", "generate", "made", "SELECT 1 AS a", "--force")
    cli("check")
    # A project that someone else wrote must not change other files.
    made = (cli.directory / "pipes/made.yaml").rename(tmp_path / "outside.yaml")
    (cli.directory / "pipes/made.yaml").symlink_to(made)
    assert "RK1008" in cli("pipe", "generate", "made", "SELECT 2 AS a", "--force", code=1).err
    assert "SELECT 1 AS a" in made.read_text()


def test_only_text_in_double_quotes_gets_a_hint(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    conditions = ['event = "order"', 'event IN ("x", "y")', """event = "it's" """, "evnt = 'evnt'"]
    sql = "sql: |\n  SELECT 1 AS a FROM events WHERE {}\n"
    cli.write({**FILES, **{f"endpoints/p{n}.yaml": sql.format(where) for n, where in enumerate(conditions)}})
    errors = {e["place"].partition(":")[0]: e for e in cli("--json", "check", code=1).json["errors"]}
    assert {e["code"] for e in errors.values()} == {"RK2007"}
    hints = [errors[f"endpoints/p{n}.yaml"].get("hint") or "" for n in range(len(conditions))]
    assert ["single quotes" in hint for hint in hints] == [True, True, True, False]


def test_an_endpoint_cannot_take_the_place_of_the_openapi_document(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    cli.write({"endpoints/openapi.yaml": "sql: SELECT 1 AS a\n"})
    text = cli("check", code=1).err
    assert "endpoints/openapi.yaml:1:1" in text and "RK1006" in text
    cli.write({"endpoints/openapi.yaml": "type: standard\nsql: SELECT 1 AS a\n"})
    cli("check")
