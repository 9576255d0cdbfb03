"""Parquet files have their own types: a value is stored exactly or not at all."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.warehouse.port import Input
from tests.ingest.column_values import CASES, SentValues, append
from tests.support.in_process import Rookery


@pytest.fixture(scope="module")
def rookery(values: Rookery) -> Rookery:
    return values


def test_values_of_parquet_files(rookery: Rookery) -> None:
    """They have types of their own: an infinity is one, and a day cannot be another."""
    columns = SentValues().take(CASES).columns
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
    outcome = rookery.gateway.append("deeper", sink.getvalue(), Input.PARQUET).result(60)
    assert (outcome.rows, outcome.quarantined, outcome.ignored_columns) == (1, 3, ("stray",))
    shown = ", ".join(columns[k] for k in ("Date", "Float32", "UInt8", "Decimal(9, 2)"))
    ((day, number, byte, price),) = rookery.rows(f"SELECT {shown} FROM main.deeper WHERE id >= 40000")
    assert (str(day), number, byte, price) == ("2024-10-04", float("inf"), 1, 1239)
    blamed = rookery.rows("SELECT c__error_column[1] FROM main.deeper_quarantine")
    assert {c for (c,) in blamed} == {columns["Date"], columns["Float32"], columns["UInt8"]}
    rookery.run("TRUNCATE TABLE main.deeper_quarantine")


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
    ("Decimal(9, 2)", pa.decimal256(60, 20), Decimal("1e30"), None),
    ("Decimal(9, 2)", pa.decimal256(60, 20), Decimal("-2.005"), "-2.01"),
    ("Decimal(9, 2)", pa.int64(), 10**12, None),
    ("UInt8", pa.decimal128(19, 2), Decimal("6.5"), None),
    ("Float64", pa.decimal128(19, 2), Decimal("6.5"), "6.5"),
    ("String", pa.decimal128(19, 2), Decimal("6.50"), "6.5"),
    ("UUID", pa.string(), "zz", None),
    ("UUID", pa.string(), "61f0c404-5cb3-11e7-907b-a6006ad3dba0", "61f0c404-5cb3-11e7-907b-a6006ad3dba0"),
    ("Enum8('a' = 1, 'it''s' = 2)", pa.string(), "a", "a"),
    ("Enum8('a' = 1, 'it''s' = 2)", pa.string(), "c", None),
    ("Enum8('a' = 1, 'it''s' = 2)", pa.int64(), 2, "it's"),
    ("Nullable(Date)", pa.string(), "2026-02-31", None),
    ("Nullable(Date)", pa.string(), None, "NULL"),
    ("String", pa.string(), "x", "x"),
]


def _files() -> list[dict[str, pa.DataType]]:
    """Files that together have every type of the list above: in each, a column has one type."""
    types: dict[str, list[pa.DataType]] = {}
    for kind, type, _, _ in OTHERWISE:
        if type not in types.setdefault(kind, []):
            types[kind].append(type)
    count = max(map(len, types.values()))
    return [{kind: listed[n] for kind, listed in types.items() if n < len(listed)} for n in range(count)]


@pytest.mark.parametrize("file", _files(), ids=range(len(_files())))
def test_values_of_parquet_files_of_other_types(rookery: Rookery, file: dict[str, pa.DataType]) -> None:
    """Each value in a row of its own, and a row without a value."""
    columns = SentValues().take(CASES).columns
    rows = [(kind, value, stored) for kind, type, value, stored in OTHERWISE if file.get(kind) == type]
    arrays = {"id": pa.array(range(len(rows) + 1), pa.uint32())}
    for kind, type in file.items():
        arrays[columns[kind]] = pa.array([*(v if k == kind else None for k, v, _ in rows), None], type)
    rookery.run("TRUNCATE TABLE main.plain")
    sink = io.BytesIO()
    pq.write_table(pa.table(arrays), sink)
    outcome = rookery.gateway.append("plain", sink.getvalue(), Input.PARQUET).result(60)
    bad = {n: columns[kind] for n, (kind, _, stored) in enumerate(rows) if stored is None}
    assert (outcome.rows, outcome.quarantined) == (len(rows) + 1 - len(bad), len(bad))
    assert dict(rookery.rows("SELECT c__row, c__error_column[1] FROM main.plain_quarantine")) == bad
    for n, (kind, _, stored) in enumerate(rows):
        found = rookery.rows(f"SELECT ifNull(toString({columns[kind]}), 'NULL') FROM main.plain WHERE id = {n}")
        assert found == ([(stored,)] if stored is not None else []), rows[n]
    rookery.run("TRUNCATE TABLE main.plain_quarantine")


PARTS = {
    "days": "Array(Date)",
    "flags": "Array(Bool)",
    "small": "Array(Array(UInt8))",
    "labels": "Array(Enum8('a' = 1))",
    "times": "Map(String, DateTime('Europe/Berlin'))",
    "pair": "Tuple(at DateTime('Europe/Berlin'), n UInt8)",
}
MIDNIGHT = 1_768_435_200_000_000
FILES_OF_PARTS: list[dict[str, tuple[pa.DataType, Any, str, list[Any]]]] = [
    {
        "days": (pa.list_(US), [MIDNIGHT], "['2026-01-15']", [[MIDNIGHT + 1]]),
        "flags": (pa.list_(pa.int64()), [1, 0], "[true,false]", [[300], [-1]]),
        "small": (pa.list_(pa.list_(pa.float64())), [[2.0]], "[[2]]", [[[1.5]], [[float("nan")]]]),
        "labels": (pa.list_(pa.int64()), [1], "['a']", [[257], [300]]),
        "times": (
            pa.map_(pa.string(), pa.string()),
            [("x", "2026-01-15 12:00:00")],
            "{'x':'2026-01-15 12:00:00'}",
            [[("x", "2026-02-31 12:00:00")]],
        ),
        "pair": (
            pa.struct({"at": pa.string(), "n": pa.float64()}),
            {"at": "2026-01-15 12:00:00", "n": 7.0},
            "('2026-01-15 12:00:00',7)",
            [{"at": "2026-01-15 12:00:00", "n": 1.5}],
        ),
    },
    {
        "days": (pa.list_(pa.int64()), [], "[]", [[20_000]]),
        "flags": (pa.list_(pa.float64()), [1.0], "[true]", [[1.5]]),
        "small": (pa.list_(pa.list_(pa.decimal128(20, 2))), [[Decimal(2)]], "[[2]]", [[[Decimal("1.5")]]]),
        "labels": (pa.list_(pa.bool_()), [], "[]", [[True]]),
        "times": (
            pa.map_(pa.string(), pa.decimal128(20, 2)),
            [("x", Decimal(0))],
            "{'x':'1970-01-01 01:00:00'}",
            [[("x", Decimal("1.5"))]],
        ),
        "pair": (
            pa.struct({"at": pa.date32(), "n": pa.bool_()}),
            {"at": 20_468, "n": True},
            "('2026-01-15 00:00:00',1)",
            [{"at": -1, "n": True}],
        ),
    },
]


@pytest.mark.parametrize("file", FILES_OF_PARTS, ids=range(len(FILES_OF_PARTS)))
def test_parts_of_values_are_checked_like_values(
    rookery: Rookery, file: dict[str, tuple[pa.DataType, Any, str, list[Any]]]
) -> None:
    """One row has good values of all columns, and each other row has one bad value."""
    columns = "".join(f"  - {{name: {n}, type: {json.dumps(t)}}}\n" for n, t in PARTS.items())
    text = f"columns:\n  - {{name: id, type: UInt32}}\n{columns}engine: {{sorting_key: [id]}}\n"
    rookery.push({"datasources/parts.yaml": text})
    bad = [(name, value) for name, (_, _, _, values) in file.items() for value in values]
    arrays = {"id": pa.array(range(len(bad) + 1), pa.uint32())}
    for name, (type, good, _, _) in file.items():
        arrays[name] = pa.array([good, *(value if n == name else good for n, value in bad)], type)
    sink = io.BytesIO()
    pq.write_table(pa.table(arrays), sink)
    assert append(rookery, "parts", sink.getvalue(), Input.PARQUET) == 1
    shown = ", ".join(f"toString({name})" for name in file)
    assert rookery.rows(f"SELECT {shown} FROM main.parts") == [tuple(stored for _, _, stored, _ in file.values())]
    blamed = rookery.rows("SELECT c__error_column FROM main.parts_quarantine ORDER BY c__row")
    assert [list(columns) for (columns,) in blamed] == [[name] for name, _ in bad]
    for table in ("parts", "parts_quarantine"):
        rookery.run(f"TRUNCATE TABLE main.{table}")


@pytest.mark.soak_only
@pytest.mark.parametrize(
    ("kind", "type", "value", "stored"), OTHERWISE, ids=[f"{o[0]}-{o[1]}-{o[2]}" for o in OTHERWISE]
)
def test_a_value_of_a_parquet_file_of_another_type(
    rookery: Rookery, kind: str, type: pa.DataType, value: Any, stored: str | None
) -> None:
    """Next to a row without a value, which is good."""
    column = SentValues().take(CASES).columns[kind]
    rookery.run("TRUNCATE TABLE main.plain")
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": pa.array([1, 2], pa.uint32()), column: pa.array([value, None], type)}), sink)
    outcome = rookery.gateway.append("plain", sink.getvalue(), Input.PARQUET).result(60)
    assert (outcome.rows, outcome.quarantined) == ((2, 0) if stored is not None else (1, 1))
    rows = rookery.rows(f"SELECT ifNull(toString({column}), 'NULL') FROM main.plain WHERE id = 1")
    assert rows == ([(stored,)] if stored is not None else [])
    rookery.run("TRUNCATE TABLE main.plain_quarantine")


def test_a_corrected_row_of_a_parquet_file_keeps_its_other_values(rookery: Rookery) -> None:
    columns = SentValues().take(CASES).columns
    byte, text, number = (columns[k] for k in ("UInt8", "String", "Float64"))
    sink = io.BytesIO()
    table = pa.table({"id": pa.array([60_000], pa.uint32()), byte: [300], text: ["keep me"], number: [float("inf")]})
    pq.write_table(table, sink)
    assert rookery.gateway.append("deeper", sink.getvalue(), Input.PARQUET).result(60).quarantined == 1
    ((kept,),) = rookery.rows("SELECT c__text FROM main.deeper_quarantine")
    assert (json.loads(kept)["m"][text], json.loads(kept)["m"][number]) == ("keep me", "inf")
    rookery.run("TRUNCATE TABLE main.deeper_quarantine")


@pytest.mark.parametrize("format", [Input.CSV, Input.PARQUET])
def test_column_names_in_another_case(rookery: Rookery, format: Input) -> None:
    name = SentValues().take(CASES).columns["Date"].upper()
    rookery.run("TRUNCATE TABLE main.plain")
    sink = io.BytesIO()
    pq.write_table(pa.table({"ID": pa.array([7], pa.uint32()), name: ["2026-02-03"]}), sink)
    body = f"ID,{name}\n7,2026-02-03\n".encode() if format is Input.CSV else sink.getvalue()
    assert rookery.gateway.append("plain", body, format).result(60).rows == 1
    assert rookery.rows(f"SELECT id, toString({name.lower()}) FROM main.plain") == [(7, "2026-02-03")]


def test_stages_of_files_are_not_kept(rookery: Rookery) -> None:
    """Files may have any types, and any number of them could be sent."""
    before = rookery.rows("SELECT count() FROM system.tables WHERE database = 'main_stage'")
    columns = SentValues().take(CASES).columns
    for name in (columns["UInt8"], columns["Float64"], columns["String"]):
        for kind in (pa.string(), pa.int64(), pa.float64()):
            sink = io.BytesIO()
            pq.write_table(pa.table({"id": pa.array([1], pa.uint32()), name: pa.array([None], kind)}), sink)
            append(rookery, "plain", sink.getvalue(), Input.PARQUET)
    assert rookery.rows("SELECT count() FROM system.tables WHERE database = 'main_stage'") == before


def test_a_parquet_file_without_any_of_the_columns_is_refused(rookery: Rookery) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"other": [1, 2]}), sink)
    answer = rookery.gateway.append("deeper", sink.getvalue(), Input.PARQUET)
    with pytest.raises(Exception, match="no column"):
        answer.result(60)


def test_null_and_long_texts_of_parquet_files(rookery: Rookery) -> None:
    source = """
