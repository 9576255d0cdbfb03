"""Documents are assembled correctly however the engine splits its output."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import errors
from engine.warehouse import framing
from engine.warehouse.error_trailer import ErrorTrailer
from engine.warehouse.errors import EngineError
from engine.warehouse.port import Format


def cut(data: bytes, places: list[int]) -> Iterator[bytes]:
    at = 0
    for place in sorted({p % (len(data) + 1) for p in places} | {len(data)}):
        yield data[at:place]
        at = place


@given(rows=st.lists(st.text(max_size=5), max_size=8), places=st.lists(st.integers(0, 10**6), max_size=6))
def test_json_rows_can_be_split_anywhere(rows: list[str], places: list[int]) -> None:
    lines = b"".join(orjson.dumps({"a": row}) + b"\n" for row in rows)
    parts = framing.json_document([('a"', "String")], cut(lines, places), lambda: {"elapsed": 1.5})
    document = orjson.loads(b"".join(parts))
    assert document == {
        "meta": [{"name": 'a"', "type": "String"}],
        "data": [{"a": row} for row in rows],
        "rows": len(rows),
        "statistics": {"elapsed": 1.5},
    }


def test_a_csv_header_is_quoted() -> None:
    assert b"".join(framing.csv_document([('a"b', "x"), ("c,d", "y")], [b"1,2\n"])) == b'"a""b","c,d"\n1,2\n'


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def test_parquet_blocks_become_one_file() -> None:
    blocks = [pa.table({"a": [n, n + 1], "b": ["x" * n, None]}) for n in range(5)]
    parts = framing.parquet_document(lambda: b"unused", (parquet(b) for b in blocks))
    assert pq.read_table(pa.BufferReader(b"".join(parts))).equals(pa.concat_tables(blocks))
    assert b"".join(framing.parquet_document(lambda: b"empty", [])) == b"empty"


def test_an_abandoned_parquet_document_closes_its_blocks() -> None:
    closed = []

    def blocks() -> Iterator[bytes]:
        try:
            while True:
                yield parquet(pa.table({"a": [str(n) * 50 for n in range(50_000)]}))
        finally:
            closed.append(True)

    source = blocks()
    document = framing.parquet_document(lambda: b"", source)
    next(document)
    document.close()  # type: ignore[attr-defined]
    source.close()  # type: ignore[attr-defined]
    assert closed == [True]


TAG = "abcdefgh12345678"
REPORT = b"Code: 395. DB::Exception: late. (FUNCTION_THROW_IF) (version 26.9.2.1 (official build))"
TAGGED = (
    b"\r\n__exception__\r\n" + TAG.encode() + b"\r\n" + REPORT + b"\n90 " + TAG.encode() + b"\r\n__exception__\r\n"
)


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize(("tag", "end"), [(TAG, TAGGED), (None, b"\n" + REPORT + b"\n"), (None, REPORT)])
@given(size=st.integers(0, 60_000), places=st.lists(st.integers(0, 10**6), max_size=5))
def test_an_error_after_the_rows_is_detected(
    format: Format, tag: str | None, end: bytes, size: int, places: list[int]
) -> None:
    if tag is None and end == REPORT:
        size = 0
    tail = ErrorTrailer(format, tag)
    with pytest.raises(EngineError) as caught:
        for chunk in cut(b"x" * size + end, places):
            assert b"Code" not in b"".join(tail.push(chunk))
        list(tail.finish())
    assert (caught.value.engine_code, caught.value.message) == (395, "late")


@pytest.mark.parametrize(
    ("format", "text"),
    [
        (Format.CSV, b'"a"\n"\nCode: 1. DB::Exception: x. (version 1)"\n'),
        (Format.NDJSON, b'{"a":"Code: 1. DB::Exception: x (version 1)"}\n'),
        (Format.JSON, b'{"data": []}\n'),
        (Format.NDJSON, b""),
    ],
)
def test_rows_that_look_like_an_error_are_rows(format: Format, text: bytes) -> None:
    for tag in (TAG, None):
        tail = ErrorTrailer(format, tag)
        assert b"".join([*tail.push(text), *tail.finish()]) == text


@pytest.mark.parametrize("format", [Format.JSON, Format.PARQUET])
def test_a_truncated_document_is_refused(format: Format) -> None:
    tail = ErrorTrailer(format, None)
    list(tail.push(b'{"data":[{"a":1'))
    with pytest.raises(EngineError) as caught:
        list(tail.finish())
    assert caught.value.code is errors.ENGINE_INTERNAL
