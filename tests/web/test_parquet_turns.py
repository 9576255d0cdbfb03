"""Whose Parquet files are read, and in which order: small ones at any time, large ones in turns."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from tempfile import TemporaryFile
from typing import Any, BinaryIO, cast

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import RookeryError
from engine.ingest.formats import parquet_process
from engine.ingest.formats.parquet import split_parquet
from engine.ingest.formats.parquet_process import MAX_LIST_LENGTH, Limits, unpack
from engine.ingest.formats.parquet_shapes import UNCHANGED
from engine.ingest.memory_budget import BodyMemory
from engine.ingest.values import parquet_plan
from engine.ingest.values.parquet_plan import MAX_COLUMNS, SMALL_METADATA_BYTES, plan_of
from engine.project.datasource import Datasource
from engine.project.parse import parse_source
from engine.web.parquet_reader import PARTS_PER_TURN, ParquetReader

MIB = 1 << 20
LIMITS = Limits(512 * MIB, 1 << 30)
# The address and the city take a process: a file has the one as a number in a list, and the other in a struct.
TEXT = """
columns:
  - {name: city, type: String, json: $.to.city}
  - {name: hosts, type: Array(IPv4)}
engine: {sorting_key: [city]}
"""
SOURCE = cast(Datasource, parse_source(TEXT, "datasources/visits.yaml", "visits"))
CITY = pa.array([{"city": "Bern"}])


@contextmanager
def written(table: pa.Table, **options: Any) -> Iterator[BinaryIO]:
    with TemporaryFile() as file:
        pq.write_table(table, file, **options)
        yield file


def repeated(array: pa.Array, rows: int) -> pa.Array:
    return array.take(pa.array([0] * rows))


def run_scene(scene: Callable[[ParquetReader], Awaitable[None]]) -> None:
    async def within() -> None:
        await asyncio.wait_for(scene(ParquetReader(LIMITS, anyio.CapacityLimiter(20))), 60)

    asyncio.run(within())


async def rows_of(reader: ParquetReader, file: BinaryIO, writer: str, order: list[str] | None = None) -> int:
    """The rows of a file that is read to its end. Each batch adds its writer to the order."""
    rows = 0
    async with aclosing(reader.batches(file, SOURCE, writer, BodyMemory(1 << 30).budget(writer))) as batches:
        async for batch in batches:
            rows += pq.ParquetFile(io.BytesIO(batch)).metadata.num_rows
            if order is not None:
                order.append(writer)
    return rows


async def take_large_turns(reader: ParquetReader) -> None:
    for writer in ("x", "x", "y", "y"):
        await reader.large.enter(writer)


def test_a_small_file_waits_for_no_large_one() -> None:
    async def scene(reader: ParquetReader) -> None:
        await take_large_turns(reader)
        with written(pa.table({"to": repeated(CITY, 1000)})) as file:
            assert await rows_of(reader, file, "z") == 1000

    run_scene(scene)


def test_a_file_with_more_than_it_declares_takes_a_turn_of_a_large_one() -> None:
    """Its one long text is stored once, and a list repeats it in each row."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 40, pa.int32()), pa.array(["x" * MIB]))
    lists = pa.ListArray.from_arrays(pa.array(range(41), pa.int32()), texts)

    async def scene(reader: ParquetReader) -> None:
        await take_large_turns(reader)
        with written(pa.table({"to": repeated(CITY, 40), "l": lists}), store_schema=False) as file:
            assert plan_of(file, SOURCE).is_small
            reading = asyncio.ensure_future(rows_of(reader, file, "z"))
            while not reader.large.usage().waiting:
                await asyncio.sleep(0.01)
            assert reader.small.usage().in_use == 0 and not reading.done()
            reader.large.leave("x")
            assert await reading == 40

    run_scene(scene)


