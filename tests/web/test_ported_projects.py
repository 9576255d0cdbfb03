"""Files as they are when a project is moved here from another product."""

from __future__ import annotations

import pytest

from tests.support.server import Server

KEYS = """
columns:
  - {{name: day, type: Date}}
  - {{name: kind, type: String}}
  - {{name: units, type: UInt8}}
engine: {{sorting_key: "day, kind, units", primary_key: {primary}, partition_key: {partition}}}
"""


@pytest.mark.parametrize(
    ("primary", "partition"),
    [
        ("'day, kind'", "'toYYYYMM(day), kind'"),
        ("[day, kind]", "[toYYYYMM(day), kind]"),
        ("'(day, kind)'", "'tuple(toYYYYMM(day), kind)'"),
    ],
)
def test_keys_of_several_expressions(inbox: Server, primary: str, partition: str) -> None:
    files = {"datasources/keyed_rows.yaml": KEYS.format(primary=primary, partition=partition)}
    inbox.push(files)
    assert inbox.push(files)["steps"] == []
    inbox.events("keyed_rows", [{"day": "2026-01-01", "kind": "a", "units": 1}])
    assert inbox.sql("SELECT day, kind, units FROM keyed_rows LIMIT 1") == [
        {"day": "2026-01-01", "kind": "a", "units": 1}
    ]
    inbox.admin_json("DELETE", "/v0/datasources/keyed_rows?force=true")


ROWS = """
columns:
  - {name: at, type: DateTime}
  - {name: kind, type: String}
  - {name: user, type: String}
  - {name: units, type: UInt32}
engine: {sorting_key: [at]}
"""


def problems(server: Server, sql: str) -> list[tuple[str, str, str]]:
    """Code, message and hint of each problem of a pipe over `ported`, which is not deployed."""
    text = "sql: |\n" + "".join(f"  {line}\n" for line in sql.splitlines())
    files = [
        {"name": "ported", "file": "datasources/ported.yaml", "text": ROWS},
        {"name": "asked", "file": "endpoints/asked.yaml", "text": text},
    ]
    answer = server.admin("POST", "/v0/push", json={"files": files, "dry_run": True}).json()
    return [(p["code"], p["error"], p.get("hint") or "") for p in answer.get("errors", [])]


@pytest.mark.parametrize(
    ("sql", "request_"),
    [
        (
            "SELECT count() FROM ported WHERE {{ sql_and(kind=String(kind, defined=False)) }} AND 1",
            "without parameters",
        ),
        (
            "SELECT {% if defined(unit) %}{% if unit == 'year' %}toYear(at) AS p{% end %}{% else %}at{% end %}, "
            "sum(units) AS units FROM ported GROUP BY ALL",
            "with unit='__no_value__'",
        ),
        ("SELECT count() FROM ported {% if String(kind, 'x') == 'a' %}WHERE{% end %}", "with kind='a'"),
        (
            "SELECT count() FROM ported {% if String(kind, 'x', enum=['x', 'b']) != 'x' %}WHERE{% end %}",
            "with kind='b'",
        ),
    ],
)
def test_sql_that_a_template_renders_wrongly_is_reported_with_the_request(
    inbox: Server, sql: str, request_: str
) -> None:
    [(code, _, hint)] = problems(inbox, sql)
    assert code == "RK2001"
    assert hint == f"the template renders this SQL for a request {request_}"


@pytest.mark.parametrize(
    ("sql", "where", "remedy"),
    [
        ("SELECT 1 AS a -- WHERE kind = {{ String(kind) }}", "a comment", "{# … #}"),
        ("SELECT 1 AS a /* {{ String(kind) }} */", "a comment", "{# … #}"),
        ("SELECT count() FROM ported WHERE kind LIKE '%{{ String(kind) }}%'", "quotes", "concat"),
        ("SELECT {{ String(a) }}, '{{ String(kind) }}' -- {{ String(b) }}", "quotes", "concat"),
    ],
)
def test_values_in_comments_and_quotes_have_their_own_hints(inbox: Server, sql: str, where: str, remedy: str) -> None:
    [(code, message, hint)] = problems(inbox, sql)
    assert code == "RK2005"
    assert where in message
    assert remedy in hint


@pytest.mark.parametrize(
    ("sql", "code", "remedy"),
    [
        ("SELECT sum(units) AS units FROM ported WHERE units > 1", "RK2007", "qualify the column"),
        (
            "SELECT avg(units) AS mean, sum(units) AS units, max(units) AS top FROM ported",
            "RK2007",
            "qualify the column",
        ),
        ("SELECT count() AS n FROM ported WHERE sum(units) > 1", "RK2007", ""),
        ("SELECT user FROM (SELECT user FROM ported)", "RK2003", "AS e"),
        ("SELECT {% if defined('kind') %}1{% else %}2{% end %} AS a", "RK2005", "defined(x)"),
    ],
)
def test_common_mistakes_have_hints(inbox: Server, sql: str, code: str, remedy: str) -> None:
    [(found, _, hint)] = problems(inbox, sql)
    assert found == code
    assert remedy in hint
    assert bool(remedy) == bool(hint)


def test_queries_corrected_as_the_hints_say(inbox: Server) -> None:
    assert problems(inbox, "SELECT sum(p.units) AS units FROM ported AS p WHERE p.units > 1") == []
    assert problems(inbox, "SELECT e.user FROM (SELECT user FROM ported) AS e") == []
    assert problems(inbox, "SELECT {% if defined(kind) %}1{% else %}2{% end %} AS a") == []


def test_the_problems_of_all_files_are_reported_together(inbox: Server) -> None:
    files = [
        {"name": "select", "file": "endpoints/select.yaml", "text": "sql: SELECT 1 AS a\n"},
        {"name": "a.b", "file": "datasources/a.b.yaml", "text": ROWS},
        {"name": "typo", "file": "datasources/typo.yaml", "text": ROWS.replace("sorting_key", "sort")},
        {"name": "broken", "file": "endpoints/broken.yaml", "text": "sql: [\n"},
        {"name": "good", "file": "endpoints/good.yaml", "text": "sql: SELECT 1 AS a\n"},
    ]
    answer = inbox.admin("POST", "/v0/push", json={"files": files})
    assert answer.status_code == 400
    found = [(p["code"], p["place"].split(":")[0]) for p in answer.json()["errors"]]
    assert found == [
        ("RK1006", "endpoints/select.yaml"),
        ("RK1006", "datasources/a.b.yaml"),
        ("RK1003", "datasources/typo.yaml"),
        ("RK1001", "endpoints/broken.yaml"),
    ]
