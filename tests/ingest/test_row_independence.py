"""How a row is stored does not depend on the other rows of its request."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

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
    "Array(Int64)": ["[]", "[1, 2]", '["1"]', '[""]', "[true]", "[1.5]", "[null]", "null", f"[{'9' * 19}]"],
    "Array(String)": ["[]", '["a", null]', "[1.10]", '[{"p": 1.10}]', '["\\u0061"]'],
    "Map(String, Int64)": ["{}", '{"a": 1}', '{"\\u0061": 1}', '{"a": ""}', '{"a": false}'],
    "Tuple(a Int64, b String)": [
        '{"a": 1, "b": "x"}',
        '{"\\u0061": 1, "b": 1.10}',
        '{"a": "", "b": null}',
        '{"a": true}',
        "null",
    ],
    "JSON": ["{}", '{"a": 1.10}', '{"\\u0061": {"b": null}}'],
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