@pytest.mark.parametrize("limit", ["seconds", "part_seconds"])
def test_the_time_to_read_a_file_is_limited(limit: str) -> None:
    hosts = repeated(pa.array([[1] * 1000], pa.list_(pa.int64())), 2000)
    with written(pa.table({"hosts": hosts})) as file, pytest.raises(RookeryError) as caught:
        list(split_parquet(file, LIMITS._replace(**{limit: 0}), plan_of(file, SOURCE)))
    assert caught.value.code.id == "RK5030"


def test_a_large_file_gives_its_turn_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_plan, "SMALL_ROWS_BYTES", 0)
    parts = PARTS_PER_TURN + 5
    rows = parts * parquet_process.PART_ROWS - 1

    async def scene(reader: ParquetReader) -> None:
        for writer in "xxy":
            await reader.large.enter(writer)
        order: list[str] = []
        table = pa.table({"to": repeated(CITY, rows)})
        with written(table, row_group_size=rows) as first, written(pa.table({"to": CITY})) as second:
            reading = asyncio.ensure_future(rows_of(reader, first, "a", order))
            while not order:
                await asyncio.sleep(0.01)
            assert await rows_of(reader, second, "b", order) == 1
            assert await reading == rows
        assert sorted(order) == ["a"] * parts + ["b"]
        assert order.index("b") == PARTS_PER_TURN

    run_scene(scene)


@pytest.mark.parametrize(("group_rows", "count"), [(1, 10), (4, 12), (7, 14), (25, 11), (95, 10)])
def test_reading_continues_after_any_part(monkeypatch: pytest.MonkeyPatch, group_rows: int, count: int) -> None:
    """A part has rows of one group, or those of several small ones."""
    monkeypatch.setattr(parquet_process, "PART_ROWS", 10)
    texts = pa.array([f"{n % 3}" for n in range(95)]).dictionary_encode()
    lists = pa.ListArray.from_arrays(range(96), texts)
    with written(pa.table({"n": range(95), "s": texts, "l": lists}), row_group_size=group_rows) as file:
        parts = list(unpack(file, MIB, UNCHANGED))
        tables = [pq.read_table(io.BytesIO(part.data)) for part in parts]
        rows = [(row["n"], row["s"], row["l"]) for table in tables for row in table.to_pylist()]
        assert rows == [(n, f"{n % 3}", [f"{n % 3}"]) for n in range(95)]
        assert len(tables) == count
        for number, part in enumerate(parts, 1):
            assert list(unpack(file, MIB, UNCHANGED, part.end)) == parts[number:]
        with pytest.raises(parquet_process.TotalExceeded):
            list(unpack(file, parts[-1].end.row_bytes - 1, UNCHANGED, parts[0].end))


