"""How a row is stored does not depend on the other rows of its request."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.ingest.formats.nested_lists import MAX_LIST_DEPTH
from engine.warehouse.port import Input
from tests.support.in_process import Rookery, open_rookery
from tests.support.soak import paired, soaking

INTEGERS = [
    "0",
    "1",
    "-1",
    "255",
    "256",
    "1.0",
    "1.5",
    "1e2",
    '"7"',
    '""',
    '" 7"',
    "true",
    '"false"',
    "null",
    "007",
    "9" * 19,
]
SPECIAL = ["-1", "1.5", '"7"', '""', "true", "null", "9" * 19]
TEXTS = ['"s"', '""', "null", "true", "1.10", "[1.10, null]", '{"p": 1.10, "q": null}', '"\\u0061"', '"{\\"a\\":1}"']
VALUES = {
    "UInt8": INTEGERS,
    "Int64": INTEGERS,
    "Nullable(Int32)": SPECIAL,
    "Int256": [*SPECIAL, "9" * 40],
    "Float64": ["1", "1.10", '"1.5"', "1e400", '""', "null", "true"],
    "Decimal(18, 2)": ["1", "1.10", '"1.5"', "1.005", '""', "null"],
    "Bool": ["true", "1", '"true"', '""', "null"],
    "String": TEXTS,
    "Nullable(String)": TEXTS,
    "LowCardinality(String)": TEXTS,
    "DateTime": ['"2026-01-01 10:00:00"', '"2026-01-01T10:00:00Z"', "1767261600", '""', "null"],
    "Date": ['"2026-01-01"', "20000", '""', "null"],
    "Array(Int64)": ["[]", "[1, 2]", '["1"]', '[""]', "[true]", "[1.5]", "[null]", "null", f"[{2**63 - 1}]"],
    "Array(Nullable(Int64))": ["[1, null]", "[1.5]", f"[null, {2**53 + 1}]", '["1"]', "[true]"],
    "Array(Array(Int64))": ["[[1]]", "[[1.5]]", f"[[{2**53 + 1}], []]", "[null]"],
    "Array(Decimal(18, 2))": ["[1.5]", f"[{2**53 + 1}]", '["2.25"]'],
    "Array(String)": ["[]", '["a", null]', "[1.10]", f"[{2**53 + 1}]", '[{"p": 1.10}]', '["\\u0061"]'],
    "Map(String, Int64)": ["{}", '{"a": 1}', '{"\\u0061": 1}', '{"a": ""}', '{"a": false}'],
    "Tuple(a Int64, b String)": [
        '{"a": 1, "b": "x"}',
        '{"\\u0061": 1, "b": 1.10}',
        '{"a": "", "b": null}',
        '{"a": true}',
        "null",
    ],
    "JSON": [
        "{}",
        '{"a": 1.10}',
        '{"\\u0061": {"b": null}}',
        '{"a": [1.5]}',
        f'{{"a": [{2**53 + 1}]}}',
        '{"a": [[1]]}',
        '{"a": [null]}',
        '{"a": [{"b": [1.5]}]}',
        f'{{"a": [{{"b": [{2**53 + 1}]}}]}}',
    ],
}
BESIDE = {
    "a long number": f'"big": {"1" * 45}',
    "a nested object": '"in": {"beside": {"x": [1.10, null]}}',
    "an escaped key": '"in": {"b\\u0065side": "x"}, "list": [{"i\\u006eside": "x"}]',
    "an empty and a bad value": '"in": {"beside": 1}, "big": "", "n": "no"',
}
FIXED = [
    ("id", "UInt32", ""),
    ("n", "Int64", ""),
    ("big", "Nullable(Int256)", ""),
    ("beside", "String", "$.in.beside"),
]
SHAPES = {
    "top": ("", '"v": %s'),
    "nested": ("$.in.v", '"in": {"v": %s}'),
    "escaped": ("$.in.v", '"in": {"\\u0076": %s}'),
}


CASES = [
    (shape, type) for shape in SHAPES for type in VALUES if shape == "top" or not type.startswith(("Map", "Tuple"))
]


def datasource(shape: str, type: str) -> str:
    return f"{'top' if shape == 'top' else 'nested'}_{list(VALUES).index(type)}"


def definition(shape: str, type: str) -> str:
    columns = [*FIXED, ("v", type, SHAPES[shape][0]), ("list", "Array(String)", "$.list[:].inside")]
    listed = [{"name": n, "type": k, **({"json": p} if p else {})} for n, k, p in columns]
    return json.dumps({"columns": listed, "engine": {"sorting_key": ["id"]}})


CHOSEN = [*paired([t for s, t in CASES if s == "nested"], list(SHAPES))]
CHOSEN += [pytest.param(t, s) for s, t in CASES if s == "top" and ("nested", t) not in CASES]
"""Outside the soak tier, each type in one shape."""


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("rows")) as opened:
        cases = [(str(c.values[1]), str(c.values[0])) for c in CHOSEN if soaking() or not c.marks]
        opened.push({f"datasources/{datasource(*case)}.yaml": definition(*case) for case in cases})
        yield opened


def stored(rookery: Rookery, name: str, *requests: str) -> dict[int, str]:
    """The rows that are stored from some requests, by id."""
    for body in requests:
        rookery.gateway.append(name, body.encode(), Input.NDJSON, None, None).result(60)
    rows = rookery.rows(f"SELECT id, toString((v, list, beside)) FROM main.{name} WHERE id > 0")
    rookery.run(f"TRUNCATE TABLE main.{name}")
    return dict(rows)


@pytest.mark.parametrize(("type", "shape"), CHOSEN)
def test_a_row_is_stored_alike_beside_any_other(rookery: Rookery, shape: str, type: str) -> None:
    name = datasource(shape, type)
    rows = [f'{{"id": {n}, {SHAPES[shape][1] % value}}}' for n, value in enumerate(VALUES[type], 1)]
    alone = stored(rookery, name, *rows)
    assert alone
    differing = {}
    for what, member in BESIDE.items():
        together = stored(rookery, name, "\n".join([*rows, f'{{"id": 0, {member}}}']))
        wrong = {
            rows[n - 1]: (alone.get(n), together.get(n))
            for n in {*alone, *together}
            if alone.get(n) != together.get(n)
        }
        if wrong:
            differing[what] = wrong
    assert not differing


@pytest.mark.parametrize("values", ['"u"', '"[{"', '"\\"{"', "null", '{"x": 1}'], ids=range(5))
def test_escaped_keys_on_a_path_through_lists_are_read(rookery: Rookery, values: str) -> None:
    def row(key: str) -> str:
        return f'{{"id": 1, "list": [ {{"{key}": {values}}}, {{"other": "]"}}, {{"z": [1], "{key}" :{values}}}]}}'

    assert stored(rookery, "top_0", row("insid\\u0065")) == stored(rookery, "top_0", row("inside"))


OBJECTS = ["1", "1970-01-01", "2026-02-31", [1.5], [2**53 + 1], [[1]], [None], ["1"]]
"""Values in objects. The engine would convert some of them, or put them into the type of another one."""
OBJECT_FILES = {
    "datasources/objects.yaml": """columns:
  - {name: id, type: UInt32}
  - {name: text, type: String}
  - {name: object, type: JSON(max_dynamic_paths=16), json: $.in.object}
