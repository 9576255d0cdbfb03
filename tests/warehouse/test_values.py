"""Every bound value reaches the database unchanged, through both adapters and every kind of call."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import errors
from engine.warehouse.errors import EngineError
from engine.warehouse.port import Format, Statement, Value, Warehouse

patient = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
# Characters with a meaning in SQL, in escaped parameters, in Python's % or in HTTP.
AWKWARD = ["\\", "'", '"', "`", "\0", "\t", "\n", "\r", "\\N", "\\n", "NULL", "%s", "%(p)s", "%", "{p:String}"]
AWKWARD += [
    "🦉",
    "é",
    "\u2028",
    "[",
    "]",
    ",",
    "','",
    "$$",
    "$a$",
    "--",
    "/*",
    "*/",
    ";",
    "&",
    "=",
    "+",
    "%41",
    " ",
    "",
]
plain = st.characters(exclude_categories=["Cs"])
texts = st.lists(st.sampled_from(AWKWARD) | st.text(plain, max_size=4), max_size=6).map("".join)


def back(warehouse: Warehouse, kind: str, value: Value) -> Any:
    """The value after a round trip by a query, which must agree with one by a stream."""
    result = warehouse.query(f"SELECT {{p:{kind}}} AS p, toTypeName(p) AS t", {"p": value, "unused": 1})
    statement = Statement(f"SELECT {{p:{kind}}} = {{q:{kind}}} AS same", {"p": value, "q": value})
    (line,) = b"".join(warehouse.stream(statement, Format.NDJSON)).splitlines()
    same = orjson.loads(line)["same"]
    assert same or value is None or value != value
    return result.rows[0][0]


@patient
@given(text=texts)
@pytest.mark.proves("A3")
def test_text(warehouse: Warehouse, text: str) -> None:
    assert back(warehouse, "String", text) == text
    assert back(warehouse, "Nullable(String)", text) == text
    assert back(warehouse, "LowCardinality(String)", text) == text


@patient
@given(items=st.lists(texts, max_size=4))
@pytest.mark.proves("A3")
def test_lists_of_text(warehouse: Warehouse, items: list[Value]) -> None:
    assert list(back(warehouse, "Array(String)", items)) == items
    assert [list(x) for x in back(warehouse, "Array(Array(String))", [items, []])] == [items, []]


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("size", [1, 100_000])
def test_text_in_streams_of_every_size(warehouse: Warehouse, format: Format, size: int) -> None:
    """Over HTTP a long text is sent as a form instead of in the URL."""
    text = "".join(AWKWARD) * (1 + size // 100)
    sql = "SELECT hex({p:String}) AS h, {list:Array(String)}[2] = {p:String} AS same, number FROM numbers({n:UInt64})"
    statement = Statement(sql, {"p": text, "list": ["", text], "n": 30_000 if size == 1 else 2})
    document = b"".join(warehouse.stream(statement, format))
    if format is not Format.PARQUET:
        assert text.encode().hex().upper().encode() in document
        assert b'"same":0' not in document.replace(b" ", b"")


@patient
@given(number=st.integers(-(2**255), 2**255 - 1))
def test_big_numbers(warehouse: Warehouse, number: int) -> None:
    assert back(warehouse, "Int256", number) == number
    assert back(warehouse, "Array(Nullable(Int256))", [number, None]) == [number, None]


@patient
@given(number=st.floats(allow_nan=False))
def test_floats(warehouse: Warehouse, number: float) -> None:
    assert back(warehouse, "Float64", number) == number


@patient
@given(number=st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=9))
def test_decimals(warehouse: Warehouse, number: Decimal) -> None:
    assert back(warehouse, "Decimal(38, 9)", number) == number


@patient
@given(moment=st.datetimes(datetime(1971, 1, 2), datetime(2100, 1, 1)))
def test_date_times(warehouse: Warehouse, moment: datetime) -> None:
    assert back(warehouse, "DateTime64(6)", moment) == moment
    assert back(warehouse, "DateTime", moment) == moment.replace(microsecond=0)
    aware = moment.replace(tzinfo=UTC)
    assert back(warehouse, "DateTime64(6, 'Asia/Tokyo')", aware) == aware
    assert back(warehouse, "Date32", moment.date()) == moment.date()


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("Nullable(String)", None, None),
        ("Nullable(Int32)", None, None),
        ("Nullable(DateTime)", None, None),
        ("Array(Nullable(String))", [None, "NULL", "\\N"], [None, "NULL", "\\N"]),
        ("Bool", True, True),
        ("Array(Bool)", [True, False], [True, False]),
        ("UInt8", True, 1),
        ("Date", date(2024, 2, 29), date(2024, 2, 29)),
        ("Array(Date)", [date(2024, 2, 29)], [date(2024, 2, 29)]),
        ("Decimal(76, 0)", Decimal("1E+40"), Decimal(10**40)),
        ("Array(Decimal(9, 2))", [Decimal("1.50")], [Decimal("1.50")]),
        ("Array(Decimal(76, 30))", [Decimal("1E-30"), Decimal("1E+40")], [Decimal("1E-30"), Decimal("1E+40")]),
        ("Float64", math.inf, math.inf),
    ],
)
def test_values_of_other_types(warehouse: Warehouse, kind: str, value: Value, expected: Any) -> None:
    assert back(warehouse, kind, value) == expected


def test_nan_is_bound(warehouse: Warehouse) -> None:
    assert math.isnan(back(warehouse, "Float64", math.nan))


def test_text_without_placeholders_is_not_formatted(warehouse: Warehouse) -> None:
    statement = Statement("SELECT 'a%sb%(p)s%' LIKE '%s%' AS x", {"p": "unused"})
    assert b"".join(warehouse.stream(statement, Format.NDJSON)) == b'{"x":1}\n'
    assert warehouse.query("SELECT '100%' AS x", {"p": 1}).rows == [("100%",)]


@pytest.mark.parametrize("name", ["$z$", "a b", "p}", "", "1"])
def test_binding_names_are_plain_identifiers(warehouse: Warehouse, name: str) -> None:
    with pytest.raises(EngineError) as caught:
        warehouse.query("SELECT $z$ AS x", {name: "1"})
    assert caught.value.code is errors.BAD_PARAMETER
