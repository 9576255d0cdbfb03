"""Parquet files: broken ones are the sender's fault and never the server's. Values do not depend on the form of a file,
and nulls take defaults, whatever their type.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet.encryption import CryptoFactory, EncryptionConfiguration, KmsClient, KmsConnectionConfig

from engine.errors import RookeryError
from engine.ingest.formats.parquet_process import READ_ERRORS, unpack
from engine.ingest.formats.parquet_shapes import UNCHANGED
from engine.warehouse.port import Input
from tests.support.in_process import Rookery, open_rookery

COLUMNS = {
    "id": "UInt32",
    "text": "String",
    "maybe": "Nullable(Int64)",
    "at": "DateTime('UTC')",
    "moment": "DateTime64(6, 'UTC')",
    "exact": "Decimal(18, 4)",
    "object": "JSON",
    "pair": "Tuple(a Int32, b Nullable(String), c Tuple(d Array(Int8)))",
    "list": "Array(Int32)",
    "map": "Map(String, Int32)",
    "pairs": "Array(Tuple(a Int32, b String))",
}
DEFAULTS = {"text": "'none'", "list": "[7]", "at": "toDateTime('2026-01-01 00:00:00', 'UTC')"}
PAIR = pa.struct([("a", pa.int32()), ("b", pa.string()), ("c", pa.struct([("d", pa.list_(pa.int8()))]))])
IDS = pa.array([1, 2], pa.uint32())


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("parquet")) as opened:
        listed = "".join(
            f'  - {{name: {n}, type: "{k}"' + (f', default: "{DEFAULTS[n]}"' if n in DEFAULTS else "") + "}\n"
            for n, k in COLUMNS.items()
        )
        opened.push({"datasources/rows.yaml": f"columns:\n{listed}engine: {{sorting_key: [id]}}\n"})
        yield opened


def written(columns: dict[str, Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


GOOD = written({"id": IDS, "text": pa.array(["a", "b"])})
SIZE = GOOD.index(b"\x3c\x16\x04") + 2
"""Where the metadata have the size of the two texts together, in Thrift's compact protocol."""
FOOTER = int.from_bytes(GOOD[-8:-4], "little")
BROKEN = {
    "cut in its data": GOOD[: len(GOOD) // 2],
    "cut by a byte": GOOD[:-1],
    "without a footer": GOOD[:-8],
    "one byte": b"x",
    "its magic only": b"PAR1",
    "two magics": b"PAR1PAR1",
    "nothing between magics": b"PAR1" + bytes(100) + b"PAR1",
    "another magic at its beginning": b"XXXX" + GOOD[4:],
    "another magic at its end": GOOD[:-4] + b"XXXX",
    "a footer that is too long": GOOD[:-8] + b"\xff\xff\xff\x7f" + GOOD[-4:],
    "a footer of no length": GOOD[:-8] + bytes(4) + GOOD[-4:],
    "a footer of zeros": GOOD[: -8 - FOOTER] + bytes(FOOTER) + GOOD[-8:],
    "texts of a negative size": GOOD[:SIZE] + b"\x33" + GOOD[SIZE + 1 :],
    "no columns": written({}),
    "none of the columns": written({"other": IDS}),
    "a column twice": written({"id": IDS, "ID": IDS}),
    "text": b"id,text\n1,a\n",
    "a number for an object": written({"pair": IDS}),
    "an object for a text": written({"text": pa.array([None, {"a": 1}], pa.struct([("a", pa.int32())]))}),
    "a text for a list": written({"list": pa.array(["x", None])}),
    "a number for a map": written({"map": IDS}),
}


def test_a_broken_file_is_refused(rookery: Rookery) -> None:
    for name, body in BROKEN.items():
        with pytest.raises(RookeryError) as caught:
            rookery.gateway.append("rows", body, Input.PARQUET).result(60)
        assert (caught.value.code.id, caught.value.code.status) == ("RK5001", 400), name
        assert rookery.rows("SELECT count() FROM main.rows") == [(0,)], name
    _change_bytes(rookery)


def _change_bytes(rookery: Rookery) -> None:
    """Files with bytes changed anywhere, read whole and in pieces: stored, in quarantine, or refused with 400."""
    chance = random.Random(3)
    options = [
        {},
        {"compression": "none"},
        {"compression": "zstd", "data_page_version": "2.0"},
        {"use_dictionary": False},
    ]
    files = [written({"id": IDS, "text": pa.array(["a", "b"])}, **o) for o in options]
    for n in range(40):
        body = bytearray(files[n % 4])
        for _ in range(chance.randint(1, 3)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        for whole in (True, False):
            try:
                if whole:
                    rookery.gateway.append("rows", bytes(body), Input.PARQUET).result(60)
                else:
                    with suppress(*READ_ERRORS):
                        list(unpack(io.BytesIO(body), 1 << 40, UNCHANGED))
            except RookeryError as exc:
                assert exc.code.status == 400, (bytes(body), exc.message)
    rookery.run("TRUNCATE TABLE main.rows")
    rookery.run("TRUNCATE TABLE main.rows_quarantine")


def stored(rookery: Rookery, columns: dict[str, Any]) -> list[tuple[Any, ...]]:
    outcome = rookery.gateway.append("rows", written({"id": IDS, **columns}), Input.PARQUET).result(60)
    shown = ", ".join(f"toString({n})" for n in columns)
    rows = rookery.rows(f"SELECT id, {shown} FROM main.rows ORDER BY id")
    rookery.run("TRUNCATE TABLE main.rows")
    rookery.run("TRUNCATE TABLE main.rows_quarantine")
    assert outcome.rows == len(rows)
    return rows


EMPTY = {
    "text": "none",
    "maybe": None,
    "at": "2026-01-01 00:00:00",
    "object": "{}",
    "pair": "(0,NULL,([]))",
    "list": "[7]",
    "map": "{}",
    "pairs": "[]",
}


def test_a_file_with_fewer_rows_than_it_declares_is_refused() -> None:
    """The library ends at the last value without an error."""
    file = written({"id": range(1000)}, write_statistics=False, store_schema=False)
    # The row group's number follows those of the file and of the column.
    start = file.rindex(b"\x16\xd0\x0f")
    assert [pq.read_table(io.BytesIO(p.data)).num_rows for p in unpack(io.BytesIO(file), 1 << 30, UNCHANGED)] == [
        1000
    ]
    broken = io.BytesIO(file[:start] + b"\x16\xa0\x1f" + file[start + 3 :])
    with pytest.raises(ValueError, match="is 1,000, and not 2,000 as declared"):
        list(unpack(broken, 1 << 30, UNCHANGED))


def test_a_column_that_is_always_null_takes_the_default(rookery: Rookery) -> None:
    for name, value in EMPTY.items():
        assert stored(rookery, {name: pa.nulls(2)}) == [(1, value), (2, value)]


VALUES: list[tuple[str, pa.DataType, Any, str]] = [
    ("object", pa.struct([("a", pa.int32())]), {"a": 1}, '{"a":1}'),
    ("list", pa.list_(pa.int32()), [1], "[1]"),
    ("map", pa.map_(pa.string(), pa.int32()), [("a", 1)], "{'a':1}"),
    ("pairs", pa.list_(pa.struct([("a", pa.int32()), ("b", pa.string())])), [{"a": 1, "b": "x"}], "[(1,'x')]"),
    ("text", pa.dictionary(pa.int8(), pa.string()), "x", "x"),
    ("maybe", pa.int64(), 5, "5"),
    ("pair", PAIR, {"a": 1, "b": "x", "c": {"d": [2]}}, "(1,'x',([2]))"),
]


def test_a_null_takes_the_default(rookery: Rookery) -> None:
    for name, kind, value, shown in VALUES:
        empty = "[]" if name == "list" else EMPTY[name]
        assert stored(rookery, {name: pa.array([value, None], kind)}) == [(1, shown), (2, empty)]
        assert stored(rookery, {name: pa.array([None, None], kind)}) == [(1, empty), (2, empty)]
    value = {"a": None, "b": "x", "c": None}
    assert stored(rookery, {"pair": pa.array([value, {"a": 1, "b": None, "c": None}], PAIR)}) == [
        (2, "(1,NULL,([]))")
    ]


# Every row with its values in the file, and as they are shown.
SENT: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    (
        {"text": "a", "maybe": -(2**63), "moment": 1_763_700_000_123_456, "exact": Decimal("-1.2300"),
         "pair": {"a": 1, "b": None, "c": {"d": [1, 2]}}, "list": [1, -2], "map": [("a", 1)], "pairs": [{"a": 1, "b": "x"}]},
        ("a", "-9223372036854775808", "2025-11-21 04:40:00.123456", "-1.23", "(1,NULL,([1,2]))", "[1,-2]", "{'a':1}", "[(1,'x')]"),
    ),
    (
        {},
        ("none", "NULL", "1970-01-01 00:00:00.000000", "0", "(0,NULL,([]))", "[]", "{}", "[]"),
    ),
    (
        {"text": "", "maybe": 2**63 - 1, "moment": -1, "exact": Decimal("99999999999999.9999"),
         "pair": {"a": 2, "b": "é", "c": {"d": []}}, "list": [], "map": [], "pairs": []},
        ("", "9223372036854775807", "1969-12-31 23:59:59.999999", "99999999999999.9999", "(2,'é',([]))", "[]", "{}", "[]"),
    ),
]  # fmt: skip
TYPES = {
    "text": pa.string(),
    "maybe": pa.int64(),
    "moment": pa.timestamp("us"),
    "exact": pa.decimal128(18, 4),
    "pair": PAIR,
    "list": pa.list_(pa.int32()),
    "map": pa.map_(pa.string(), pa.int32()),
    "pairs": pa.list_(pa.struct([("a", pa.int32()), ("b", pa.string())])),
}
PLAIN = {"use_dictionary": False}
FORMS: dict[str, dict[str, Any]] = {
    **{codec: {"compression": codec} for codec in ("none", "snappy", "gzip", "brotli", "zstd", "lz4")},
    **{f"{codec} in pages of version 2": {"compression": codec, "data_page_version": "2.0"} for codec in ("none", "zstd")},
    "without dictionaries": PLAIN,
    "many pages": {**PLAIN, "data_page_size": 1, "write_batch_size": 1},
    "a row in each group": {"row_group_size": 1},
    "indexes of pages": {"write_page_index": True, "data_page_size": 1},
    "Bloom filters": {"bloom_filter_options": {"text": {"ndv": 10, "fpp": 0.1}}},
    "checksums": {"write_page_checksum": True},
    "no statistics": {"write_statistics": False},
    "times of 96 bits": {"use_deprecated_int96_timestamps": True},
    "version 1": {"version": "1.0", "coerce_timestamps": "us"},
    "decimals as integers": {"store_decimal_as_integer": True},
    "old names of lists": {"use_compliant_nested_type": False},
    "no schema of the library": {"store_schema": False},
    "differences": {**PLAIN, "column_encoding": {"maybe": "DELTA_BINARY_PACKED", "text": "DELTA_BYTE_ARRAY"}},
    "lengths": {**PLAIN, "column_encoding": {"maybe": "BYTE_STREAM_SPLIT", "text": "DELTA_LENGTH_BYTE_ARRAY"}},
}  # fmt: skip


def in_form(first: int, options: dict[str, Any]) -> bytes:
    columns = {name: pa.array([sent.get(name) for sent, _ in SENT], type) for name, type in TYPES.items()}
    return written({"id": pa.array(range(first, first + len(SENT)), pa.uint32()), **columns}, **options)


def test_values_do_not_depend_on_the_form_of_a_file(rookery: Rookery) -> None:
    """Read as a whole by the engine, and in parts."""
    first = 0
    for options in FORMS.values():
        parts = unpack(io.BytesIO(in_form(first + len(SENT), options)), 1 << 40, UNCHANGED)
        for body in (in_form(first, options), *(part.data for part in parts)):
            outcome = rookery.gateway.append("rows", body, Input.PARQUET).result(60)
            assert (outcome.quarantined, outcome.refused) == (0, 0), options
        first += 2 * len(SENT)
    shown = ", ".join(f"ifNull(toString({name}), 'NULL')" for name in TYPES)
    rows = rookery.rows(f"SELECT {shown} FROM main.rows ORDER BY id")
    rookery.run("TRUNCATE TABLE main.rows")
    size = 2 * len(SENT)
    assert len(rows) == size * len(FORMS)
    for number, form in enumerate(FORMS):
        assert rows[number * size : (number + 1) * size] == [values for _, values in SENT] * 2, form


def _in_groups(*sizes: int) -> bytes:
    """A file with row groups of these sizes."""
    table = pa.table({"id": pa.array(range(sum(sizes)), pa.uint32())})
    sink, first = io.BytesIO(), 0
    with pq.ParquetWriter(sink, table.schema) as writer:
        for size in sizes:
            writer.write_table(table.slice(first, size))
            first += size
    return sink.getvalue()


@pytest.mark.parametrize("sizes", [(), (0,), (0, 2, 0, 0, 1, 0)], ids=str)
def test_groups_without_rows(rookery: Rookery, sizes: tuple[int, ...]) -> None:
    body = _in_groups(*sizes)
    for data in (body, *(part.data for part in unpack(io.BytesIO(body), 1 << 40, UNCHANGED))):
        assert rookery.gateway.append("rows", data, Input.PARQUET).result(60).rows == sum(sizes)
    rookery.run("TRUNCATE TABLE main.rows")


class _Keys(KmsClient):
    """Keys that are kept with what they encrypt."""

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64decode(key)


@pytest.mark.parametrize("is_readable", [True, False])
def test_encrypted_files_are_refused(rookery: Rookery, is_readable: bool) -> None:
    """Also those whose metadata are readable."""
    encryption = EncryptionConfiguration("a", column_keys={"a": ["text"]}, plaintext_footer=is_readable)
    keys = CryptoFactory(lambda _: _Keys()).file_encryption_properties(KmsConnectionConfig(), encryption)
    body = written({"id": IDS, "text": pa.array(["a", "b"])}, encryption_properties=keys)
    with pytest.raises(RookeryError) as caught:
        rookery.gateway.append("rows", body, Input.PARQUET).result(60)
    assert (caught.value.code.id, caught.value.code.status) == ("RK5001", 400)
    with pytest.raises(READ_ERRORS):
        list(unpack(io.BytesIO(body), 1 << 40, UNCHANGED))
