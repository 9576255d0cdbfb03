"""Rows without a required value, or without any column of the datasource, are quarantined."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import Problems, RookeryError
from engine.warehouse.port import Input
from tests.support.in_process import Rookery, open_rookery

REQUIRED: dict[str, tuple[str, str, Any, str]] = {
    "text": ("String", "", "", ""),
    "low": ("LowCardinality(String)", "", "x", "x"),
    "number": ("Int32", "", 0, "0"),
    "maybe": ("Nullable(Int64)", "", 5, "5"),
    "float": ("Float64", "", 0.0, "0"),
    "price": ("Decimal(9, 2)", "", 0, "0"),
    "day": ("Date", "", "1970-01-01", "1970-01-01"),
    "at": ("DateTime64(3, 'UTC')", "", "2026-01-02 10:00:00", "2026-01-02 10:00:00.000"),
    "uuid": ("UUID", "", "61f0c404-5cb3-11e7-907b-a6006ad3dba0", "61f0c404-5cb3-11e7-907b-a6006ad3dba0"),
    "label": ("Enum8('a' = 1)", "", "a", "a"),
    "flag": ("Bool", "", False, "false"),
    "ip": ("IPv4", "", "0.0.0.0", "0.0.0.0"),
    "list": ("Array(String)", "", ["a"], "['a']"),
    "map": ("Map(String, UInt8)", "", {"a": 1}, "{'a':1}"),
    "object": ("JSON", "", {"a": 1}, '{"a":1}'),
    "deep": ("Int32", "$.m.deep", 0, "0"),
    "deeptext": ("String", "$.m.deeptext", "", ""),
    "deeplist": ("Array(Int32)", "$.m.deeplist[:]", [], "[]"),
    "each": ("Array(String)", "$.items[:].key", None, "['k']"),
}
ANY = "columns:\n  - {name: id, type: UInt32}\n  - {name: Name, type: String, json: $.user.name}\nengine: {sorting_key: [id]}\n"
OWN = """tenant: {column: tenant_id, landing: true}
columns:
  - {name: tenant_id, type: String}
  - {name: id, type: UInt32}