columns:
  - {name: id, type: UInt32}
  - {name: s, type: String}
  - {name: l, type: LowCardinality(String)}
  - {name: f, type: FixedString(2)}
  - {name: t, type: Tuple(x FixedString(2))}
  - {name: a, type: Array(Nullable(FixedString(2)))}
engine: {sorting_key: [id]}
"""
    nulls = [pa.int64(), pa.float64(), pa.date32(), pa.timestamp("us"), pa.bool_(), pa.decimal128(5, 2)]
    files = [{name: pa.array([None], type) for name in "sl"} for type in nulls]
    short, long = (
        [
            {"f": pa.array([text])},
            {"t": pa.array([{"x": text}], pa.struct([("x", pa.string())]))},
            {"a": pa.array([[text]], pa.list_(pa.string()))},
        ]
        for text in ("de", "deu")
    )
    rookery.push({"datasources/texts.yaml": source})

    def sent(columns: dict[str, pa.Array]) -> int:
        sink = io.BytesIO()
        pq.write_table(pa.table({"id": pa.array([1], pa.uint32()), **columns}), sink)
        return rookery.gateway.append("texts", sink.getvalue(), Input.PARQUET).result(60).quarantined

    assert [sent(columns) for columns in files] == [0] * len(files)
    assert rookery.rows("SELECT DISTINCT s, l FROM main.texts") == [("", "")]
    assert [sent(columns) for columns in short] == [0] * 3
    assert rookery.rows("SELECT toString(max(f)), toString(max(t.x)), toString(max(a[1])) FROM main.texts") == [
        ("de", "de", "de")
    ]
    assert [sent(columns) for columns in long] == [1] * 3
