"""A nested text column keeps its value byte for byte, whatever other columns read and whatever the batch contains."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from engine.warehouse.port import Input
from tests.ingest.test_raw_payloads import OBJECTS, OTHERS
from tests.support.in_process import Rookery, open_rookery

ALIKE = {'"plain"': "plain", "null": "", "true": "true", '"caf\\u00e9"': "café", '""': "", '"5"': "5", '"{}"': "{}"}
BESIDE = {
    "alone": [],
    "texts": [("a", "String", "$.data.a"), ("deep", "Nullable(String)", "$.data.in.side")],
    "numbers": [("n", "Int64", "$.data.n"), ("deep", "LowCardinality(String)", "$.data.in.side")],
    "the whole": [("data", "String", ""), ("n", "Int64", "$.data.n")],
    "the whole as JSON": [("data", "JSON", "")],
    "lists": [("l", "Array(String)", "$.data.l"), ("s", "Array(Int64)", "$.data.o[:].i")],
}


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("deeper")) as opened:
        for number, beside in enumerate(BESIDE.values()):
            columns = [("id", "UInt32", ""), ("meta", "String", "$.data.meta"), *beside]
            listed = [{"name": n, "type": k, **({"json": p} if p else {})} for n, k, p in columns]
            file = json.dumps({"columns": listed, "engine": {"sorting_key": ["tuple()"]}})
            opened.push({f"datasources/deeper_{number}.yaml": file})
        yield opened


def append(rookery: Rookery, name: str, body: str) -> tuple[int, int]:
    outcome = rookery.gateway.append(name, body.encode(), Input.NDJSON, None, None).result(60)
    return outcome.rows, outcome.quarantined


def event(number: int, meta: str) -> str:
    rest = '"n": 7, "a": "b", "l": ["x"], "o": [{"i": 1}], "in": {"side": "s"}'
    return f'{{"id": {number}, "data": {{"meta": {meta}, {rest}}}}}'


@pytest.mark.parametrize("number", range(len(BESIDE)))
def test_nested_text_is_kept_byte_for_byte(rookery: Rookery, number: int) -> None:
    name, texts = f"deeper_{number}", [*OBJECTS, *OTHERS]
    given = {n: (text, text) for n, text in enumerate(texts)} | {
        100 + n: pair for n, pair in enumerate(ALIKE.items())
    }
    lines = [event(n, text) for n, (text, _) in given.items()]
    lines += ['{"id": 200}', '{"id": 201, "data": {}}', '{"id": 202, "data": {"n": 1}}']
    for body in ("\n".join(lines), "\n".join([*lines, '{"id": "no"}']), *lines):
        bad = body.endswith('"no"}')
        assert append(rookery, name, body) == (body.count("\n") + 1 - bad, bad)
    stored = rookery.rows(f"SELECT id, groupUniqArray(meta) FROM main.{name} GROUP BY id ORDER BY id")
    assert dict(stored) == {n: [text] for n, (_, text) in given.items()} | {n: [""] for n in (200, 201, 202)}
    others = [n for n, _, _ in list(BESIDE.values())[number] if n not in ("data",)]
    for other in others:
        assert rookery.rows(f"SELECT uniqExact({other}) FROM main.{name} WHERE id < 200") == [(1,)]


def test_a_key_with_escapes_is_read(rookery: Rookery) -> None:
    assert append(rookery, "deeper_0", '{"id": 300, "data": {"m\\u0065ta": {"x": 1}}}') == (1, 0)
    assert rookery.rows("SELECT meta FROM main.deeper_0 WHERE id = 300") == [('{"x": 1}',)]