engine: {sorting_key: [tenant_id, id]}
"""


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("required")) as opened:
        columns = [{"name": "id", "type": "UInt32"}]
        columns += [
            {"name": n, "type": k, "required": True, **({"json": p} if p else {})}
            for n, (k, p, _, _) in REQUIRED.items()
        ]
        text = json.dumps({"columns": columns, "engine": {"sorting_key": ["id"]}})
        opened.push({"datasources/strict.yaml": text, "datasources/any.yaml": ANY, "datasources/own.yaml": OWN})
        yield opened


def event(**changed: Any) -> dict[str, Any]:
    plain = {n: v for n, (_, p, v, _) in REQUIRED.items() if not p}
    deeper = {n: v for n, (_, p, v, _) in REQUIRED.items() if p.startswith("$.m.")}
    return {"id": 1, **plain, "m": deeper, "items": [{"key": "k"}], **changed}


def blamed(rookery: Rookery, name: str) -> list[tuple[list[str], list[str]]]:
    rows = rookery.rows(f"SELECT c__error_column, c__error FROM main.{name}_quarantine ORDER BY c__row")
    rookery.run(f"TRUNCATE TABLE main.{name}_quarantine")
    return [(list(c), list(r)) for c, r in rows]


@pytest.mark.feature
@pytest.mark.parametrize("absent", [True, False])
def test_a_missing_required_value_is_quarantined(rookery: Rookery, absent: bool) -> None:
    """In events: absent or null. A value that is a default by chance is a value."""
    rows = [event()]
    for name, (_, path, _, _) in REQUIRED.items():
        row = event()
        place = row["m"] if path.startswith("$.m.") else row
        key = "items" if name == "each" else name
        place.pop(key)
        if not absent:
            place[key] = None
        rows.append(row)
    outcome = rookery.gateway.append("strict", "\n".join(map(json.dumps, rows)).encode(), Input.NDJSON).result(60)
    assert (outcome.rows, outcome.quarantined) == (1, len(REQUIRED))
    shown = ", ".join(f"toString({n})" for n in REQUIRED)
    assert rookery.rows(f"SELECT {shown} FROM main.strict") == [tuple(v for _, _, _, v in REQUIRED.values())]
    blamed_columns = blamed(rookery, "strict")
    assert [columns for columns, _ in blamed_columns] == [[name] for name in REQUIRED]
    assert {reason.split(",")[0] for _, reasons in blamed_columns for reason in reasons} == {"it is required"}
    rookery.run("TRUNCATE TABLE main.strict")


@pytest.mark.feature
def test_a_missing_required_value_of_a_file_is_quarantined(rookery: Rookery) -> None:
    plain = [n for n, (_, p, v, _) in REQUIRED.items() if not p and n not in ("map", "object", "list")]
    values = [str(REQUIRED[n][2]) or '"x"' for n in plain]
    header = ",".join([*plain, "deep", "deeptext", "deeplist", "each", "list", "map", "object"])
    whole = [*values, "0", "x", "[1]", "\"['k']\"", "\"['a']\"", "\"{'a':1}\"", '"{""a"":1}"']
    lines = [header, ",".join(whole), ",".join(["x", *whole[1:2], "", *whole[3:]]), ",".join([*whole[:-1], ""])]
    outcome = rookery.gateway.append("strict", "\n".join(lines).encode(), Input.CSV).result(60)
    assert (outcome.rows, outcome.quarantined) == (1, 2), blamed(rookery, "strict")
    assert [columns for columns, _ in blamed(rookery, "strict")] == [["number"], ["object"]]
    sink = io.BytesIO()
    pq.write_table(pa.table({"number": pa.array([1, None], pa.int32()), "text": pa.array(["a", "b"])}), sink)
    outcome = rookery.gateway.append("strict", sink.getvalue(), Input.PARQUET).result(60)
    assert (outcome.rows, outcome.quarantined) == (0, 2)
    missing = {*REQUIRED} - {"number", "text"}
    assert [{*columns} for columns, _ in blamed(rookery, "strict")] == [missing, missing | {"number"}]
    rookery.run("TRUNCATE TABLE main.strict")


@pytest.mark.feature
@pytest.mark.parametrize("more", ["default: \"'x'\"", "type: Tuple(a UInt8)"])
def test_columns_that_cannot_be_required(rookery: Rookery, more: str) -> None:
    kind = "" if "type" in more else "type: String, "
    text = f"columns: [{{name: id, type: UInt32}}, {{name: x, {kind}{more}, required: true}}]\nengine: {{sorting_key: [id]}}\n"
    with pytest.raises((Problems, RookeryError)):
        rookery.push({"datasources/wrong.yaml": text})


NOTHING = [{}, {"Records": [{"id": 1, "user": {"name": "x"}}]}, {"ID2": 5, "name": "x"}]
SOMETHING = [{"id": 0}, {"ID": 7}, {"user": None}, {"USER": {}}, {"id": None, "other": 1}]


@pytest.mark.parametrize("way", ["small", "large", "list", "alone"])
def test_a_row_with_none_of_the_columns(rookery: Rookery, way: str) -> None:
    rows = [*NOTHING, *SOMETHING]
    body = {
        "small": "\n".join(map(json.dumps, rows)),
        "large": "\n".join([*map(json.dumps, rows), *['{"id": 9, "user": {"name": "y"}}'] * 9000]),
        "list": json.dumps(rows),
        "alone": json.dumps(NOTHING[1]),
    }[way]
    outcome = rookery.gateway.append("any", body.encode(), Input.NDJSON).result(60)
    expected = 0 if way == "alone" else len(SOMETHING) + (9000 if way == "large" else 0)
    assert (outcome.rows, outcome.quarantined) == (expected, 1 if way == "alone" else len(NOTHING))
    reasons = [reasons for _, reasons in blamed(rookery, "any")]
    others = [["the row has none of the datasource's columns; its keys are `Records`"]]
    if way != "alone":
        others = [
            ["the row is empty"],
            *others,
            ["the row has none of the datasource's columns; its keys are `ID2`, `name`"],
        ]
    assert reasons == others
    rookery.run("TRUNCATE TABLE main.any")


def test_the_tenant_of_the_token_does_not_count_as_a_column(rookery: Rookery) -> None:
    rookery.add("a")
    body = "\n".join(map(json.dumps, [{}, {"other": 1}, {"id": 1}, {"tenant_id": "a"}]))
    outcome = rookery.gateway.append("own", body.encode(), Input.NDJSON, "a").result(60)
    assert (outcome.rows, outcome.quarantined) == (2, 2)
    assert [columns for columns, _ in blamed(rookery, "own")] == [[""], [""]]
    outcome = rookery.gateway.append("own", body.encode(), Input.NDJSON).result(60)
    assert (outcome.rows, outcome.quarantined) == (1, 3)
    assert [columns for columns, _ in blamed(rookery, "own")] == [["tenant_id"]] * 3
