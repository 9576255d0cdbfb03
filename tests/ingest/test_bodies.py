"""Bodies as rows: lines, lists, objects over several lines, and CSV."""

from __future__ import annotations

import csv
import io
import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BAD_ROW, RookeryError
from engine.ingest.formats.body_rows import csv_rows, json_rows, strict_ndjson_lines
from engine.ingest.formats.csv_records import MAX_CELLS, raw_cells
from engine.ingest.formats.json_values import JsonElements, on_one_line
from engine.ingest.values.rejections import csv_cells
from tests.ingest.bodies import as_csv, cells, cut, mess, objects, quick

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


@quick
@given(cells, st.sampled_from(["\n", "\r\n"]))
def test_csv_records_equal_the_written_ones(rows: list[list[str]], border: str) -> None:
    header, records = csv_rows(as_csv(rows, border))
    assert header == b'h1,"h\n2"'
    assert [next(csv.reader(io.StringIO(r.decode(), newline=""))) for r in records] == rows


@pytest.mark.guard
def test_quotes_left_open_on_every_line_are_not_read_again_and_again() -> None:
    lines = [b'5","' for _ in range(20_000)]
    assert csv_rows(b"a,b\n" + b"\n".join(lines)) == (b"a,b", lines)


def test_a_record_is_split_into_a_limited_number_of_fields() -> None:
    for end in (b"", b'"'):
        assert len(raw_cells(b"," * (2 * MAX_CELLS) + end)) == MAX_CELLS
    assert csv_cells(b"," * (2 * MAX_CELLS)) is None


@pytest.mark.parametrize("body", [b'a,"b\n1,2\n', b'a,"b\n1,"x"\n', b'"a'])
def test_a_header_with_an_open_quote_is_refused(body: bytes) -> None:
    with pytest.raises(RookeryError) as caught:
        cut("csv", [body])
    assert caught.value.code is BAD_ROW
