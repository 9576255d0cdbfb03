"""Strict conversion of parameters."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BAD_PARAMETER, BAD_TYPE, RookeryError
from engine.template.date_times import parse_moment
from engine.template.parameters import coerce, parameter_type
from engine.tenant_ids import integer_bounds

INTEGERS = [f"{u}Int{bits}" for u in ("", "U") for bits in (8, 16, 32, 64, 128, 256)]
TYPES = [*INTEGERS, "String", "Int", "Integer", "Float32", "Float64", "Boolean", "Bool", "Date", "DateTime", "UUID"]
TYPES += ["DateTime64", "DateTime64(0)", "DateTime64(9)", "Decimal(10, 2)", "JSON", "Array(Int32)", "Array(String)"]
UUID = "0b0e7c5a-1111-4222-8333-0123456789ab"

GOOD: list[tuple[str, object, object]] = [
    ("String", "a'b\\ {p1:String} \0", "a'b\\ {p1:String} \0"),
    ("String", "", ""),
    ("String", 5, "5"),
    ("String", 1.5, "1.5"),
    ("String", True, "true"),
    ("Int8", "-128", -128),
    ("Int32", 7, 7),
    ("UInt256", str(2**256 - 1), 2**256 - 1),
    ("Int", "007", 7),
    ("Integer", "-0", 0),
    ("Float64", "1e-3", 0.001),
    ("Float64", "0e5", 0.0),
    ("Float32", 1, 1.0),
    ("Float64", "inf", math.inf),
    ("Float64", "-inf", -math.inf),
    ("Boolean", "false", False),
    ("Bool", "1", True),
    ("Bool", "True", True),
    ("Bool", 0, False),
    ("Date", "2024-02-29", "2024-02-29"),
    ("Date", "2149-06-06", "2149-06-06"),
    *[("Date", raw, "2024-02-29") for raw in ("2024-2-29", "2024/02/29", "20240229", "2024-02-29T23:59:59.9Z")],
    *[("DateTime", raw, "2024-02-29 10:30:00") for raw in ("2024-02-29T10:30:00.000Z", "2024-02-29t10:30:00z")],
    *[("DateTime", raw, "2024-02-29 10:30:00") for raw in ("2024-02-29 16:15:00+05:45", "2024-02-29T10:30:00-00")],
    *[
        ("DateTime", raw, "2024-02-29 10:30:00")
        for raw in ("2024-2-29 10:30", "1709202600", 1709202600, 1709202600.5)
    ],
    *[("DateTime", raw, "2024-02-29 10:30:00") for raw in ("1709202600000", 1709202600999, "1709202600000000")],
    ("DateTime", "2024-02-29", "2024-02-29 00:00:00"),
    ("DateTime", 0, "1970-01-01 00:00:00"),
    ("DateTime64(3)", "2020-01-01 00:00:00.1239", "2020-01-01 00:00:00.123"),
    ("DateTime64(6)", "1577836800123456", "2020-01-01 00:00:00.123456"),
    ("DateTime64(9)", "1577836800123456789", "2020-01-01 00:00:00.123456789"),
    ("DateTime64(3)", 1577836800123, "2020-01-01 00:00:00.123"),
    ("DateTime64(3)", "-0.25", "1969-12-31 23:59:59.750"),
    ("DateTime64(3)", -765394199.5, "1945-09-30 06:30:00.500"),
    ("DateTime", "2024-02-29T23:59:59Z", "2024-02-29 23:59:59"),
    ("DateTime", "2106-02-07 06:28:15", "2106-02-07 06:28:15"),
    ("DateTime64(3)", "1900-01-01 00:00:00.5", "1900-01-01 00:00:00.500"),
    ("DateTime64(9)", "2020-01-01 00:00:00.123456789", "2020-01-01 00:00:00.123456789"),
    ("DateTime64(0)", "2020-01-01 00:00:00", "2020-01-01 00:00:00"),
    ("DateTime64", "2020-01-01 00:00:00", "2020-01-01 00:00:00.000000"),
    ("UUID", UUID.upper(), UUID),
    ("Decimal(10, 2)", "12345678.90", Decimal("12345678.90")),
    ("Decimal(10,2)", 3, Decimal("3.00")),
    ("Decimal(3, 3)", "-0.125", Decimal("-0.125")),
    ("Array(Int32)", "1,2", [1, 2]),
    ("Array(Int32)", [1, "2"], [1, 2]),
    ("Array(Int32)", [], []),
    ("Array(String)", "", [""]),
    ("Array(String)", "a, b", ["a", " b"]),
    ("Array(Array(Int8))", [[1], []], [[1], []]),
    ("JSON", '{"a": [1, null]}', '{"a":[1,null]}'),
    ("JSON", {"a": "é"}, '{"a":"é"}'),
]


def _bounds(type: str) -> tuple[int, int]:
    bounds = integer_bounds(type)
    assert bounds is not None
    return bounds


BAD: list[tuple[str, object]] = [
    *[(t, raw) for t in ("Int32", "UInt8", "Int256") for raw in ("", " 1", "1 ", "+1", "1.0", "1_000", "0x1", "1e3")],
    *[
        ("Int64", raw)
        for raw in ("١", "１", "--1", "1\n", "9" * 5000, 10**5000, True, None, 1.0, [1], {"a": 1}, b"1")
    ],
    *[(t, str(_bounds(t)[1] + 1)) for t in INTEGERS],
    *[(t, _bounds(t)[0] - 1) for t in INTEGERS],
    *[("Float64", raw) for raw in ("", "NaN", "Infinity", "1e400", "1e99999", "1e-400", "1_0", " 1", "0x1p3", "١")],
    *[("Float64", raw) for raw in (True, None, 10**400, "1" * 2000, "+1", ".", "e5", "1e")],
    ("Float32", "3.5e38"),
    *[("Bool", raw) for raw in ("yes", "", "2", 2, 1.0, None, 10**5000, "ｔrue")],
    *[("Date", raw) for raw in ("2023-02-29", "1969-12-31", "2149-06-07", "2020-13-1", "2020010", "2020-01-01 ", 5)],
    *[("Date", raw) for raw in ("2020-01-01\n", "٢٠٢٠-01-01", "2020-W01-1")],
    *[
        ("DateTime", raw)
        for raw in ("2020-01-01 ", "2020-01-01 24:00:00", "2020-01-01 00:60:00", "2020-01-01 00:00:60")
    ],
    *[("DateTime", raw) for raw in ("2106-02-07 06:28:16", "2020-01-01 00:00:00.", "2020-01-01  0:00:00")],
    *[
        ("DateTime", raw)
        for raw in ("2020-01-01 00:00:00+15", "2020-01-01 00:00:00 01:00", "20200101", "12345678901", -1, True)
    ],
    ("DateTime64(3)", "2300-01-01 00:00:00"),
    ("DateTime64(9)", "2262-04-12 00:00:00"),
    *[("UUID", raw) for raw in (UUID[:-1], "{" + UUID + "}", UUID.replace("-", ""), "", 5)],
    *[("Decimal(10, 2)", raw) for raw in ("123456789", "1.005", "1e2", ".5", "5.", "NaN", True, 1e300, 10**5000)],
    *[("Array(Int32)", raw) for raw in ("", "1,", "1, 2", "1,x", [1, True], [None], {"a": 1}, 5, None)],
    ("Array(Array(Int8))", "1,2"),
    ("Array(Int8)", [0] * 100_001),
    *[("JSON", raw) for raw in ("", "{", "NaN", "[Infinity]", '"\\ud800"', "[" * 100_000, {"a": b"x"}, "1" * 5000)],
    *[("String", raw) for raw in ("\ud800", None, ["a"], {"a": 1}, b"a", 10**5000)],
]


@pytest.mark.parametrize(("type", "raw", "value"), GOOD)
def test_valid_values_are_converted(type: str, raw: object, value: object) -> None:
    converted = coerce("x", type, raw)
    assert converted == value
    assert converted.__class__ is value.__class__


def test_nan_is_accepted() -> None:
    assert str(coerce("x", "Float64", "nan")) == "nan"


def _id(value: object) -> str:
    return "long" if isinstance(value, int) and value.bit_length() > 99 else ascii(value)[:25]


@pytest.mark.parametrize(("type", "raw"), BAD, ids=_id)
def test_invalid_values_are_refused(type: str, raw: object) -> None:
    with pytest.raises(RookeryError) as caught:
        coerce("x", type, raw)
    assert caught.value.code is BAD_PARAMETER
    assert caught.value.message.startswith(f"parameter `x` must be {parameter_type(type).type}, got ")
    assert len(caught.value.message) < 250


def test_message_names_parameter_type_and_value() -> None:
    with pytest.raises(RookeryError) as caught:
        coerce("x", "Int32", "abc")
    assert caught.value.message == 'parameter `x` must be Int32, got "abc"'


def test_message_shortens_and_escapes() -> None:
    with pytest.raises(RookeryError) as caught:
        coerce("x", "Int32", "\x1b[2J\n\u202e" + "z" * 5000)
    shown = caught.value.message.split("got ", 1)[1]
    assert shown.isprintable()
    assert shown.startswith('"\\x1b[2J\\n\\u202ezz')
    assert shown.endswith('z…"')
    assert len(shown) < 120


def test_message_names_the_bad_item() -> None:
    with pytest.raises(RookeryError) as caught:
        coerce("x", "Array(Int8)", "1,300")
    assert caught.value.hint == 'item 2, "300", is not Int8: Int8 holds -128 to 127'


@pytest.mark.parametrize("type", ["", "int32", "Nullable(String)", "Int7", "Array()", "Array(", "Decimal(77, 0)"])
def test_unknown_types_are_refused(type: str) -> None:
    with pytest.raises(RookeryError) as caught:
        coerce("x", type, "1")
    assert caught.value.code is BAD_TYPE


@pytest.mark.parametrize(
    "type", ["Decimal(2, 3)", "DateTime64(10)", "Array(" * 9 + "Int8" + ")" * 9, "Enum8('a' = 1)"]
)
def test_impossible_types_are_refused(type: str) -> None:
    with pytest.raises(RookeryError) as caught:
        parameter_type(type)
    assert caught.value.code is BAD_TYPE


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda s: st.lists(s, max_size=3),
)


@given(st.sampled_from(TYPES), st.text(st.characters()) | _JSON)
def test_any_input_gives_a_value_or_a_rookery_error(type: str, raw: Any) -> None:
    try:
        value = coerce("x", type, raw)
    except RookeryError as exc:
        assert exc.code is BAD_PARAMETER
    else:
        assert value is not None


@given(st.sampled_from(INTEGERS), st.integers(-(2**257), 2**257))
def test_integers_never_wrap(type: str, number: int) -> None:
    bounds = _bounds(type)
    for raw in (number, str(number)):
        if bounds[0] <= number <= bounds[1]:
            assert coerce("x", type, raw) == number
        else:
            with pytest.raises(RookeryError):
                coerce("x", type, raw)


@pytest.mark.parametrize("type", TYPES)
def test_dry_run_value_is_valid(type: str) -> None:
    assert parameter_type(type).check(parameter_type(type).sample) is not None


def test_values_survive_the_engine(tmp_path: Path) -> None:
    """Each accepted value, bound as its type, is in the engine what was sent."""
    values = [(parameter_type(t).bind, coerce("x", t, raw)) for t, raw, _ in GOOD]
    script = """
        import json, sys
        from decimal import Decimal
        import clickhouse_connect
        client = clickhouse_connect.get_client(interface="chdb", path=sys.argv[1])
        for type, value in json.load(sys.stdin):
            if type.startswith(("Decimal", "Float")):
                value = (Decimal if type.startswith("Decimal") else float)(value)
            text = client.query("SELECT toString({p1:%s})" % type, parameters={"p1": value}).result_rows[0][0]
            print(json.dumps(text))
        found = client.query(
            "SELECT count() FROM numbers(5) WHERE number IN ({p1:Array(Int32)}) AND number NOT IN {p2:Array(Int32)}",
            parameters={"p1": [1, 3, 9], "p2": []},
        )
        print(found.result_rows[0][0])
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    sent = json.dumps(values, default=str)
    done = subprocess.run(command, input=sent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *lines, matched = done.stdout.splitlines()
    assert matched == "2"
    for (type, value), line in zip(values, lines, strict=True):
        assert _same(type, value, json.loads(line)), (type, value, line)


def _same(type: str, value: Any, text: str) -> bool:
    if type.startswith(("Decimal", "Float")):
        return bool(value.__class__(text) == value)
    if type == "Bool":
        return text == json.dumps(value)
    if type.startswith("Array"):
        return text.replace("'", '"').replace(" ", "") == json.dumps(value).replace(" ", "")
    return text == str(value)


@pytest.mark.feature
@pytest.mark.parametrize("type", ["DateTime64(0)", "DateTime64(3)", "DateTime64(9)", "DateTime"])
def test_a_date_time_keeps_its_meaning_when_it_is_read_again(type: str) -> None:
    """Also around the hours that clocks repeat, before and after 1970."""
    for zone in ("UTC", "America/New_York", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe"):
        for day in (-100115100, -765396000, 1730608200, 1711846800, 1729954800, 1743865200):
            if day < 0 and type == "DateTime":
                continue
            for seconds in range(day, day + 6 * 3600, 900):
                text = coerce("x", type, f"{seconds}.75" if seconds >= 0 else f"{seconds + 1}.25", zone)
                assert coerce("x", type, text, zone) == text
                assert str(text)[:1] in "12-" and seconds == parse_moment(text, zone).at.timestamp()