def test_row_groups_with_large_values_are_not_read_together() -> None:
    texts = [f"{n}" * (parquet_process.RUN_BYTES // 5) for n in range(8)]
    with written(pa.table({"s": texts}), row_group_size=1, use_dictionary=False) as file:
        parts = list(unpack(file, 1 << 30, UNCHANGED))
    assert [pq.ParquetFile(io.BytesIO(part.data)).metadata.num_rows for part in parts] == [4, 4]


def test_large_metadata_are_read_one_after_the_other() -> None:
    table = pa.table({"to": CITY})

    async def scene(reader: ParquetReader) -> None:
        await reader.metadata.enter("x")
        with written(table.replace_schema_metadata({"k": "x" * SMALL_METADATA_BYTES})) as file:
            reading = asyncio.ensure_future(rows_of(reader, file, "z"))
            with written(table) as other:
                assert await rows_of(reader, other, "z") == 1
            assert reader.metadata.usage().waiting == 1 and not reading.done()
            reader.metadata.leave("x")
            assert await reading == 1

    run_scene(scene)


def with_empty_chunks(groups: int, columns: int) -> bytes:
    """A file whose row groups list empty chunks: three bytes each, and more than 600 in memory."""
    lengths = [bytes([n & 127 | 128, n >> 7 & 127 | 128, n >> 14]) for n in (groups, columns)]
    group = b"\x19\xfc" + lengths[1] + b"\x26\0\0" * columns + b"\x16\0\x16\0\0"
    schema = b"\x19\x2c\x48\1r\x15\2\0\x15\2\x25\2\x18\1a\0"
    metadata = b"\x15\2" + schema + b"\x16\0\x19\xfc" + lengths[0] + group * groups + b"\0"
    return b"PAR1" + metadata + len(metadata).to_bytes(4, "little") + b"PAR1"


def test_metadata_that_take_much_memory_are_refused_by_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan_here(*_: object) -> None:
        raise AssertionError("this process has read them")

    async def scene(_: ParquetReader) -> None:
        reader = ParquetReader(LIMITS._replace(memory=100 * MIB), anyio.CapacityLimiter(20))
        with TemporaryFile() as file:
            file.write(with_empty_chunks(40, 10_000))
            with pytest.raises(RookeryError) as caught:
                await rows_of(reader, file, "z")
            assert caught.value.code.id == "RK5030"

    assert plan_of(io.BytesIO(with_empty_chunks(1, 1)), SOURCE).is_small
    monkeypatch.setattr("engine.web.parquet_reader.plan_of", plan_here)
    run_scene(scene)


@pytest.mark.parametrize("count", [MAX_LIST_LENGTH - 2, MAX_LIST_LENGTH])
def test_too_many_columns_are_refused_with_a_hint(count: int) -> None:
    """Metadata that are not small are read in a process first."""

    async def scene(reader: ParquetReader) -> None:
        with TemporaryFile() as file:
            file.write(with_columns(count))
            with pytest.raises(RookeryError) as caught:
                await rows_of(reader, file, "z")
        assert caught.value.code.id == "RK5030" and "columns" in caught.value.message

    assert len(with_columns(count)) > SMALL_METADATA_BYTES
    run_scene(scene)


def test_the_plan_of_many_columns_is_longer_than_a_command_line() -> None:
    names = [f"{'long' * 20}_{n}" for n in range(600)]
    columns = "".join(f"  - {{name: {name}, type: UInt32, json: $.to.{name}}}\n" for name in names)
    source = parse_source(f"columns:\n{columns}engine: {{sorting_key: [{names[0]}]}}\n", "datasources/w.yaml", "w")
    with written(pa.table({"to": pa.array([dict.fromkeys(names, 1)])})) as file:
        plan = plan_of(file, cast(Datasource, source))
        assert len(plan.as_json()) > 128 << 10
        (part,) = split_parquet(file, LIMITS, plan)
    assert pq.ParquetFile(io.BytesIO(part.data)).schema_arrow.names == names


def test_parts_do_not_repeat_the_metadata_of_their_file() -> None:
    table = pa.table({"to": CITY}).replace_schema_metadata({"k": "x" * SMALL_METADATA_BYTES})
    with written(table) as file:
        (part,) = unpack(file, MIB, UNCHANGED)
    assert len(part.data) < 10_000


def with_columns(count: int) -> bytes:
    """The smallest file with a number of columns: only metadata, in Thrift's compact protocol."""
    varint = [bytes([n & 127 | 128, n >> 7 & 127 | 128, n >> 14]) for n in (count + 1, 2 * count)]
    root, column = b"\x48\x01r\x15" + varint[1] + b"\0", b"\x15\2\x25\2\x18\1a\0"
    metadata = b"\x15\2\x19\xfc" + varint[0] + root + column * count + b"\x16\0\x19\x0c\0"
    return b"PAR1" + metadata + len(metadata).to_bytes(4, "little") + b"PAR1"


@pytest.mark.parametrize("count", [MAX_COLUMNS + 1, MAX_LIST_LENGTH])
def test_a_file_with_too_many_columns_is_refused(count: int) -> None:
    """Some of them are refused before memory is taken for each."""
    allowed = plan_of(io.BytesIO(with_columns(MAX_COLUMNS)), SOURCE)
    assert allowed.is_small
    with pytest.raises(RookeryError) as caught:
        plan_of(io.BytesIO(with_columns(count)), SOURCE)
    assert caught.value.code.id == "RK5030" and "columns" in caught.value.message
    assert ("more than" in caught.value.message) == (count == MAX_LIST_LENGTH)
