"""A value is stored as it was sent, or not at all: nothing wraps, is clamped, rolls over or is cut off, in any type."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.warehouse.port import Input
from tests.fanout.house import House, house

CASES: dict[str, dict[str, str | None]] = {
    "Date": {
        '"2026-02-28"': "2026-02-28",
        '"20260228"': "2026-02-28",
        '"2026-2-3"': "2026-02-03",
        '"2149-06-06"': "2149-06-06",
        "null": "1970-01-01",
        **dict.fromkeys(['"2026-02-31"', '"2026-02-29"', '"2026-13-01"', '"2150-01-01"', '"1969-12-31"', '""']),
        **dict.fromkeys(["20000", "70000", "1763700000000", '"2026-02-28 10:00:00"']),
    },
    "Date32": {'"1900-01-01"': "1900-01-01", '"2299-12-31"': "2299-12-31", '"2026-04-31"': None, "-5": None},
    "Nullable(Date)": {'"2026-02-03"': "2026-02-03", "null": "NULL", '"2026-02-31"': None},
    "DateTime('UTC')": {
        "0": "1970-01-01 00:00:00",
        "1234567": "1970-01-15 06:56:07",
        "999999999": "2001-09-09 01:46:39",
        "1763700000": "2025-11-21 04:40:00",
        "1763700000123": "2025-11-21 04:40:00",
        '"2026-11-21T10:00:00Z"': "2026-11-21 10:00:00",
        '"2026-11-21T10:00:00.75+02:00"': "2026-11-21 08:00:00",
        '"2026-11-21 10:00"': "2026-11-21 10:00:00",
        '"2026-11-21"': "2026-11-21 00:00:00",
        '"2106-02-07 06:28:15"': "2106-02-07 06:28:15",
        **dict.fromkeys(
            ['"2026-02-31 10:00:00"', '"2107-01-01 00:00:00"', "-5", "12345678", '"2026-00-10 00:00:00"']
        ),
        **dict.fromkeys(
            ['"2026-01-01 25:00:00"', '"2026-01-01T12:60:00Z"', '"2026-01-01T12:00:75Z"', '"10:00"', '""']
        ),
        **dict.fromkeys(
            ['"01/02/2026"', '"26-01-02"', '"12.31"', '"2026-01-01T10:00:00+99:00"', '"0000-00-00 00:00:00"']
        ),
    },
    "DateTime64(3, 'UTC')": {
        "1763700000": "2025-11-21 04:40:00.000",
        "1763700000.123": "2025-11-21 04:40:00.123",
        "1763700000123": "2025-11-21 04:40:00.123",
        '"1763700000123"': "2025-11-21 04:40:00.123",
        '"2026-11-21T10:00:00.123Z"': "2026-11-21 10:00:00.123",
        '"9999-12-31 23:59:59"': "9999-12-31 23:59:59.000",
        **dict.fromkeys(["253402300800", "-99999999999", '"2026-02-31 10:00:00"', '"2026-01-01 10:61:00"']),
    },
    "DateTime64(9, 'UTC')": {
        '"2026-11-21T10:00:00.123456789Z"': "2026-11-21 10:00:00.123456789",
        "1763700000000": "2025-11-21 04:40:00.000000000",
        '"2270-01-01 00:00:00"': None,
    },
    "Nullable(DateTime64(3, 'UTC'))": {"null": "NULL", "1763700000": "2025-11-21 04:40:00.000", '"10:00"': None},
    "UUID": {
        '"61f0c404-5cb3-11e7-907b-a6006ad3dba0"': "61f0c404-5cb3-11e7-907b-a6006ad3dba0",
        **dict.fromkeys(['"x"', '""', '"61f0c404-5cb3-11e7-907b-a6006ad3dbzz"']),
    },
    "Enum8('a' = 1, 'it''s' = 2)": {
        '"a"': "a",
        '"it\'s"': "it's",
        "2": "it's",
        "null": "a",
        **dict.fromkeys(['"c"', "257", "-255", '""']),
    },
    "Nullable(Enum8('a' = 1))": {"null": "NULL", '"a"': "a", "257": None},
    "Float32": {"1.5": "1.5", "3.4028235e38": "3.4028235e38", "1e39": None, "-1e39": None, "1e400": None},
    "Float64": {"1e308": "1e308", "-0.5": "-0.5", "1e400": None},
    "Nullable(Float64)": {"null": "NULL", "0.5": "0.5", "1e400": None},
    "Decimal(9, 2)": {
        "19.99": "19.99",
        "19.990000000000002": "19.99",
        "1.239": "1.24",
        '"1.235"': "1.24",
        "-1.235": "-1.24",
        "1e-5": "0",
        "9999999.99": "9999999.99",
        **dict.fromkeys(["9999999.995", "12345678.9", "1e10"]),
    },
    "Decimal(76, 2)": {'"1.25"': "1.25"},
    "Decimal(38, 10)": {'"12345678901234567890.12345678905"': "12345678901234567890.1234567891"},
    "Nullable(Decimal(9, 2))": {"null": "NULL", "0.285": "0.29"},
    "UInt8": {"255": "255", "256": None, "-1": None, '""': None, '"7"': "7"},
    "UInt256": {str(2**256 - 1): str(2**256 - 1), str(2**256): None},
    "INT": {"2147483647": "2147483647", "2147483648": None},
    "Array(Date)": {
        '["2026-02-28", "2026-03-01"]': "['2026-02-28','2026-03-01']",
        "[]": "[]",
        '["2026-02-31"]': None,
    },
    "Array(Nullable(Int8))": {"[30, null]": "[30,NULL]", "[300, null]": None},
    "Array(Array(UInt8))": {"[[3], [4, 5]]": "[[3],[4,5]]", "[[3], [300]]": None},
    "Array(Float32)": {"[1.5]": "[1.5]", "[1e39]": None},
    "Array(Decimal(9, 2))": {"[0.29, 1.239]": "[0.29,1.24]"},
    "Array(DateTime64(3, 'UTC'))": {
        '["2026-11-21 10:00:00", 1763700000]': "['2026-11-21 10:00:00.000','2025-11-21 04:40:00.000']",
        '["10:00"]': None,
    },
    "Array(Nullable(DateTime64(3, 'UTC')))": {'["2026-11-21 10:00:00", null]': "['2026-11-21 10:00:00.000',NULL]"},
    "Array(UInt8)": {"[1, 2]": "[1,2]", "[]": "[]", "[1, null]": None},
    "Array(String)": {'["a", ""]': "['a','']", '["a", null]': None},
    "Array(Enum8('a' = 1))": {'["a"]': "['a']", "[null]": None, '["b"]': None},
    "String": {'"x"': "x", "5.10": "5.10", '{"a": [1]}': '{"a": [1]}'},
    "JSON": {'{"day": "2026-02-31", "n": 300}': '{"day":"2026-02-31","n":300}'},
}
WHOLE: dict[str, dict[str, str | None]] = {
    "Map(String, UInt8)": {'{"a": 3}': "{'a':3}", '{"a": 300}': None, '{"a": null}': None},
    "Map(String, Date)": {'{"a": "2026-02-28"}': "{'a':'2026-02-28'}", '{"a": "2026-02-31"}': None},
    "Map(UInt8, String)": {'{"3": "x"}': "{3:'x'}", '{"300": "x"}': None},
    "Map(String, Array(UInt8))": {'{"a": [1, 30]}': "{'a':[1,30]}", '{"a": [1, 300]}': None},
    "Tuple(a UInt8, b String)": {'{"a": 30, "b": "x"}': "(30,'x')", '{"a": 300, "b": "x"}': None},
    "Tuple(a Date, b Decimal(9, 2))": {
        '{"a": "2026-02-28", "b": 1.239}': "('2026-02-28',1.24)",
        '{"a": "2026-02-31", "b": 1}': None,
    },
    "Tuple(TINYINT, Array(Tuple(a Nullable(Date), b Int8)))": {
        '[3, [{"a": null, "b": 4}, {"a": "2026-02-28", "b": 4}]]': "(3,[(NULL,4),('2026-02-28',4)])",
        '[3, [{"a": "2026-02-31", "b": 4}]]': None,
        '[3, [{"a": "2026-02-28", "b": 400}]]': None,
    },
}
DEEPER: dict[tuple[str, str], str | None] = {
    # The engine writes objects and texts of numbers anew when it takes them out of an object.
    ("String", "5.10"): "5.1",
    ("String", '{"a": [1]}'): '{"a":[1]}',
    # A float holds no more of it, and a text can.
    ("UInt256", str(2**256 - 1)): str(2**256 - 1),
}
"""What is told otherwise of a value that stands deeper in an event."""


@dataclass
class Sent:
    """Values on their way into the columns of a datasource, a row each, and what is to become of them."""

    rows: list[tuple[str, str, str | None]] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)

    def take(self, cases: dict[str, dict[str, str | None]]) -> Sent:
        for kind, values in cases.items():
            self.columns[kind] = f"c{len(self.columns)}"
            self.rows += [(kind, text, stored) for text, stored in values.items()]
        return self

    def datasource(self, path: str) -> str:
        columns = "".join(
            f'  - {{name: {name}, type: "{kind}"{path.format(name) and f", json: {path.format(name)}"}}}\n'
            for kind, name in self.columns.items()
        )
        return f"columns:\n  - {{name: id, type: UInt32}}\n{columns}engine: {{sorting_key: [id]}}\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("values")) as made:
        made.push(
            {
                "datasources/plain.yaml": Sent().take(CASES).take(WHOLE).datasource(""),
                "datasources/deeper.yaml": Sent().take(CASES).datasource("$.m.{}"),
            }
        )
        yield made


def _became(home: House, datasource: str, sent: Sent, start: int) -> dict[tuple[str, str], str | None]:
    """What is stored of each value; None for those in quarantine, whose column must be the one to blame."""
    bad = {
        int(row): list(columns)
        for row, columns in home.rows(f"SELECT c__row, c__error_column FROM main.{datasource}_quarantine")
    }
    home.run(f"TRUNCATE TABLE main.{datasource}_quarantine")
    found: dict[tuple[str, str], str | None] = {}
    for number, (kind, text, _) in enumerate(sent.rows):
        column = sent.columns[kind]
        stored = home.rows(
            f"SELECT ifNull(toString({column}), 'NULL') FROM main.{datasource} WHERE id = {start + number}"
        )
        assert len(stored) + (number in bad) == 1, (kind, text)
        assert stored or bad[number] == [column], (kind, text)
        found[kind, text] = str(stored[0][0]) if stored else None
    return found


def _append(home: House, datasource: str, body: bytes, format: Input) -> int:
    outcome = home.gateway.append(datasource, body, format).result(60)
    return outcome.rows


@pytest.mark.parametrize("together", [True, False])
def test_values_of_events(home: House, together: bool) -> None:
    """Bad ones among them, and the good ones by themselves, which nothing is searched for."""
    sent = Sent().take(CASES).take(WHOLE)
    if not together:
        sent.rows = [r for r in sent.rows if r[2] is not None]
    start = 0 if together else 10_000
    lines = [f'{{"id": {start + n}, "{sent.columns[k]}": {text}}}' for n, (k, text, _) in enumerate(sent.rows)]
    assert _append(home, "plain", "\n".join(lines).encode(), Input.NDJSON) == sum(r[2] is not None for r in sent.rows)
    assert _became(home, "plain", sent, start) == {(k, t): s for k, t, s in sent.rows}


def test_values_deeper_in_events(home: House) -> None:
    sent = Sent().take(CASES)
    # A number that no float holds spoils the object that it stands in, which all of these share.
    sent.rows = [(k, t, DEEPER.get((k, t), s)) for k, t, s in sent.rows if t != "1e400"]
    lines = [f'{{"id": {n}, "m": {{"{sent.columns[k]}": {text}}}}}' for n, (k, text, _) in enumerate(sent.rows)]
    _append(home, "deeper", "\n".join(lines).encode(), Input.NDJSON)
    assert _became(home, "deeper", sent, 0) == {(k, t): s for k, t, s in sent.rows}


def test_values_three_keys_deep(home: House) -> None:
    kinds = {"s": "String", "l": "LowCardinality(String)", "q": "Nullable(String)", "j": "JSON", "n": "Int32"}
    defaults = {"s": "'none'", "l": "'none'", "n": "7"}
    columns: list[dict[str, str]] = [{"name": "id", "type": "UInt32"}]
    for name, kind in kinds.items():
        default = {"default": defaults[name]} if name in defaults else {}
        columns.append({"name": name, "type": kind, "json": f"$.a.b.{name}", **default})
    home.push({"datasources/three.yaml": json.dumps({"columns": columns, "engine": {"sorting_key": ["id"]}})})
    there = {"s": "x", "l": "y", "q": "z", "j": {"k": 1}, "n": 5}
    body = "\n".join(json.dumps({"id": n, "a": {"b": v}}) for n, v in enumerate([there, {}, {"n": {"x": 1}}]))
    outcome = home.gateway.append("three", body.encode(), Input.NDJSON).result(60)
    assert (outcome.rows, outcome.quarantined) == (2, 1)
    assert home.rows("SELECT s, l, q, toString(j), n FROM main.three ORDER BY id") == [
        ("x", "y", "z", '{"k":1}', 5),
        ("none", "none", None, "{}", 7),
    ]


def test_defaults_see_other_columns_as_they_are_stored(home: House) -> None:
    columns = [
        "{name: id, type: UInt32}",
        "{name: day, type: Date, json: $.when}",
        "{name: at, type: DateTime64(3)}",
        "{name: price, type: 'Decimal(9, 2)'}",
        "{name: month, type: Date, default: toStartOfMonth(day)}",
        "{name: hour, type: UInt8, default: toHour(at)}",
        "{name: next, type: Date, default: day + INTERVAL 1 day}",
        "{name: mapped, type: Array(UInt8), default: 'arrayMap(day -> day + 1, [1])'}",
        "{name: shown, type: String, default: \"concat('day ', toString(`day`), ' ', toString(price))\"}",
    ]
    home.push({"datasources/defaults.yaml": f"columns: [{', '.join(columns)}]\nengine: {{sorting_key: [id]}}\n"})
    rows = [
        '{"id": 1, "when": "2026-02-17", "at": "2026-02-17T10:30:00Z", "price": 1.239}',
        '{"id": 2, "when": "2026-02-31"}',
    ]
    outcome = home.gateway.append("defaults", "\n".join(rows).encode(), Input.NDJSON).result(60)
    assert (outcome.rows, outcome.quarantined) == (1, 1)
    assert home.rows("SELECT toString(month), hour, toString(next), mapped, shown FROM main.defaults") == [
        ("2026-02-01", 10, "2026-02-18", [2], "day 2026-02-17 1.24")
    ]


def test_an_object_that_is_no_value_is_not_taken_for_an_absent_one(home: House) -> None:
    columns = Sent().take(CASES).columns
    takes = {columns["String"], columns["JSON"]}
    lines = [f'{{"id": {n}, "m": {{"{c}": {{"x": 1}}}}}}' for n, c in enumerate(columns.values(), 20_000)]
    assert _append(home, "deeper", "\n".join(lines).encode(), Input.NDJSON) == len(takes)
    bad = home.rows("SELECT c__error_column[1] FROM main.deeper_quarantine")
    assert {c for (c,) in bad} == set(columns.values()) - takes
    home.run("TRUNCATE TABLE main.deeper_quarantine")


def test_values_of_csv_files_go_by_the_columns_names(home: House) -> None:
    """Also where an event has them elsewhere; and dates as in events."""
    columns = Sent().take(CASES).columns
    day, price, number, moment = (columns[k] for k in ("Date", "Decimal(9, 2)", "Float32", "DateTime64(3, 'UTC')"))
    lines = [
        f"id,{day},{price},{number},{moment},stray",
        "30000,2026-02-28,1.239,1.5,1763700000123,x",
        "30001,2026-02-31,1,1,1763700000123,x",
        "30002,2026-02-28,1,1e39,1763700000123,x",
        "30003,2026-02-28,1e10,1,1763700000123,x",
        "30004,,,,,",
    ]
    outcome = home.gateway.append("deeper", "\n".join(lines).encode(), Input.CSV).result(60)
    assert (outcome.rows, outcome.quarantined, outcome.ignored) == (2, 3, ("stray",))
    stored = home.rows(
        f"SELECT toString({day}), toString({price}), {number}, toString({moment}) FROM main.deeper "
        "WHERE id >= 30000 ORDER BY id"
    )
    assert stored == [
        ("2026-02-28", "1.24", 1.5, "2025-11-21 04:40:00.123"),
        ("1970-01-01", "0", 0, "1970-01-01 00:00:00.000"),
    ]
    home.run("TRUNCATE TABLE main.deeper_quarantine")


def test_values_of_parquet_files(home: House) -> None:
    """They have types of their own: an infinity is one, and a day cannot be another."""
    columns = Sent().take(CASES).columns
    table = pa.table(
        {
            "id": pa.array([40_000, 40_001, 40_002, 40_003], pa.uint32()),
            columns["Date"]: pa.array([20_000, 20_000, 70_000, 20_000], pa.int32()).cast(pa.date32()),
            columns["Float32"]: pa.array([float("inf"), 1e39, 1.0, 1.0], pa.float64()),
            columns["UInt8"]: pa.array([1, 1, 1, 300], pa.int64()),
            columns["Decimal(9, 2)"]: pa.array([1239, 1, 1, 1], pa.int64()).cast(pa.decimal128(19, 0)),
            "stray": pa.array(["x"] * 4),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    outcome = home.gateway.append("deeper", sink.getvalue(), Input.PARQUET).result(60)
    assert (outcome.rows, outcome.quarantined, outcome.ignored) == (1, 3, ("stray",))
    shown = ", ".join(columns[k] for k in ("Date", "Float32", "UInt8", "Decimal(9, 2)"))
    ((day, number, byte, price),) = home.rows(f"SELECT {shown} FROM main.deeper WHERE id >= 40000")
    assert (str(day), number, byte, price) == ("2024-10-04", float("inf"), 1, 1239)
    blamed = home.rows("SELECT c__error_column[1] FROM main.deeper_quarantine")
    assert {c for (c,) in blamed} == {columns["Date"], columns["Float32"], columns["UInt8"]}
    home.run("TRUNCATE TABLE main.deeper_quarantine")


US = pa.timestamp("us", tz="UTC")
OTHERWISE: list[tuple[str, pa.DataType, Any, str | None]] = [
    ("Date", pa.string(), "2026-02-28", "2026-02-28"),
    ("Date", pa.string(), "2026-02-31", None),
    ("Date", pa.int64(), 20_000, None),
    ("Date", pa.timestamp("us"), 1_771_286_400_000_000, "2026-02-17"),
    ("Date", pa.timestamp("us"), 1_771_286_400_000_001, None),
    ("DateTime('UTC')", pa.string(), "2026-02-17T10:00:00Z", "2026-02-17 10:00:00"),
    ("DateTime('UTC')", pa.string(), "10:00", None),
    ("DateTime('UTC')", pa.int64(), 1_763_700_000, "2025-11-21 04:40:00"),
    ("DateTime('UTC')", pa.int64(), -5, None),
    ("DateTime('UTC')", US, 1_763_700_000_000_000, "2025-11-21 04:40:00"),
    ("DateTime('UTC')", US, 5_680_281_600_000_000, None),
    ("DateTime('UTC')", pa.date32(), 20_000, "2024-10-04 00:00:00"),
    ("DateTime64(3, 'UTC')", pa.int64(), 1_763_700_000_123, "2025-11-21 04:40:00.123"),
    ("DateTime64(3, 'UTC')", US, 1_763_700_000_123_000, "2025-11-21 04:40:00.123"),
    ("UInt8", pa.string(), "7", "7"),
    ("UInt8", pa.string(), "x", None),
    ("UInt8", pa.float64(), 1.7, None),
    ("UInt8", pa.float64(), 2.0, "2"),
    ("UInt8", pa.int64(), 256, None),
    ("Float64", pa.string(), "1.5", "1.5"),
    ("Float64", pa.string(), "1e400", None),
    ("Float64", pa.float64(), float("inf"), "inf"),
    ("Decimal(9, 2)", pa.string(), "1.239", "1.24"),
    ("Decimal(9, 2)", pa.string(), "12.5.5", None),
    ("Decimal(9, 2)", pa.float64(), 19.990000000000002, "19.99"),
    ("UUID", pa.string(), "zz", None),
    ("UUID", pa.string(), "61f0c404-5cb3-11e7-907b-a6006ad3dba0", "61f0c404-5cb3-11e7-907b-a6006ad3dba0"),
    ("Enum8('a' = 1, 'it''s' = 2)", pa.string(), "a", "a"),
    ("Enum8('a' = 1, 'it''s' = 2)", pa.string(), "c", None),
    ("Enum8('a' = 1, 'it''s' = 2)", pa.int64(), 2, "it's"),
    ("Nullable(Date)", pa.string(), "2026-02-31", None),
    ("Nullable(Date)", pa.string(), None, "NULL"),
    ("String", pa.string(), "x", "x"),
]


@pytest.mark.parametrize(
    ("kind", "type", "value", "stored"), OTHERWISE, ids=[f"{o[0]}-{o[1]}-{o[2]}" for o in OTHERWISE]
)
def test_values_of_parquet_files_of_other_types(
    home: House, kind: str, type: pa.DataType, value: Any, stored: str | None
) -> None:
    """Next to a row without a value, which is good."""
    column = Sent().take(CASES).columns[kind]
    home.run("TRUNCATE TABLE main.plain")
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": pa.array([1, 2], pa.uint32()), column: pa.array([value, None], type)}), sink)
    outcome = home.gateway.append("plain", sink.getvalue(), Input.PARQUET).result(60)
    assert (outcome.rows, outcome.quarantined) == ((2, 0) if stored is not None else (1, 1))
    found = home.rows(f"SELECT ifNull(toString({column}), 'NULL') FROM main.plain WHERE id = 1")
    assert found == ([(stored,)] if stored is not None else [])
    home.run("TRUNCATE TABLE main.plain_quarantine")


def test_a_mended_row_of_a_parquet_file_keeps_its_other_values(home: House) -> None:
    columns = Sent().take(CASES).columns
    byte, text, number = (columns[k] for k in ("UInt8", "String", "Float64"))
    sink = io.BytesIO()
    table = pa.table({"id": pa.array([60_000], pa.uint32()), byte: [300], text: ["keep me"], number: [float("inf")]})
    pq.write_table(table, sink)
    assert home.gateway.append("deeper", sink.getvalue(), Input.PARQUET).result(60).quarantined == 1
    ((kept,),) = home.rows("SELECT c__text FROM main.deeper_quarantine")
    assert (json.loads(kept)["m"][text], json.loads(kept)["m"][number]) == ("keep me", "inf")
    home.run("TRUNCATE TABLE main.deeper_quarantine")


def test_a_bad_row_takes_no_neighbour_with_it(home: House) -> None:
    """Also where the engine would stop, or go on into the next row."""
    columns = Sent().take(CASES).columns
    moment, uuid, values = columns["DateTime('UTC')"], columns["UUID"], columns["Array(String)"]
    bad = {f'"{moment}": 5000000000', f'"{uuid}": "x"', f'"{uuid}": ""', f'"{values}": [null]'}
    good = [f'{{"id": {n}, "{uuid}": "61f0c404-5cb3-11e7-907b-a6006ad3dba0"}}' for n in range(100_000, 103_000)]
    lines = [
        line for n in range(0, 3_000, 10) for line in (*good[n : n + 10], f'{{"id": 1, {sorted(bad)[n // 10 % 4]}}}')
    ]
    outcome = home.gateway.append("plain", "\n".join(lines).encode(), Input.NDJSON).result(60)
    assert (outcome.rows, outcome.quarantined) == (3_000, 300)
    home.run("TRUNCATE TABLE main.plain_quarantine")


def test_a_long_number_changes_nothing_for_others(home: House) -> None:
    columns = Sent().take(CASES).columns
    text, numbers, byte = (columns[k] for k in ("String", "Array(Array(UInt8))", "UInt8"))
    home.run("TRUNCATE TABLE main.plain")
    for digits in ("1", "1" * 60):
        csv = f'id,{text},{numbers},{byte}\n1,{digits},"[[1],[2,3]]",+7\n'
        events = f'{{"id": 1, "{text}": "{digits}", "{numbers}": [[1], [2, 3]], "{byte}": "+7"}}'
        for body, format in ((csv, Input.CSV), (events, Input.NDJSON)):
            assert home.gateway.append("plain", body.encode(), format).result(60).rows == 1, (digits, format)
    assert home.rows(f"SELECT DISTINCT toString({numbers}), {byte} FROM main.plain") == [("[[1],[2,3]]", 7)]


def test_lists_in_csv_files(home: House) -> None:
    columns = Sent().take(CASES).columns
    kinds = ("Array(Decimal(9, 2))", "Array(Date)", "Array(Nullable(Int8))", "Array(String)", "Array(Enum8('a' = 1))")
    names = [columns[k] for k in kinds]
    home.run("TRUNCATE TABLE main.plain")
    cells = ["[0.29,1.239]", "['2026-02-28']", "[30,NULL]", "['a','b']", "['a']"]
    body = ",".join(["id", *names]) + "\n1," + ",".join(f'"{c}"' for c in cells) + "\n"
    assert home.gateway.append("plain", body.encode(), Input.CSV).result(60).rows == 1
    shown = ", ".join(f"toString({n})" for n in names)
    assert home.rows(f"SELECT {shown} FROM main.plain") == [("[0.29,1.24]", *cells[1:])]
    body = f"id,{names[2]}\n1,[300]\n"
    assert home.gateway.append("plain", body.encode(), Input.CSV).result(60).quarantined == 1
    home.run("TRUNCATE TABLE main.plain_quarantine")


@pytest.mark.parametrize("row", ['{"id": 1, "c30": "caf\\xe9"}', '{"id": 1, "c30": "a\tb"}'])
def test_a_row_is_judged_alike_alone_and_beside_a_bad_one(home: House, row: str) -> None:
    column = Sent().take(CASES).columns["String"]
    text = row.replace("c30", column).encode().replace(b"\\xe9", b"\xe9")
    for body in (text, text + b"\n" + b'{"id": "x"}'):
        assert home.gateway.append("plain", body, Input.NDJSON).result(60).rows == 1
    home.run("TRUNCATE TABLE main.plain_quarantine")


def test_a_record_with_too_few_cells_is_told_so(home: House) -> None:
    columns = Sent().take(CASES).columns
    body = f"id,{columns['UUID']},{columns['Date']}\n1,2026-02-03\n"
    assert home.gateway.append("plain", body.encode(), Input.CSV).result(60).quarantined == 1
    assert home.rows("SELECT c__error_column, c__error FROM main.plain_quarantine") == [
        ([""], ["it has 2 fields, and the header 3"])
    ]
    home.run("TRUNCATE TABLE main.plain_quarantine")


def test_a_wide_header_is_not_kept_with_every_row(home: House) -> None:
    body = "id," + ",".join(f"column_{n:05}" for n in range(5_000)) + "\n" + "x,\n" * 2_000
    home.gateway.append("plain", body.encode(), Input.CSV).result(60)
    ((rows, longest),) = home.rows("SELECT count(), max(length(c__header)) FROM main.plain_quarantine")
    assert rows == 2_000 and longest < 100
    home.run("TRUNCATE TABLE main.plain_quarantine")


@pytest.mark.parametrize("format", [Input.CSV, Input.PARQUET])
def test_names_of_columns_in_other_letters(home: House, format: Input) -> None:
    name = Sent().take(CASES).columns["Date"].upper()
    home.run("TRUNCATE TABLE main.plain")
    sink = io.BytesIO()
    pq.write_table(pa.table({"ID": pa.array([7], pa.uint32()), name: ["2026-02-03"]}), sink)
    body = f"ID,{name}\n7,2026-02-03\n".encode() if format is Input.CSV else sink.getvalue()
    assert home.gateway.append("plain", body, format).result(60).rows == 1
    assert home.rows(f"SELECT id, toString({name.lower()}) FROM main.plain") == [(7, "2026-02-03")]


def test_stages_of_files_are_not_kept(home: House) -> None:
    """Files may have any types, and any number of them could be sent."""
    before = home.rows("SELECT count() FROM system.tables WHERE database = 'main_stage'")
    columns = Sent().take(CASES).columns
    for name in (columns["UInt8"], columns["Float64"], columns["String"]):
        for kind in (pa.string(), pa.int64(), pa.float64()):
            sink = io.BytesIO()
            pq.write_table(pa.table({"id": pa.array([1], pa.uint32()), name: pa.array([None], kind)}), sink)
            _append(home, "plain", sink.getvalue(), Input.PARQUET)
    assert home.rows("SELECT count() FROM system.tables WHERE database = 'main_stage'") == before


def test_lists_of_values_that_cannot_be_null(home: House) -> None:
    columns = "{name: id, type: UInt32}, {name: p, type: Array(Point)}, {name: m, type: Array(MultiPolygon)}"
    home.push({"datasources/shapes.yaml": f"columns: [{columns}]\nengine: {{sorting_key: [id]}}\n"})
    assert _append(home, "shapes", b'{"id": 1, "p": [[1, 2]]}', Input.NDJSON) == 1


def test_few_bad_rows_of_a_wide_file_stay_as_they_were_sent(home: House) -> None:
    header = "ID," + ",".join(f"column_{n:05}" for n in range(1_000))
    for row in ("x," + "y," * 999, 'x,"open', "x"):
        home.gateway.append("plain", f"{header}\n{row}".encode(), Input.CSV).result(60)
        assert home.rows("SELECT c__header, c__text FROM main.plain_quarantine") == [(header, row)]
        home.run("TRUNCATE TABLE main.plain_quarantine")


def test_many_bad_rows_of_a_wide_file_keep_what_the_datasource_has(home: House) -> None:
    body = "ID," + ",".join(f"column_{n:05}" for n in range(5_000)) + "\n" + "x,\n" + ("x" + "," * 5_000 + "\n") * 700
    home.gateway.append("plain", body.encode(), Input.CSV).result(60)
    found = home.rows("SELECT c__header, c__text, count() FROM main.plain_quarantine GROUP BY 1, 2 ORDER BY 3")
    assert found == [("", "x,", 1), ("id", "x", 700)]
    home.run("TRUNCATE TABLE main.plain_quarantine")


def test_a_parquet_file_without_any_of_the_columns_is_refused(home: House) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"other": [1, 2]}), sink)
    answer = home.gateway.append("deeper", sink.getvalue(), Input.PARQUET)
    with pytest.raises(Exception, match="no column is named"):
        answer.result(60)


def test_reasons_show_the_value_and_not_what_is_around_it(home: House) -> None:
    columns = Sent().take(CASES).columns
    moment = columns["DateTime64(3, 'UTC')"]
    body = json.dumps({"id": 1, "m": {moment: 20260228, "other": "secret"}}).encode()
    assert _append(home, "deeper", body, Input.NDJSON) == 0
    ((reason,),) = home.rows("SELECT c__error[1] FROM main.deeper_quarantine")
    assert reason == "`20260228` does not fit DateTime64(3, 'UTC')"
    ((value,),) = home.rows(f"SELECT {moment} FROM main.deeper_quarantine")
    assert value == "20260228"
    home.run("TRUNCATE TABLE main.deeper_quarantine")


def _list(*rows: Any, end: str) -> bytes:
    return b"[" + ", ".join(map(json.dumps, rows)).encode() + end.encode()


@pytest.mark.parametrize(("end", "torn"), [("", "["), (", ", "["), (', {"id": 5', '{"id": 5')])
def test_a_list_without_an_end_is_told(home: House, end: str, torn: str) -> None:
    """Its complete elements are stored; that others may be missing is a row in quarantine."""
    body = _list({"id": 50_000}, {"id": 50_001}, end=end)
    outcome = home.gateway.append("plain", body, Input.NDJSON).result(60)
    assert (outcome.rows, outcome.quarantined) == (2, 1)
    ((text, reason),) = home.rows("SELECT c__text, c__error[1] FROM main.plain_quarantine")
    assert text == torn
    assert reason == "the list has no end: rows may be missing" or torn != "["
    home.run("TRUNCATE TABLE main.plain_quarantine")


@pytest.mark.parametrize("turned", [False, True])
def test_an_object_as_text_beside_what_stands_in_it(home: House, turned: bool) -> None:
    columns = [
        "{name: id, type: UInt32}",
        "{name: page, type: String}",
        "{name: path, type: String, json: $.page.path}",
    ]
    listed = ", ".join(reversed(columns) if turned else columns)
    name = f"pages{turned}"
    home.push({f"datasources/{name}.yaml": f"columns: [{listed}]\nengine: {{sorting_key: [id]}}\n"})
    body = b'{"id": 1, "page": {"path": "a", "n": 2}}\n{"id": 2}'
    assert _append(home, name, body, Input.NDJSON) == 2
    assert home.rows(f"SELECT id, page, path FROM main.{name} ORDER BY id") == [
        (1, '{"n":2,"path":"a"}', "a"),
        (2, "", ""),
    ]
