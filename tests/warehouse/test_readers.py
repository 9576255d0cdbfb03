"""Readers of every warehouse, embedded or a server: what they cannot do, and how many there are."""

from __future__ import annotations

import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest

from engine import errors
from engine.errors import RookeryError
from engine.schema import Column, Name
from engine.warehouse import ddl, handles
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.errors import EngineError
from engine.warehouse.port import Format, Statement, Warehouse
from tests.support.reading import MANY, read, rows_of
from tests.support.soak import paired
from tests.support.warehouses import DATABASE, EMPTY, READERS, ROWS

CHANGED = Name(EMPTY, "changed")


def test_engine_errors_have_their_codes(warehouse: Warehouse) -> None:
    cases = {
        "SELECT sleepEachRow(0.01) FROM numbers(1000) SETTINGS max_execution_time = 0.1, max_block_size = 1": 159,
        "SELECT groupArray(number) FROM numbers(10000000) SETTINGS max_memory_usage = 1000000": 241,
        "SELECT number FROM system.numbers LIMIT 100000 SETTINGS max_rows_to_read = 10": 158,
        f"SELECT * FROM {DATABASE}.nothere": 60,
    }
    codes = {159: errors.TIMEOUT, 241: errors.RESULT_LIMIT, 158: errors.RESULT_LIMIT, 60: errors.ENGINE}
    for sql, number in cases.items():
        with pytest.raises(EngineError) as caught:
            warehouse.query(sql)
        assert (caught.value.engine_code, caught.value.code) == (number, codes[number]), sql
    with pytest.raises(EngineError) as caught:
        warehouse.query("SELECT {p:UInt8}", {"p": "x"})
    assert (caught.value.engine_code, caught.value.code) == (457, errors.BAD_PARAMETER)


def test_a_failed_query_does_not_read_the_settings_again(embedded: EmbeddedWarehouse) -> None:
    """It retires its handle, and a new handle does not ask for the engine's 1,800 settings again."""
    counted = "SELECT value FROM system.events WHERE event = 'Query'"
    changed = "SELECT name, value FROM system.settings WHERE changed ORDER BY name"
    settings = embedded.query(changed).rows
    failures = 6
    ((before,),) = embedded.query(counted).rows
    for _ in range(failures):
        with pytest.raises(EngineError):
            embedded.query("SELECT throwIf(1)")
    ((after,),) = embedded.query(counted).rows
    # The failing query, and the three statements that set a new handle's settings.
    assert after - before <= (1 + 3) * failures + 1
    assert embedded.query(changed).rows == settings


def test_a_changed_column_does_not_wait_until_the_engine_looks_for_mutations(embedded: EmbeddedWarehouse) -> None:
    """After a merge it may look only after 30 seconds; while merges are stopped, never."""
    embedded.execute(f"CREATE TABLE {CHANGED.sql()} (a UInt8, b UInt8, c UInt8) ENGINE = MergeTree ORDER BY a")
    embedded.execute(f"INSERT INTO {CHANGED.sql()} VALUES (1, 2, 3)")
    with ThreadPoolExecutor() as pool:
        for change in (ddl.drop_column(CHANGED, "c"), ddl.modify_column(CHANGED, Column("b", "String"))):
            embedded.execute(f"SYSTEM STOP MERGES {CHANGED.sql()}")
            changed = pool.submit(embedded.execute, change)
            try:
                changed.result(20)
            finally:
                embedded.execute(f"SYSTEM START MERGES {CHANGED.sql()}")
    assert list(embedded.query(f"SELECT * FROM {CHANGED.sql()}").rows) == [(1, "2")]
    embedded.execute(ddl.drop_table(CHANGED))


# --- readers -----------------------------------------------------------------------------------------------------


CHANGES = (
    f"INSERT INTO {DATABASE}.many (n) SELECT 1",
    f"CREATE TABLE {DATABASE}.made (a UInt8) ENGINE = Memory",
    f"DROP TABLE {DATABASE}.many",
    f"ALTER TABLE {DATABASE}.many DELETE WHERE 1",
    f"TRUNCATE TABLE {DATABASE}.many",
    "SET readonly = 0",
    "SELECT 1 SETTINGS readonly = 0",
    "INSERT INTO FUNCTION file('rk_test.csv', 'CSV', 'a UInt8') SELECT 1",
    "WITH x AS (SELECT 1) INSERT INTO FUNCTION null('a UInt8') SELECT * FROM x",
    "SELECT 1 INTO OUTFILE 'rk_test.out'",
    "SELECT 1 FORMAT CSV",
    "SELECT 1; SELECT 2",
    f"SELECT 1; DROP TABLE {DATABASE}.many",
    "CREATE TEMPORARY TABLE t (a UInt8)",
    "KILL QUERY WHERE 1",
    "",
)


@pytest.mark.proves("D12")
@pytest.mark.parametrize(("sql", "format"), paired(CHANGES, (Format.NDJSON, Format.JSON)))
def test_readers_cannot_change_data(warehouse: Warehouse, sql: str, format: Format) -> None:
    with pytest.raises(RookeryError):
        read(warehouse, sql, format)
    assert warehouse.query(f"SELECT count() FROM {DATABASE}.many").rows == [(ROWS,)]
    names = warehouse.query(f"SELECT name FROM system.tables WHERE database = '{DATABASE}'").rows
    assert ("made",) not in names


