"""A value of any type is stored exactly or not at all: nothing wraps, is clamped, rolls over or is truncated."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.warehouse.port import Input
from tests.ingest.column_values import CASES, DEEPER, WHOLE, SentValues, append, stored_values
from tests.support.in_process import Rookery
from tests.support.soak import soaking


@pytest.fixture(scope="module")
def rookery(values: Rookery) -> Rookery:
    return values


@pytest.mark.parametrize("together", [True, False])
def test_values_of_events(rookery: Rookery, together: bool) -> None:
    """Bad ones among them, and the good ones by themselves, which nothing is searched for."""
    sent = SentValues().take(CASES).take(WHOLE)
    if not together:
        sent.rows = [r for r in sent.rows if r[2] is not None]
    start = 0 if together else 10_000
    lines = [f'{{"id": {start + n}, "{sent.columns[k]}": {text}}}' for n, (k, text, _) in enumerate(sent.rows)]
    assert append(rookery, "plain", "\n".join(lines).encode(), Input.NDJSON) == sum(
        r[2] is not None for r in sent.rows
    )
    assert stored_values(rookery, "plain", sent, start) == {(k, t): s for k, t, s in sent.rows}


def test_nested_values_of_events(rookery: Rookery) -> None:
    sent = SentValues().take(CASES)
    # A number beyond any float makes its enclosing object unreadable, which all of these share.
    sent.rows = [(k, t, DEEPER.get((k, t), s)) for k, t, s in sent.rows if t != "1e400"]
    lines = [f'{{"id": {n}, "m": {{"{sent.columns[k]}": {text}}}}}' for n, (k, text, _) in enumerate(sent.rows)]
    append(rookery, "deeper", "\n".join(lines).encode(), Input.NDJSON)
    assert stored_values(rookery, "deeper", sent, 0) == {(k, t): s for k, t, s in sent.rows}


def test_values_three_keys_deep(rookery: Rookery) -> None:
    kinds = {"s": "String", "l": "LowCardinality(String)", "q": "Nullable(String)", "j": "JSON", "n": "Int32"}
    defaults = {"s": "'none'", "l": "'none'", "n": "7"}
    columns: list[dict[str, str]] = [{"name": "id", "type": "UInt32"}]
    for name, kind in kinds.items():
        default = {"default": defaults[name]} if name in defaults else {}
        columns.append({"name": name, "type": kind, "json": f"$.a.b.{name}", **default})
    rookery.push({"datasources/three.yaml": json.dumps({"columns": columns, "engine": {"sorting_key": ["id"]}})})
    there = {"s": "x", "l": "y", "q": "z", "j": {"k": 1}, "n": 5}
    body = "\n".join(json.dumps({"id": n, "a": {"b": v}}) for n, v in enumerate([there, {}, {"n": {"x": 1}}]))
    outcome = rookery.gateway.append("three", body.encode(), Input.NDJSON).result(60)
    assert (outcome.rows, outcome.quarantined) == (2, 1)
    assert rookery.rows("SELECT s, l, q, toString(j), n FROM main.three ORDER BY id") == [
        ("x", "y", "z", '{"k":1}', 5),
        ("none", "none", None, "{}", 7),
    ]


def test_defaults_use_stored_values_of_other_columns(rookery: Rookery) -> None:
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
    rookery.push({"datasources/defaults.yaml": f"columns: [{', '.join(columns)}]\nengine: {{sorting_key: [id]}}\n"})
    rows = [
        '{"id": 1, "when": "2026-02-17", "at": "2026-02-17T10:30:00Z", "price": 1.239}',
        '{"id": 2, "when": "2026-02-31"}',
    ]
    outcome = rookery.gateway.append("defaults", "\n".join(rows).encode(), Input.NDJSON).result(60)
    assert (outcome.rows, outcome.quarantined) == (1, 1)
    assert rookery.rows("SELECT toString(month), hour, toString(next), mapped, shown FROM main.defaults") == [
        ("2026-02-01", 10, "2026-02-18", [2], "day 2026-02-17 1.24")
    ]


FOLD = 1792891800
"""A moment in the hour that is repeated when clocks in Berlin are set back."""
CLOCKS = {
    "at": ("DateTime('Europe/Berlin')", f"fromUnixTimestamp({FOLD})", "at"),
    "same": ("Nullable(DateTime('Europe/Berlin'))", "at", "same"),
    "in_utc": ("DateTime('UTC')", "at", "in_utc"),
    "precise": ("DateTime64(3, 'Europe/Berlin')", f"fromUnixTimestamp64Milli({FOLD}000)", "precise"),
    "listed": ("Array(DateTime('Europe/Berlin'))", f"[fromUnixTimestamp({FOLD})]", "listed[1]"),
    "mapped": ("Map(String, DateTime('Europe/Berlin'))", "map('x', at)", "mapped['x']"),
    "both": ("Tuple(Int8, DateTime('Europe/Berlin'))", "tuple(1, at)", "both.2"),
    "noon": ("DateTime('Europe/Berlin')", "'2026-01-15 12:00:00'", f"noon + {FOLD - 1768474800}"),
    "day": ("Date", f"fromUnixTimestamp({FOLD})", f"if(day = '2026-10-25', {FOLD}, 0)"),
    "price": ("Decimal(9, 2)", "1.239", f"if(price = toDecimal32(1.23, 2), {FOLD}, 0)"),
    "prices": ("Array(Decimal(9, 2))", "[1.239]", f"if(prices = [toDecimal32(1.23, 2)], {FOLD}, 0)"),
}


def test_a_default_is_stored_as_the_column_s_type_has_it(rookery: Rookery) -> None:
    """A time neither in another zone nor in the other one of two equal hours."""
    columns = "".join(
        f"  - {{name: {n}, type: {json.dumps(t)}, default: {json.dumps(d)}}}\n" for n, (t, d, _) in CLOCKS.items()
    )
    text = f"columns:\n  - {{name: id, type: UInt32}}\n{columns}engine: {{sorting_key: [id]}}\n"
    rookery.push({"datasources/clocks.yaml": text})
    file = {
        "id": [2, 3],
        "at": pa.array([None, datetime.fromtimestamp(FOLD, UTC)]),
        "noon": pa.array([None, datetime(2026, 1, 15, 11, tzinfo=UTC)]),
        "day": pa.array([None, datetime(2026, 10, 25)]),
        "price": pa.array([None, Decimal("1.23")]),
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(file), sink)
    bodies = [(Input.NDJSON, b'{"id": 0}'), (Input.CSV, b"id\n1\n"), (Input.PARQUET, sink.getvalue())]
    assert [append(rookery, "clocks", body, format) for format, body in bodies] == [1, 1, 2]
    moments = ", ".join(f"toInt64({shown})" for _, _, shown in CLOCKS.values())
    for row in rookery.rows(f"SELECT {moments} FROM main.clocks ORDER BY id"):
        assert dict(zip(CLOCKS, row, strict=True)) == dict.fromkeys(CLOCKS, FOLD)


def test_an_object_instead_of_a_value_is_not_treated_as_absent(rookery: Rookery) -> None:
    columns = SentValues().take(CASES).columns
    takes = {columns["String"], columns["JSON"]}
    lines = [f'{{"id": {n}, "m": {{"{c}": {{"x": 1}}}}}}' for n, c in enumerate(columns.values(), 20_000)]
    assert append(rookery, "deeper", "\n".join(lines).encode(), Input.NDJSON) == len(takes)
    bad = rookery.rows("SELECT c__error_column[1] FROM main.deeper_quarantine")
    assert {c for (c,) in bad} == set(columns.values()) - takes
    rookery.run("TRUNCATE TABLE main.deeper_quarantine")


def test_values_of_csv_files_are_matched_by_column_name(rookery: Rookery) -> None:
    """Also where an event has them elsewhere; and dates as in events."""
    columns = SentValues().take(CASES).columns
    day, price, number, moment = (columns[k] for k in ("Date", "Decimal(9, 2)", "Float32", "DateTime64(3, 'UTC')"))
    lines = [
        f"id,{day},{price},{number},{moment},stray",
        "30000,2026-02-28,1.239,1.5,1763700000123,x",
        "30001,2026-02-31,1,1,1763700000123,x",
        "30002,2026-02-28,1,1e39,1763700000123,x",
        "30003,2026-02-28,1e10,1,1763700000123,x",
        "30004,,,,,",
    ]
    outcome = rookery.gateway.append("deeper", "\n".join(lines).encode(), Input.CSV).result(60)
    assert (outcome.rows, outcome.quarantined, outcome.ignored_columns) == (2, 3, ("stray",))
    stored = rookery.rows(
        f"SELECT toString({day}), toString({price}), {number}, toString({moment}) FROM main.deeper "
        "WHERE id >= 30000 ORDER BY id"
    )
    assert stored == [
        ("2026-02-28", "1.24", 1.5, "2025-11-21 04:40:00.123"),
        ("1970-01-01", "0", 0, "1970-01-01 00:00:00.000"),
    ]
    rookery.run("TRUNCATE TABLE main.deeper_quarantine")


def test_a_bad_row_does_not_affect_its_neighbors(rookery: Rookery) -> None:
    """Also where the engine would stop, or continue into the next row."""
    columns = SentValues().take(CASES).columns
    moment, uuid, values = columns["DateTime('UTC')"], columns["UUID"], columns["Array(String)"]
    bad = {f'"{moment}": 5000000000', f'"{uuid}": "x"', f'"{uuid}": ""', f'"{values}": [null]'}
    good = [f'{{"id": {n}, "{uuid}": "61f0c404-5cb3-11e7-907b-a6006ad3dba0"}}' for n in range(100_000, 103_000)]
    lines = [
        line for n in range(0, 3_000, 10) for line in (*good[n : n + 10], f'{{"id": 1, {sorted(bad)[n // 10 % 4]}}}')
    ]
    outcome = rookery.gateway.append("plain", "\n".join(lines).encode(), Input.NDJSON).result(60)
    assert (outcome.rows, outcome.quarantined) == (3_000, 300)
    rookery.run("TRUNCATE TABLE main.plain_quarantine")


@pytest.mark.parametrize("beside", ["", '{"id": 1, "c30": ""}', '{"id": 1, "note": "' + "1" * 40 + '"}', "torn"])
def test_booleans_are_numbers_in_any_batch(rookery: Rookery, beside: str) -> None:
    byte = SentValues().take(CASES).columns["UInt8"]
    rows = [f'{{"id": {n}, "{byte}": {value}}}' for n, value in ((800_000, "true"), (800_001, "false"))]
    append(rookery, "plain", "\n".join([*rows, beside.replace("c30", byte)]).encode(), Input.NDJSON)
    assert rookery.rows(f"SELECT id, {byte} FROM main.plain WHERE id >= 800000 ORDER BY id") == [
        (800_000, 1),
        (800_001, 0),
    ]
    rookery.run("TRUNCATE TABLE main.plain")
    rookery.run("TRUNCATE TABLE main.plain_quarantine")


def test_a_long_number_does_not_affect_other_rows(rookery: Rookery) -> None:
    columns = SentValues().take(CASES).columns
    text, numbers, byte = (columns[k] for k in ("String", "Array(Array(UInt8))", "UInt8"))
    rookery.run("TRUNCATE TABLE main.plain")
    for digits in ("1", "1" * 60) if soaking() else ("1" * 60,):
        csv = f'id,{text},{numbers},{byte}\n1,{digits},"[[1],[2,3]]",+7\n'
        events = f'{{"id": 1, "{text}": "{digits}", "{numbers}": [[1], [2, 3]], "{byte}": "+7"}}'
        for body, format in ((csv, Input.CSV), (events, Input.NDJSON)):
            assert rookery.gateway.append("plain", body.encode(), format).result(60).rows == 1, (digits, format)
    assert rookery.rows(f"SELECT DISTINCT toString({numbers}), {byte} FROM main.plain") == [("[[1],[2,3]]", 7)]


def test_lists_in_csv_files(rookery: Rookery) -> None:
    columns = SentValues().take(CASES).columns
    kinds = ("Array(Decimal(9, 2))", "Array(Date)", "Array(Nullable(Int8))", "Array(String)", "Array(Enum8('a' = 1))")
    names = [columns[k] for k in kinds]
    rookery.run("TRUNCATE TABLE main.plain")
    cells = ["[0.29,1.239]", "['2026-02-28']", "[30,NULL]", "['a','b']", "['a']"]
    body = ",".join(["id", *names]) + "\n1," + ",".join(f'"{c}"' for c in cells) + "\n"
    assert rookery.gateway.append("plain", body.encode(), Input.CSV).result(60).rows == 1
    shown = ", ".join(f"toString({n})" for n in names)
    assert rookery.rows(f"SELECT {shown} FROM main.plain") == [("[0.29,1.24]", *cells[1:])]
    body = f"id,{names[2]}\n1,[300]\n"
    assert rookery.gateway.append("plain", body.encode(), Input.CSV).result(60).quarantined == 1
    rookery.run("TRUNCATE TABLE main.plain_quarantine")


@pytest.mark.parametrize("row", ['{"id": 1, "c30": "caf\\xe9"}', '{"id": 1, "c30": "a\tb"}'])
def test_a_row_is_validated_the_same_beside_a_bad_one(rookery: Rookery, row: str) -> None:
    column = SentValues().take(CASES).columns["String"]
    text = row.replace("c30", column).encode().replace(b"\\xe9", b"\xe9")
    for body in (text, text + b"\n" + b'{"id": "x"}'):
        assert rookery.gateway.append("plain", body, Input.NDJSON).result(60).rows == 1
    rookery.run("TRUNCATE TABLE main.plain_quarantine")


def test_a_record_with_too_few_cells_is_quarantined_with_its_reason(rookery: Rookery) -> None:
    columns = SentValues().take(CASES).columns
    body = f"id,{columns['UUID']},{columns['Date']}\n1,2026-02-03\n"
    assert rookery.gateway.append("plain", body.encode(), Input.CSV).result(60).quarantined == 1
    ((columns_of_errors, (reason,)),) = rookery.rows("SELECT c__error_column, c__error FROM main.plain_quarantine")
    assert columns_of_errors == [""]
    assert "2 fields" in reason and "header 3" in reason
    rookery.run("TRUNCATE TABLE main.plain_quarantine")


def test_a_wide_header_is_not_kept_with_every_row(rookery: Rookery) -> None:
    body = "id," + ",".join(f"column_{n:05}" for n in range(5_000)) + "\n" + "x,\n" * 2_000
    rookery.gateway.append("plain", body.encode(), Input.CSV).result(60)
    ((rows, longest),) = rookery.rows("SELECT count(), max(length(c__header)) FROM main.plain_quarantine")
    assert rows == 2_000 and longest < 100
    rookery.run("TRUNCATE TABLE main.plain_quarantine")


def test_lists_of_values_that_cannot_be_null(rookery: Rookery) -> None:
    columns = "{name: id, type: UInt32}, {name: p, type: Array(Point)}, {name: m, type: Array(MultiPolygon)}"
    rookery.push({"datasources/shapes.yaml": f"columns: [{columns}]\nengine: {{sorting_key: [id]}}\n"})
    assert append(rookery, "shapes", b'{"id": 1, "p": [[1, 2]]}', Input.NDJSON) == 1


def test_few_bad_rows_of_a_wide_file_are_quarantined_as_sent(rookery: Rookery) -> None:
    header = "ID," + ",".join(f"column_{n:05}" for n in range(1_000))
    for row in ("x," + "y," * 999, 'x,"open', "x"):
        rookery.gateway.append("plain", f"{header}\n{row}".encode(), Input.CSV).result(60)
        assert rookery.rows("SELECT c__header, c__text FROM main.plain_quarantine") == [(header, row)]
        rookery.run("TRUNCATE TABLE main.plain_quarantine")


def test_many_bad_rows_of_a_wide_file_are_quarantined_with_known_columns(rookery: Rookery) -> None:
    body = "ID," + ",".join(f"column_{n:05}" for n in range(5_000)) + "\n" + "x,\n" + ("x" + "," * 5_000 + "\n") * 700
    rookery.gateway.append("plain", body.encode(), Input.CSV).result(60)
    rows = rookery.rows("SELECT c__header, c__text, count() FROM main.plain_quarantine GROUP BY 1, 2 ORDER BY 3")
    assert rows == [("", "x,", 1), ("id", "x", 700)]
    rookery.run("TRUNCATE TABLE main.plain_quarantine")


def test_reasons_show_only_the_value(rookery: Rookery) -> None:
    columns = SentValues().take(CASES).columns
    moment = columns["DateTime64(3, 'UTC')"]
    body = json.dumps({"id": 1, "m": {moment: 20260228, "other": "secret"}}).encode()
    assert append(rookery, "deeper", body, Input.NDJSON) == 0
    ((reason,),) = rookery.rows("SELECT c__error[1] FROM main.deeper_quarantine")
    assert reason == "`20260228` does not fit DateTime64(3, 'UTC')"
    ((value,),) = rookery.rows(f"SELECT {moment} FROM main.deeper_quarantine")
    assert value == "20260228"
    rookery.run("TRUNCATE TABLE main.deeper_quarantine")


def _list(*rows: Any, end: str) -> bytes:
    return b"[" + ", ".join(map(json.dumps, rows)).encode() + end.encode()


@pytest.mark.parametrize(("end", "torn"), [("", "["), (", ", "["), (', {"id": 5', '{"id": 5')])
def test_an_unterminated_list_is_quarantined_with_its_reason(rookery: Rookery, end: str, torn: str) -> None:
    """Its complete elements are stored; that others may be missing is a row in quarantine."""
    body = _list({"id": 50_000}, {"id": 50_001}, end=end)
    outcome = rookery.gateway.append("plain", body, Input.NDJSON).result(60)
    assert (outcome.rows, outcome.quarantined) == (2, 1)
    ((text, reason),) = rookery.rows("SELECT c__text, c__error[1] FROM main.plain_quarantine")
    assert text == torn
    assert "closing bracket" in reason or torn != "["
    rookery.run("TRUNCATE TABLE main.plain_quarantine")


@pytest.mark.parametrize("turned", [False, True])
def test_an_object_as_text_beside_its_nested_values(rookery: Rookery, turned: bool) -> None:
    columns = [
        "{name: id, type: UInt32}",
        "{name: page, type: String}",
        "{name: path, type: String, json: $.page.path}",
    ]
    listed = ", ".join(reversed(columns) if turned else columns)
    name = f"pages{turned}"
    rookery.push({f"datasources/{name}.yaml": f"columns: [{listed}]\nengine: {{sorting_key: [id]}}\n"})
    body = b'{"id": 1, "page": {"path": "a", "n": 2}}\n{"id": 2}'
    assert append(rookery, name, body, Input.NDJSON) == 2
    assert rookery.rows(f"SELECT id, page, path FROM main.{name} ORDER BY id") == [
        (1, '{"path": "a", "n": 2}', "a"),
        (2, "", ""),
    ]
