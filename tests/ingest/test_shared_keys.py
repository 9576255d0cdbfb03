"""Columns that read the same key are independent: each stores what it would store alone, or its row is quarantined."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import product

import pytest

from engine.warehouse.port import Input
from tests.support.in_process import Rookery, open_rookery
from tests.support.soak import soaking

KINDS = [
    "String",
    "LowCardinality(String)",
    "Nullable(String)",
    "Int64",
    "Nullable(Int64)",
    "Float64",
    "Decimal(9, 2)",
    "Bool",
    "DateTime64(3, 'UTC')",
    "UUID",
    "JSON",
    "Array(String)",
    "Array(JSON)",
    "Array(Int64)",
    "Map(String, String)",
    "Tuple(a Nullable(Int64))",
]
DEEP = [
    "String",
    "Nullable(Int64)",
    "Float64",
    "Decimal(9, 2)",
    "JSON",
    "Array(String)",
    "Array(JSON)",
    "Array(Int64)",
]
SENT = [
    "5",
    "5.5",
    "-1",
    '"x"',
    '"5"',
    "true",
    "null",
    '{"a": 1, "b.c": null, "d": {}}',
    "{}",
    "[1, 2]",
    '["a", "b"]',
    '[{"a": 1}]',
    "[]",
    '"2026-01-02 10:00:00"',
    '"61f0c404-5cb3-11e7-907b-a6006ad3dba0"',
]
Alone = dict[tuple[str, str], str | None]


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("shared")) as made:
        yield made


def columns(kinds: Sequence[tuple[str, str, str]]) -> str:
    """A datasource of columns: name, type, path."""
    listed = [{"name": "id", "type": "UInt32"}, *({"name": n, "type": k, "json": p} for n, k, p in kinds)]
    return json.dumps({"columns": listed, "engine": {"sorting_key": ["id"]}})


def path(key: str, kind: str, deep: bool) -> str:
    return f"$.{'m.' if deep else ''}{key}{'[:]' if kind.startswith('Array') else ''}"


def row(number: int, key: str, value: str, deep: bool) -> str:
    member = f'"{key}": {value}'
    return f'{{"id": {number}, {f"{chr(34)}m{chr(34)}: {{{member}}}" if deep else member}}}'


def sent(rookery: Rookery, name: str, lines: Sequence[str]) -> tuple[dict[int, dict[str, str]], dict[int, list[str]]]:
    """What is stored, by id and column as text, and the columns that are blamed, by the number of the row."""
    outcome = rookery.gateway.append(name, "\n".join(lines).encode(), Input.NDJSON).result(120)
    names = [c.name for c in rookery.workspace.current.build.datasources[name].columns if c.name != "id"]
    shown = ", ".join(f"ifNull(toString({n}), 'NULL')" for n in names)
    stored = {
        int(id): dict(zip(names, v, strict=True)) for id, v in rookery.rows(f"SELECT id, [{shown}] FROM main.{name}")
    }
    bad = rookery.rows(f"SELECT c__row, c__error_column FROM main.{name}_quarantine")
    assert (outcome.rows, outcome.quarantined) == (len(stored), len(bad))
    rookery.run(f"TRUNCATE TABLE main.{name}")
    rookery.run(f"TRUNCATE TABLE main.{name}_quarantine")
    return stored, {int(number): sorted(blamed) for number, blamed in bad}


def alone(rookery: Rookery, kinds: Sequence[str], deep: bool) -> Alone:
    """What becomes of each value in a column that has its key to itself."""
    name = f"alone_{'deep' if deep else 'top'}"
    rookery.push(
        {f"datasources/{name}.yaml": columns([(f"c{n}", k, path(f"k{n}", k, deep)) for n, k in enumerate(kinds)])}
    )
    cases = list(product(range(len(kinds)), SENT))
    stored, bad = sent(rookery, name, [row(i, f"k{n}", value, deep) for i, (n, value) in enumerate(cases)])
    assert all(blamed == [f"c{cases[i][0]}"] for i, blamed in bad.items()), bad
    return {(kinds[n], value): stored[i][f"c{n}"] if i in stored else None for i, (n, value) in enumerate(cases)}


@pytest.mark.soak
@pytest.mark.parametrize("deep", [False, True])
def test_two_columns_that_read_one_key_are_independent(rookery: Rookery, deep: bool) -> None:
    """Pairs of types, each on a key of its own: all of them in both orders, or some types as the first."""
    kinds = DEEP if deep else KINDS
    expected = alone(rookery, kinds, deep)
    for first in kinds if soaking() else kinds[:: 4 if deep else 5]:
        name = f"pairs_{'deep' if deep else 'top'}_{kinds.index(first)}"
        made = [
            (f"{side}{n}", k, path(f"k{n}", k, deep))
            for n, other in enumerate(kinds)
            for side, k in (("a", first), ("b", other))
        ]
        rookery.push({f"datasources/{name}.yaml": columns(made)})
        cases = list(product(range(len(kinds)), SENT))
        lines = [row(i, f"k{n}", value, deep) for i, (n, value) in enumerate(cases)]
        stored, bad = sent(rookery, name, lines)
        for i, (n, value) in enumerate(cases):
            computed = {f"a{n}": expected[first, value], f"b{n}": expected[kinds[n], value]}
            if None in computed.values():
                blamed = bad.get(i, [])
                assert blamed and {*blamed} <= {c for c, v in computed.items() if v is None}, (first, kinds[n], value)
            else:
                assert {c: v for c, v in stored[i].items() if c in computed} == computed, (first, kinds[n], value)
        good = [line for i, line in enumerate(lines) if i in stored]
        assert sent(rookery, name, good) == (stored, {})