engine: {sorting_key: [id]}
""",
    "datasources/parsed.yaml": "columns: [{name: id, type: UInt32}, {name: object, type: JSON}]\n"
    "engine: {sorting_key: [id]}\n",
    "pipes/parse.yaml": "sql: SELECT id, CAST(text AS JSON) AS object FROM objects\nmaterialize: {target: parsed}\n",
}


def test_objects_are_stored_as_they_were_sent_however_they_are_parsed(rookery: Rookery) -> None:
    """In events, in a file, and by the query of a view."""
    rookery.push(OBJECT_FILES)
    texts = [json.dumps({"v": value}, separators=(",", ":")) for value in OBJECTS]
    rows = [f'{{"id": {n}, "text": {json.dumps(t)}, "in": {{"object": {t}}}}}' for n, t in enumerate(texts)]
    rookery.gateway.append("objects", "\n".join(rows).encode(), Input.NDJSON).result(60)
    file = io.BytesIO()
    pq.write_table(pa.table({"id": range(100, 100 + len(texts)), "text": texts, "object": texts}), file)
    rookery.gateway.append("objects", file.getvalue(), Input.PARQUET).result(60)
    for table in ("objects", "parsed"):
        rookery.run(f"OPTIMIZE TABLE main.{table} FINAL")
        assert [t for (t,) in rookery.rows(f"SELECT toString(object) FROM main.{table} ORDER BY id")] == texts * 2
    parsed = rookery.rows("SELECT toString(CAST(text AS JSON)) FROM main.objects ORDER BY id")
    assert [t for (t,) in parsed] == texts * 2


def _list(depth: int) -> str:
    return "[1," * depth + '"x"' + "]" * depth


DEEP_VALUES = {
    "most": (_list(MAX_LIST_DEPTH), True),
    "more": (_list(MAX_LIST_DEPTH + 1), False),
    "far more": (_list(2000), False),
    "after a string": (f'["\\"", "]]]", {_list(MAX_LIST_DEPTH)}]', False),
    "beside others": ("[" + ",".join([_list(MAX_LIST_DEPTH - 1)] * 3) + "]", True),
    "in objects": ('[{"a":' * 40 + "1" + "}]" * 40, True),
    "in an object": (f'{{"a": [{{"b": {_list(MAX_LIST_DEPTH + 1)}}}]}}', False),
    "text": (json.dumps("[" * 40), True),
}
"""Lists in lists, and whether they are stored."""


@pytest.mark.parametrize("format", [Input.NDJSON, Input.CSV], ids=["events", "csv"])
def test_lists_that_are_nested_too_deeply_go_to_quarantine(rookery: Rookery, format: Input) -> None:
    """The engine would parse a row of some kilobytes for minutes, while other rows wait."""
    name = f"deep_{format.name.lower()}"
    columns = "[{name: id, type: String}, {name: object, type: JSON}]"
    rookery.push({f"datasources/{name}.yaml": f"columns: {columns}\nengine: {{sorting_key: [id]}}\n"})
    objects = {id: f'{{"v": {value}}}' for id, (value, _) in DEEP_VALUES.items()}
    text = io.StringIO()
    if format is Input.CSV:
        csv.writer(text).writerows([("id", "object"), *objects.items()])
    else:
        text.writelines(f'{{"id": "{id}", "object": {value}}}\n' for id, value in objects.items())
    result = rookery.gateway.append(name, text.getvalue().encode(), format).result(60)
    good = sorted(id for id, (_, is_stored) in DEEP_VALUES.items() if is_stored)
    assert (result.rows, result.quarantined) == (len(good), len(objects) - len(good))
    assert rookery.rows(f"SELECT id FROM main.{name} ORDER BY id") == [(id,) for id in good]
