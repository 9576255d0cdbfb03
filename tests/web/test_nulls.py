"""How files say that there is no value, and the hint for a row with another spelling of it."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from tests.support.server import Server
from tests.support.soak import sampled

TYPES = {
    "n": "Int64",
    "m": "Nullable(Int64)",
    "d": "Date",
    "t": "Nullable(DateTime)",
    "u": "UUID",
    "s": "Nullable(String)",
    "l": "Array(Int8)",
}
SHEET = (
    "columns:\n"
    + "".join(f'  - {{name: {n}, type: "{t}"}}\n' for n, t in TYPES.items())
    + "engine: {sorting_key: [n]}\n"
)


@pytest.fixture(scope="module")
def server(inbox: Server) -> Server:
    inbox.push({"datasources/sheet.yaml": SHEET})
    return inbox


def send(server: Server, body: str, format: str = "csv") -> Any:
    given = {"mode": "replace" if format == "csv" else "append", "name": "sheet", "format": format}
    return server.admin_json("POST", "/v0/datasources", params=given, content=body)


@pytest.mark.parametrize("cell", ["", "\\N"])
def test_fields_without_a_value(server: Server, cell: str) -> None:
    answer = send(server, f"{','.join(TYPES)}\n{','.join([cell] * len(TYPES))}\n")
    assert (answer["rows"], answer["quarantine_rows"]) == (1, 0)
    assert server.sql("SELECT * FROM sheet") == [
        {"n": 0, "m": None, "d": "1970-01-01", "t": None, "u": "0" * 8 + "-0000" * 3 + "-" + "0" * 12,
         "s": None, "l": []}
    ]  # fmt: skip


CHECKED = ["n", "m", "d", "t", "u", "l"]


# A step that has no factor in common with the number of columns, so that all columns and all cells remain.
@pytest.mark.parametrize(
    ("cell", "column"), sampled(product(["NULL", "null", '"\\N"', "None", "NaN", "N/A", "nan"], CHECKED), 5)
)
def test_other_spellings_are_explained(server: Server, column: str, cell: str) -> None:
    given = {"mode": "append", "name": "sheet", "format": "csv"}
    answer = server.admin_json("POST", "/v0/datasources", params=given, content=f"s,{column}\nx,{cell}\n")
    assert (answer["rows"], answer["quarantine_rows"]) == (0, 1)
    bad = answer["first_bad_row"]
    assert bad["columns"] == [column]
    assert "empty field" in bad["reason"], bad


@pytest.mark.parametrize(("cell", "column", "others"), sampled(product(['""', ' "" ', '" "'], CHECKED, ["", "1"]), 5))
def test_an_empty_text_is_not_a_value_of_other_types(server: Server, cell: str, column: str, others: str) -> None:
    given = {"mode": "append", "name": "sheet", "format": "csv"}
    other = "m" if column == "n" else "n"
    for body in (f"s,{column},{other}\nx,{cell},{others}\n", f"{column},{other},s\n{cell},{others},x"):
        answer = server.admin_json("POST", "/v0/datasources", params=given, content=body)
        assert (answer["rows"], answer["quarantine_rows"]) == (0, 1)
        assert answer["first_bad_row"]["columns"] == [column]


def test_integers_beside_empty_texts(server: Server) -> None:
    body = 's,n,m\n"",7,\n"",,-8\n"","9",\\N\n'
    assert send(server, body)["quarantine_rows"] == 0
    stored = server.sql("SELECT s, n, m FROM sheet ORDER BY n")
    assert [(r["s"], r["n"], r["m"]) for r in stored] == [("", 0, -8), ("", 7, None), ("", 9, None)]


@pytest.mark.guard
def test_other_bad_values_are_not(server: Server) -> None:
    for cell in ("nullable", "12a", "None of these"):
        given = {"mode": "append", "name": "sheet", "format": "csv"}
        bad = server.admin_json("POST", "/v0/datasources", params=given, content=f"n\n{cell}\n")["first_bad_row"]
        assert "empty field" not in bad["reason"], bad


@pytest.mark.parametrize("text", ["null", "NaN", "None"])
def test_events_are_explained_too(server: Server, text: str) -> None:
    bad = send(server, f'{{"n": "{text}"}}', "ndjson")["first_bad_row"]
    assert bad["columns"] == ["n"]
    assert "without quotes" in bad["reason"], bad


def test_texts_are_kept(server: Server) -> None:
    assert send(server, 'n,s\n1,NULL\n2,"\\N"\n3,None\n')["rows"] == 3
    assert [r["s"] for r in server.sql("SELECT s FROM sheet ORDER BY n")] == ["NULL", "\\N", "None"]
