"""Bodies as rows: lines, lists, objects over several lines, CSV; streams cut into batches; compressed bodies."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import tracemalloc
from collections.abc import Iterable, Iterator

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import BAD_ENCODING, BAD_ROW, TOO_LARGE, RookeryError
from engine.ingest.formats.body_rows import Chunker, csv_rows, json_rows, strict_ndjson_lines
from engine.ingest.formats.chunker import MAX_HEADER_BYTES
from engine.ingest.formats.compression import OUTPUT_BYTES, Decompressor, sniff_encoding
from engine.ingest.formats.json_values import JsonElements, on_one_line

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

text = st.text(st.sampled_from('ab"\\\n\r{}[],: é\U0001f600\u2028\x00'), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(text, values, max_size=4)
mess = st.lists(
    st.sampled_from([b"{", b"}", b"[", b"]", b",", b'"', b"\\", b"\n", b"\r\n", b"1", b" ", b'{"a":1}', b'"a":', b"\xff", b"\0"]),
    max_size=25,
).map(b"".join)  # fmt: skip


def chunked(body: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield body[at : at + size]
        at += size
    yield body[at:]


chunks = st.lists(st.integers(0, 9), max_size=30)


def cut(kind: str, parts: Iterator[bytes] | list[bytes], size: int = 16, limit: int = 1 << 20) -> list[bytes]:
    cutter = Chunker(kind, size, limit)  # type: ignore[arg-type]
    found = [batch for part in parts for batch in cutter.feed(part)]
    return found + list(cutter.finish())


# --- lines


def test_strict_ndjson_lines_are_split() -> None:
    assert strict_ndjson_lines(b'\xef\xbb\xbf{"a":1}\r\n\n  {"b": "\xc3\xa9"}\t\n') == [
        b'{"a":1}',
        b'{"b": "\xc3\xa9"}',
    ]
    assert strict_ndjson_lines(b"") == strict_ndjson_lines(b" \r\n\n") == []


@pytest.mark.parametrize(
    "body",
    [
        b"[1]", b'[{"a":1}]', b'{"a":1}{"b":2}', b'{"a":1},', b'{"a":1', b'{"a":1}\n"b":2}', b"null", b'{"a":NaN}',
        b'{"a":"\xff"}', b'{"a":"\t"}', b'{"a":1}\0', b'{"a":1}\x0b', b'{"a":1}\n\xef\xbb\xbf{"a":1}', b'{"a":' * 5000,
        b'{"a":"x\ny"}', b'{"a":"\\ud800"}', b"{'a':1}", b'{"a":1} // no',
    ],
)  # fmt: skip
def test_lines_that_are_not_objects_are_not_strict_ndjson(body: bytes) -> None:
    assert strict_ndjson_lines(body) is None
    assert strict_ndjson_lines(b'{"a":1}\n' + body + b'\n{"a":1}') is None


@quick
@given(st.lists(objects), st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
def test_strict_ndjson_equals_the_general_split(rows: list[dict[str, object]], border: bytes) -> None:
    lines = [json.dumps(row).encode() for row in rows]
    assert strict_ndjson_lines(border.join(lines)) == lines
    assert json_rows(border.join(lines)) == lines


# --- any JSON


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (b'[{"a":1},\n{"b":[2,{"c":"}],"}]}, 3, tru, "x,y"]', [b'{"a":1}', b'{"b":[2,{"c":"}],"}]}', b"3", b"tru", b'"x,y"']),
        (b'[{"a":1},{"b":\n', [b'{"a":1}', b'{"b":']),
        (b'[{"a":1},{"b":"x\ny', [b'{"a":1}', b'{"b":"x\\ny']),
        (b'[{"a":1},{"a":tru},{"a":3}]', [b'{"a":1}', b'{"a":tru}', b'{"a":3}']),
        (b'\xef\xbb\xbf \n[{"a":1},]\n{"b":2}\nx', [b'{"a":1}', b'{"b":2}', b"x"]),
        (b'[{"a":\n1}\n{"b":2}]', [b'{"a": 1}', b'{"b":2}']),
        (b"[]", []),
        (b"[[1],[2]]", [b"[1]", b"[2]"]),
        (b'[{"a":"\xff"},{"b":1}]', [b'{"a":"\xff"}', b'{"b":1}']),
        (b'{\n "a": [\n1]\n}\n{\n}\n{"b":2}{"c":3}', [b'{  "a": [ 1] }', b"{ }", b'{"b":2}', b'{"c":3}']),
        (b'{"a":1}{"b":2}\nxx\n\n{"c":\n', [b'{"a":1}', b'{"b":2}', b"xx", b'{"c":']),
        (b'{"a":1} {"b":2} x', [b'{"a":1} {"b":2} x']),
        (b'{"a":1\n{"b":2}}\n{"c":3}', [b'{"a":1', b'{"b":2}}', b'{"c":3}']),
        (b'{"a":"x\ny"}', [b'{"a":"x', b'y"}']),
        (b'\xff\n{"a":1}', [b"\xff", b'{"a":1}']),
        (b'{"a":1}\n[{"b":2}]', [b'{"a":1}', b'[{"b":2}]']),
        (b'{"a":"\\ud800"}\n{"a":1}\0', [b'{"a":"\\ud800"}', b'{"a":1}\0']),
    ],
)  # fmt: skip
def test_json_rows(body: bytes, rows: list[bytes]) -> None:
    assert json_rows(body) == rows


def test_a_batch_of_a_stream_is_not_a_list() -> None:
    assert json_rows(b'[1\n{"a":1}', whole=False) == [b"[1", b'{"a":1}']


@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b'{"a":' * 200_000, b'{"a":' + b"9" * 9000 + b"}", b'[{"a":1e999}]', b"{}x" * 9]
)
def test_deep_and_long_bodies_are_split(body: bytes) -> None:
    assert len(json_rows(body)) == 1


@quick
@given(st.lists(objects), st.sampled_from([None, 1]))
def test_lists_and_pretty_printed_objects_are_split(rows: list[dict[str, object]], indent: int | None) -> None:
    as_list = json_rows(json.dumps(rows, indent=indent).encode())
    in_sequence = json_rows("\n".join(json.dumps(row, indent=indent) for row in rows).encode())
    assert (
        [orjson.loads(r) for r in as_list]
        == [orjson.loads(r) for r in in_sequence]
        == [orjson.loads(json.dumps(r)) for r in rows]
    )


@quick
@given(mess, st.booleans())
def test_splitting_loses_no_text(body: bytes, listed: bool) -> None:
    body = b"[" + body if listed else body
    rows = json_rows(body)
    assert all(row and b"\n" not in row for row in rows)

    def solid(part: bytes) -> bytes:
        return part.translate(None, b" \t\r\n,[]\\n")

    assert solid(b"".join(rows)) == solid(body)


@quick
@given(st.binary())
def test_any_bytes_can_be_split(body: bytes) -> None:
    assert all(row and b"\n" not in row for row in json_rows(body))


def test_line_breaks_keep_their_meaning_or_stay_invalid() -> None:
    assert on_one_line(b'{"a":\n"x"}') == b'{"a": "x"}'
    assert on_one_line(b'{"a":\n"x\ny"}') == b'{"a": "x\\ny"}'
    assert on_one_line(b'{"a":"x\\\ny"}') == b'{"a":"x\\ y"}'
    assert on_one_line(b'{"a":"\\\\\n') == b'{"a":"\\\\\\n'


def test_an_array_of_open_strings_and_escapes_costs_its_length_once() -> None:
    elements = JsonElements(1 << 24)
    elements.append(b'"')
    for _ in range(2000):
        elements.append(b'\\\\\\"},{' * 20)
        assert list(elements.complete()) == []
    elements.append(b'"]\n{}')
    assert [len(e) for e in elements.complete()] == [2000 * 20 * 7 + 2]
    assert elements.remainder == b"\n{}"


# --- CSV


@pytest.mark.parametrize(
    ("body", "header", "rows"),
    [
        (b'\xef\xbb\xbfa,b\r\n1,"x\r\ny"\r\n\r\n2,3', b"a,b", [b'1,"x\r\ny"', b"2,3"]),
        (b'a\n5" nail\n"b ""\n"" c"\n', b"a", [b'5" nail', b'"b ""\n"" c"']),
        (b'a,b\n1;"x\n2;y\n', b"a,b", [b'1;"x', b"2;y"]),
        (b'"a\nb",c\n1,2\n', b'"a\nb",c', [b"1,2"]),
        (b'a,b\n1,"open\n2,3\n', b"a,b", [b'1,"open', b"2,3"]),
        (b'a,b\n1,"open\n2,"x\ny"\n3,4\n', b"a,b", [b'1,"open', b'2,"x\ny"', b"3,4"]),
        (b'a,b\n1,"x"y\n2,3\n', b"a,b", [b'1,"x"y', b"2,3"]),
        (b'a,b\n1,"x" \r\n2,3\r\n', b"a,b", [b'1,"x" ', b"2,3"]),
        (b"", b"", []),
        (b"\na\n\n", b"a", []),
    ],
)  # fmt: skip
def test_csv_rows(body: bytes, header: bytes, rows: list[bytes]) -> None:
    assert csv_rows(body) == (header, rows)


cell = st.lists(st.sampled_from(["a", '"', ",", "\n", "\r\n", " ", ";", "é"]), max_size=6).map("".join)
cells = st.lists(st.lists(cell, min_size=2, max_size=3), max_size=12)


def as_csv(rows: list[list[str]], border: str = "\n") -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator=border).writerows([["h1", "h\n2"], *rows])
    return out.getvalue().encode()


@quick
@given(cells, st.sampled_from(["\n", "\r\n"]))
def test_csv_records_equal_the_written_ones(rows: list[list[str]], border: str) -> None:
    header, found = csv_rows(as_csv(rows, border))
    assert header == b'h1,"h\n2"'
    assert [next(csv.reader(io.StringIO(r.decode(), newline=""))) for r in found] == rows


@pytest.mark.guard
def test_quotes_left_open_on_every_line_are_not_read_again_and_again() -> None:
    lines = [b'5","' for _ in range(20_000)]
    assert csv_rows(b"a,b\n" + b"\n".join(lines)) == (b"a,b", lines)


@pytest.mark.parametrize("body", [b'a,"b\n1,2\n', b'a,"b\n1,"x"\n', b'"a'])
def test_a_header_with_an_open_quote_is_refused(body: bytes) -> None:
    with pytest.raises(RookeryError) as caught:
        cut("csv", [body])
    assert caught.value.code is BAD_ROW


# --- streams


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
    found = [csv_rows(batch) for batch in batches]
    assert [record for _, part in found for record in part] == records
    assert all(h == header for h, _ in found)
    assert all(
        len(b) - len(header) - len(border) <= size or len(part) == 1
        for b, (_, part) in zip(batches, found, strict=True)
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


# --- compression


def packed(encoding: str, body: bytes) -> bytes:
    if encoding == "gzip":
        return gzip.compress(body, 1)
    return zstd.compress(body) if encoding == "zstd" else body


def decompressed(chunks: Iterable[bytes], encoding: str, limit: int) -> Iterator[bytes]:
    decompressor = Decompressor(encoding, limit)
    for chunk in chunks:
        yield from decompressor.decompress(chunk)
    yield decompressor.finish()


def refused(encoding: str, parts: list[bytes], limit: int = 1000) -> RookeryError:
    with pytest.raises(RookeryError) as caught:
        list(decompressed(parts, encoding, limit))
    return caught.value


packings = pytest.mark.parametrize("encoding", ["gzip", "zstd"])


@quick
@given(st.lists(st.binary(max_size=60), max_size=4), chunks, st.sampled_from(["", "identity", "gzip", "zstd"]))
def test_decompressed_bodies_equal_the_originals(members: list[bytes], sizes: list[int], encoding: str) -> None:
    body = b"".join(packed(encoding, m) for m in members)
    whole = b"".join(members)
    if encoding == "" and sniff_encoding(whole):
        return
    assert b"".join(decompressed(chunked(body, sizes), encoding.upper(), 1000)) == whole
    unsaid = encoding if encoding == "identity" or not body else ""
    assert b"".join(decompressed(chunked(body, sizes), unsaid, 1000)) == whole
    assert b"".join(decompressed([body], unsaid, len(whole))) == whole
    if whole:
        assert refused(encoding, [body], len(whole) - 1).code is TOO_LARGE


@packings
def test_broken_streams(encoding: str) -> None:
    body = packed(encoding, bytes(range(256)))
    for at in range(1, len(body)):
        error = refused(encoding, [body[:at]])
        assert (error.code, "truncated" in error.message) == (BAD_ENCODING, True)
    for broken in (b"{}" + body, body[:1] + b"\0" + body[2:], body + b"garbage"):
        error = refused(encoding, [broken])
        assert (error.code, "corrupt" in error.message) == (BAD_ENCODING, True)


def test_gzip_checksums_are_verified_and_padding_is_allowed() -> None:
    body = gzip.compress(b"abc")
    assert "corrupt" in refused("gzip", [body[:-5] + b"\0\0\0\0\0"]).message
    assert b"".join(decompressed([body + b"\0" * 9, b"\0", body], "x-gzip", 6)) == b"abcabc"
    assert "truncated" in refused("gzip", [body + b"\x1f"]).message


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "é" * 100])
def test_unknown_encodings(encoding: str) -> None:
    assert refused(encoding, []).code is BAD_ENCODING


@packings
def test_a_decompression_bomb_is_refused(encoding: str) -> None:
    bomb = packed(encoding, bytes(100 << 20))
    tracemalloc.start()
    with pytest.raises(RookeryError, match="larger"):
        sum(map(len, decompressed([bomb], encoding, 50 << 20)))
    assert sum(map(len, decompressed([bomb], encoding, 200 << 20))) == 100 << 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * OUTPUT_BYTES
    assert max(map(len, Decompressor(encoding, 200 << 20).decompress(bomb))) <= OUTPUT_BYTES


@packings
def test_many_empty_members_are_refused(encoding: str) -> None:
    assert "empty" in refused(encoding, [packed(encoding, b"") * 100_000]).message


def test_a_large_decompression_window_is_refused() -> None:
    options = {zstd.CompressionParameter.window_log: 25}
    packer = zstd.ZstdCompressor(options=options)
    assert "8 MiB" in refused("zstd", [packer.compress(b"x" * 1000) + packer.flush()]).message