@pytest.mark.proves("B3")
def test_an_unbound_name_does_not_exist(warehouse: Warehouse) -> None:
    assert orjson.loads(read(warehouse, "SELECT currentDatabase() AS d"))["d"] == EMPTY
    with pytest.raises(EngineError) as caught:
        read(warehouse, "SELECT * FROM many")
    assert caught.value.engine_code == 60
    assert DATABASE not in caught.value.message
    assert read(warehouse, f"WITH many AS (SELECT n FROM {DATABASE}.many) SELECT count() AS c FROM many")


def test_readers_run_under_the_pinned_settings(warehouse: Warehouse) -> None:
    names = "'use_query_cache', 'optimize_prewhere_after_pushdown', 'apply_prewhere_after_final', 'readonly'"
    sql = f"SELECT name, value FROM system.settings WHERE name IN ({names})"
    for format in (Format.NDJSON, Format.CSV):
        settings = dict(rows_of(read(warehouse, sql, format), format))
        assert settings == {
            "use_query_cache": "0",
            "optimize_prewhere_after_pushdown": "0",
            "apply_prewhere_after_final": "1",
            "readonly": "2",
        }


@pytest.mark.proves("B3")
@pytest.mark.parametrize("format", Format)
def test_restrictions_hold_for_large_results(warehouse: Warehouse, format: Format) -> None:
    names = ("use_query_cache", "optimize_prewhere_after_pushdown", "apply_prewhere_after_final", "readonly")
    shown = ", ".join(f"toUInt8(getSetting('{name}'))" for name in names)
    sql = f"SELECT currentDatabase() AS d, {shown}, number FROM numbers(30000) ORDER BY number"
    for _ in range(2):
        rows = rows_of(read(warehouse, sql, format), format)
        assert rows[0] == [EMPTY, "0", "0", "1", "2", "0"]
        assert rows[-1] == [EMPTY, "0", "0", "1", "2", "29999"]
    large = f"SELECT number FROM numbers(30000) WHERE number IN (SELECT n FROM {DATABASE}.many)"
    assert len(rows_of(read(warehouse, large, format), format)) == ROWS
    with pytest.raises(EngineError) as caught:
        read(warehouse, large.replace(f"{DATABASE}.many", "many"), format)
    assert caught.value.engine_code == 60


def test_concurrent_streams_do_not_mix(warehouse: Warehouse) -> None:
    def one(tenant: int) -> bool:
        sql = "SELECT {t:String} AS t, number AS n FROM numbers({upto:UInt64})"
        upto = 50_000 if tenant % 2 else 10
        document = read(warehouse, sql, Format.NDJSON, bindings={"t": f"tenant {tenant}", "upto": upto})
        lines = document.splitlines()
        return len(lines) == upto and all(b'"tenant %d"' % tenant in line for line in lines)

    with ThreadPoolExecutor(2 * READERS) as pool:
        assert all(pool.map(one, range(40)))


# --- places ------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(warehouse: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(getattr(warehouse, "_readers", warehouse), f"{_timeout_of(warehouse)}", 0.2)
    return warehouse


def _timeout_of(warehouse: Any) -> str:
    return "_timeout" if hasattr(warehouse, "_readers") else "_borrow_timeout"


def held(warehouse: Warehouse, count: int) -> list[Any]:
    streams = [warehouse.stream(Statement(MANY), Format.NDJSON) for _ in range(count)]
    for stream in streams:
        next(stream)
    return streams


def test_a_reader_gets_busy_when_the_pool_is_full(impatient: Warehouse) -> None:
    streams = held(impatient, READERS)
    with pytest.raises(EngineError) as caught:
        read(impatient, "SELECT 1")
    assert caught.value.code is errors.BUSY
    assert caught.value.headers["Retry-After"] == "1"
    # Writers have places of their own.
    assert impatient.query("SELECT 1").rows == [(1,)]
    for stream in streams:
        stream.close()
    assert read(impatient, "SELECT 1 AS a") == b'{"a":1}\n'


def test_a_stream_returns_its_handle_however_it_ends(impatient: Warehouse) -> None:
    for _ in range(2):
        for stream in held(impatient, READERS):
            stream.close()
            with pytest.raises(StopIteration):
                next(stream)
        held(impatient, READERS)  # dropped without close
        for stream in (impatient.stream(Statement(MANY), Format.JSON) for _ in range(READERS)):
            list(stream)
        for stream in (impatient.stream(Statement("SELECT nothing"), Format.JSON) for _ in range(READERS)):
            with pytest.raises(EngineError):
                next(stream)
    never_started = [impatient.stream(Statement(MANY), Format.JSON) for _ in range(2 * READERS)]
    assert len(held(impatient, READERS)) == READERS
    del never_started


def test_a_stream_can_be_closed_from_another_thread(impatient: Warehouse) -> None:
    streams = held(impatient, READERS)
    readers = [threading.Thread(target=lambda s=s: list(s)) for s in streams]
    for thread in readers:
        thread.start()
    for stream in streams:
        stream.close()
    for thread in readers:
        thread.join(10)
        assert not thread.is_alive()
    assert read(impatient, "SELECT 1 AS a")


def test_a_stream_that_waits_keeps_no_block(embedded: EmbeddedWarehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow client may wait for hours with each of its responses."""
    blocks: list[weakref.ref[Any]] = []
    copied = handles._block

    def recorded(result: Any) -> handles.Block:
        blocks.append(weakref.ref(result))
        return copied(result)

    monkeypatch.setattr(handles, "_block", recorded)
    stream = embedded.stream(Statement("SELECT repeat('x', 100) AS x FROM numbers(200000)", {}), Format.NDJSON)
    part = next(stream)
    assert len(part) > 1 << 20
    assert [block() for block in blocks] == [None]
    # This test's variable, and the argument of the call.
    assert sys.getrefcount(part) == 2
    stream.close()
