"""Streams of rows: chunk sizes make no difference, and batches are cut between rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import TOO_LARGE, RookeryError
from engine.ingest.formats.body_rows import csv_rows, json_rows, strict_ndjson_lines
from engine.ingest.formats.chunker import MAX_HEADER_BYTES

if sys.version_info >= (3, 14):
    pass
else:
    pass
from tests.ingest.bodies import as_csv, cells, chunked, chunks, cut, mess, objects, quick


@quick
@given(mess | st.lists(objects).map(lambda rows: json.dumps(rows).encode()), chunks, st.booleans(), st.booleans())
def test_chunk_sizes_make_no_difference(body: bytes, sizes: list[int], listed: bool, marked: bool) -> None:
    body = b"\xef\xbb\xbf" * marked + b" [" * listed + body
    assert cut("ndjson", chunked(body, sizes)) == cut("ndjson", [body])


@quick
@given(st.text(st.sampled_from('a",\n\r'), max_size=60), chunks)
def test_chunk_sizes_make_no_difference_to_csv(body: str, sizes: list[int]) -> None:
    def batches(parts: Iterator[bytes] | list[bytes]) -> list[bytes] | str:
        try:
            return cut("csv", parts)
        except RookeryError as exc:
            return exc.message

    assert batches(chunked(body.encode(), sizes)) == batches([body.encode()])


@quick
@given(st.lists(objects, max_size=20), chunks, st.sampled_from([1, 30, 100]))
def test_batches_of_lines_hold_all_rows(rows: list[dict[str, object]], sizes: list[int], size: int) -> None:
    lines = [json.dumps(row).encode() for row in rows]
    batches = cut("ndjson", chunked(b"\r\n".join(lines), sizes), size)
    assert [row for batch in batches for row in strict_ndjson_lines(batch) or []] == lines
    assert all(len(b) <= size or len(strict_ndjson_lines(b) or []) == 1 for b in batches)


@quick
@given(st.lists(objects, max_size=20), chunks, st.sampled_from([1, 30, 100]), st.sampled_from([None, 1]))
def test_batches_of_a_list_hold_all_rows(
    rows: list[dict[str, object]], sizes: list[int], size: int, indent: int | None
) -> None:
    body = json.dumps(rows, indent=indent).encode()
    batches = cut("ndjson", chunked(body, sizes), size)
    assert [row for batch in batches for row in strict_ndjson_lines(batch) or []] == json_rows(body)
    assert all(len(b) <= size or len(strict_ndjson_lines(b) or []) == 1 for b in batches)


@quick
@given(mess, chunks)
def test_a_cut_list_has_the_rows_of_a_whole_one(body: bytes, sizes: list[int]) -> None:
    body = b"[" + body
    batches = cut("ndjson", chunked(body, sizes), 1)
    assert [row for batch in batches for row in json_rows(batch, whole=False)] == json_rows(body)


@quick
@given(cells, chunks, st.sampled_from([1, 20, 60]), st.sampled_from(["\n", "\r\n"]))
def test_batches_of_csv_hold_all_records(rows: list[list[str]], sizes: list[int], size: int, border: str) -> None:
    body = as_csv(rows, border)
    header, records = csv_rows(body)
    batches = cut("csv", chunked(body, sizes), size)
    split_batches = [csv_rows(batch) for batch in batches]
    assert [record for _, part in split_batches for record in part] == records
    assert all(h == header for h, _ in split_batches)
    assert all(
        len(b) - len(header) - len(border) <= size or len(part) == 1
        for b, (_, part) in zip(batches, split_batches, strict=True)
    )


@pytest.mark.parametrize("size", [1, 4, 6, 8, 12, 16, 20, 30, 100])
def test_quoted_line_breaks_do_not_split_records(size: int) -> None:
    records = [b'1,"x\ny"', b"2,3", b'5" nail,4', b'4,"\n\n\n\n\n\n"', b'"a\n","\nb"', b"6,7"]
    batches = cut("csv", [b"\n".join([b"a,b", *records])], size)
    assert [r for batch in batches for r in csv_rows(batch)[1]] == records
    assert all(batch.startswith(b"a,b\n") for batch in batches)


def test_multiline_objects_are_not_split() -> None:
    rows = [{"a": n, "b": [{"c": 1}, {"d": 2}]} for n in range(50)]
    body = "\n".join(json.dumps(row, indent=2) for row in rows).encode()
    batches = cut("ndjson", [body], 1000)
    assert len(batches) > 2
    assert [orjson.loads(row) for batch in batches for row in json_rows(batch, whole=False)] == rows


@pytest.mark.parametrize(
    ("kind", "start"),
    [("ndjson", b'{"a":"'), ("ndjson", b'[{"a":"'), ("ndjson", b"[[[["), ("csv", b'a\n"'), ("csv", b"a\n")],
)
def test_a_row_over_the_limit_is_refused(kind: str, start: bytes) -> None:
    for parts in ([start, b"x" * 3000], [start + b"x" * 3000], [start + b"x" * 3000 + b'"}]]]],\n']):
        with pytest.raises(RookeryError) as caught:
            cut(kind, parts, 100, 2000)
        assert caught.value.code is TOO_LARGE
    assert cut(kind, [start, b"x" * 1900], 100, 2000)


def test_a_header_over_the_limit_is_refused() -> None:
    with pytest.raises(RookeryError) as caught:
        cut("csv", [b"a," * MAX_HEADER_BYTES])
    assert caught.value.code is TOO_LARGE


@pytest.mark.parametrize("kind", ["ndjson", "csv"])
def test_a_stream_without_rows_has_no_batches(kind: str) -> None:
    for body in (b"", b"\xef\xbb\xbf", b"\xef\xbb", b"\n\r\n", *([b"[]"] if kind == "ndjson" else [])):
        assert [b for b in cut(kind, [body]) if b != b"\xef\xbb"] == []


@pytest.mark.parametrize("header", [b"a,b\n", b"a,b", b"a,b\r\n"])
def test_a_header_without_rows_is_a_batch(header: bytes) -> None:
    assert cut("csv", [header]) == [header]
    assert cut("csv", [header, b"\r\n\n"])[0].rstrip() == header.rstrip()
