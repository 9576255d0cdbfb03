"""Quarantine names exactly the value that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.ingest import quarantine
from engine.warehouse.port import Input
from tests.support.in_process import Rookery, open_rookery

ROWS = """columns:
  - {name: id, type: UInt32}
  - {name: name, type: String}
  - {name: n, type: Int64}
  - {name: f, type: Float64}
  - {name: at, type: DateTime('UTC')}
  - {name: list, type: Array(String)}
  - {name: a, type: String, json: $.m.a}
  - {name: b, type: Int32, json: $.m.b}
engine: {sorting_key: [id]}
"""
REST = '"name": "x", "n": 1, "f": 0.5, "at": "2026-01-02 10:00:00", "list": ["a"], "m": {"a": "y", "b": 2}'


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("reasons")) as opened:
        opened.push({"datasources/rows.yaml": ROWS})
        yield opened


def reasons_of(rookery: Rookery, body: str, format: Input) -> dict[str, str]:
    """What quarantine says of the first row; the other one must be stored."""
    outcome = rookery.gateway.append("rows", body.encode(), format).result(60)
    assert (outcome.rows, outcome.quarantined) == (1, 1)
    ((columns, reasons),) = rookery.rows("SELECT c__error_column, c__error FROM main.rows_quarantine")
    rookery.run("TRUNCATE TABLE main.rows_quarantine")
    return dict(zip(columns, reasons, strict=True))


EVENTS = [
        ('"n": 1', '"n": NaN', "n", "`NaN` is not JSON"),
        ('"n": 1', '"n": tru', "n", "`tru` is not JSON"),
        ('"n": 1', '"n": 1.5', "n", "`1.5` is not of type Int64"),
        ('"n": 1', '"n": 1, "N": 2', "n", "the key `n` is in the row 2 times"),
        ('"name": "x"', '"name": "a\\ud800b"', "name", '`"a\\ud800b"` has half of a surrogate pair, which is not a character'),
        ('"name": "x"', '"name": "x", "other": NaN', "", "the value of `other`: `NaN` is not JSON"),
        ('"name": "x"', '"name": "x", "other": {"k": tru}', "", 'the value of `other`: `{"k": tru}` is not JSON'),
        ('"name": "x"', '"name": "GET /\\x22"', "name", '`"GET /\\x22"` is not JSON'),
        ('"a": "y"', '"a": "\\e[0m"', "a", '`{"a": "\\e[0m", "b": 2}` is not JSON'),
        ('"list": ["a"]', '"list": ["a" "b"]', "list", '`["a" "b"]` is not JSON'),
        ('["a"]', '"a"', "list", '`"a"` is not of type Array(String)'),
        ('"a": "y"', '"a": "\\ud800"', "a", '`"\\ud800"` has half of a surrogate pair, which is not a character'),
        ('"b": 2', '"b": NaN', "b", "`NaN` is not JSON"),
        ('{"a": "y", "b": 2}', "[1]", "", "`m` cannot be read: `[1]` is not an object"),
]  # fmt: skip
RECORDS = [
    ('2,"a"b,3,0.5', "name", 'the field `"a"b` does not end with its closing quote'),
    ("2,a,x,0.5", "n", "`x` is not of type Int64"),
    ('2,"a,b",3,"0.5"x', "f", 'the field `"0.5"x` does not end with its closing quote'),
    ("2,a,3", "", "it has 3 fields, and the header 4"),
    ('"x"y,a,3,1', "id", 'the field `"x"y` does not end'),
]


def test_the_bad_value_of_an_event_is_named(rookery: Rookery) -> None:
    for old, new, column, reason in EVENTS:
        assert old in REST
        good = f'{{"id": 2, {REST}}}'
        reasons = reasons_of(rookery, f'{{"id": 1, {REST.replace(old, new, 1)}}}\n{good}', Input.NDJSON)
        assert [*reasons] == [column] and reasons[column].startswith(reason), (new, reasons)


def test_the_bad_field_of_a_record_is_named(rookery: Rookery) -> None:
    for row, column, reason in RECORDS:
        reasons = reasons_of(rookery, f"id,name,n,f\n{row}\n3,good,1,1\n", Input.CSV)
        assert [*reasons] == [column] and reasons[column].startswith(reason), (row, reasons)


DAYS = """columns:
  - {name: id, type: UInt32}
  - {name: text, type: String}
  - {name: day, type: Date, default: toDate(text)}
engine: {sorting_key: [id]}
"""


def test_a_default_that_throws_only_while_the_row_is_read(rookery: Rookery) -> None:
    """The engine takes the 45th of month 13 for 1970 in a query, and throws on it in an insert of rows."""
    rookery.push({"datasources/rows.yaml": ROWS, "datasources/days.yaml": DAYS})
    for format, body in (
        (Input.NDJSON, b'{"id": 1, "text": "2026-01-02"}\n{"id": 2, "text": "2026-13-45"}'),
        (Input.CSV, b"id,text\n1,2026-01-02\n2,2026-13-45\n"),
    ):
        outcome = rookery.gateway.append("days", body, format).result(60)
        assert (outcome.rows, outcome.quarantined) == (1, 1)
        ((columns, (reason,)),) = rookery.rows("SELECT c__error_column, c__error FROM main.days_quarantine")
        assert list(columns) == ["day"]
        assert reason.startswith("the default `toDate(text)` cannot be computed: ")
        rookery.run("TRUNCATE TABLE main.days_quarantine")


@pytest.mark.parametrize("lines", [1, 4000])
def test_a_backslash_is_never_dropped(rookery: Rookery, lines: int) -> None:
    """Servers log `\\x22` in what they call JSON: such a row is bad, and what JSON can say is stored as it was sent."""
    texts = (r"\\x22", r"\\\\e", r"\"\\\/\b\f\n\r\t\u0041", "it's", "a\tb")
    rookery.run("TRUNCATE TABLE main.rows")
    body = "\n".join(f'{{"id": {n}, "name": "{text}"}}' for n, text in enumerate(texts * lines))
    bad = r'{"id": 99999999, "name": "\\\x22"}'
    outcome = rookery.gateway.append("rows", f"{body}\n{bad}".encode(), Input.NDJSON).result(60)
    assert (outcome.rows, outcome.quarantined) == (len(texts) * lines, 1)
    rows = rookery.rows("SELECT groupUniqArray(name) FROM main.rows")
    assert sorted(rows[0][0]) == sorted([r"\x22", r"\\e", '"\\/\b\f\n\r\tA', "it's", "a\tb"])
    rookery.run("TRUNCATE TABLE main.rows_quarantine")


def test_removing_rows_makes_the_engine_look_for_mutations(rookery: Rookery) -> None:
    """After a merge it would look only after up to 30 seconds; while merges are stopped, never."""
    rookery.run("SYSTEM STOP MERGES main.rows_quarantine")
    rookery.gateway.append("rows", b'{"id": "x"}\n{"id": "y"}', Input.NDJSON).result(60)
    first, _ = (row["c__id"] for row in quarantine.listing(rookery.workspace, "rows", 2, 0)["rows"])
    with ThreadPoolExecutor() as pool:
        removed = pool.submit(quarantine.remove, rookery.workspace, "rows", [first])
        try:
            assert removed.result(10) == 1
        finally:
            rookery.run("SYSTEM START MERGES main.rows_quarantine")
    assert rookery.rows("SELECT count() FROM main.rows_quarantine") == [(1,)]
