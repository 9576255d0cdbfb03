"""The contract of every warehouse, embedded or a server."""

from __future__ import annotations

import csv
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import errors
from engine.errors import RookeryError
from engine.warehouse.errors import EngineError
from engine.warehouse.port import SINGLE_BLOCK_SETTINGS, Format, Input, Statement, Warehouse
from tests.support.warehouses import DATABASE, EMPTY, READERS, ROWS

MANY = f"SELECT * FROM {DATABASE}.many ORDER BY n"


def read(warehouse: Warehouse, sql: str, format: Format = Format.NDJSON, **rest: Any) -> bytes:
    stream = warehouse.stream(Statement(sql, **rest), format)
    try:
        return b"".join(stream)
    finally:
        stream.close()


def rows_of(document: bytes, format: Format) -> list[list[str]]:
    """Every row's values as text, whatever the format."""
    if format is Format.JSON:
        return [[str(v) for v in row.values()] for row in orjson.loads(document)["data"]]
    if format is Format.NDJSON:
        return [[str(v) for v in orjson.loads(line).values()] for line in document.split(b"\n") if line]
    if format in (Format.CSV, Format.BARE_CSV):
        return list(csv.reader(io.StringIO(document.decode(), newline="")))[format is Format.CSV :]
    table = pq.read_table(pa.BufferReader(document))
    return [[str(v) for v in row.values()] for row in table.to_pylist()]


# --- plans -------------------------------------------------------------------------------------------------------


def test_a_plan_names_the_table_and_its_indexes(warehouse: Warehouse) -> None:
    statement = Statement(
        f"SELECT n FROM {DATABASE}.many WHERE n > {{p:UInt64}}", {"p": 5}, {"max_execution_time": "5"}, id="rk_plan"
    )
    plan = orjson.dumps(warehouse.plan(statement)).decode()
    assert f'"{DATABASE}.many"' in plan
    assert '"Selected Granules"' in plan


@pytest.mark.parametrize(
    "sql", ["DROP TABLE {}.many", "SELECT 1 INTO OUTFILE 'x'", "SELECT 1; SELECT 2", "AST SELECT 1"]
)
def test_only_a_select_has_a_plan(warehouse: Warehouse, sql: str) -> None:
    with pytest.raises(EngineError) as caught:
        warehouse.plan(Statement(sql.format(DATABASE)))
    assert caught.value.code is errors.SQL_SYNTAX


def test_the_peak_memory_of_a_query_follows_what_it_aggregates(warehouse: Warehouse) -> None:
    sizes = [
        warehouse.peak_memory(Statement(f"SELECT number, count() FROM numbers({n}) GROUP BY number", id="rk_memory"))
        for n in (10, 1_000_000)
    ]
    assert None not in sizes
    small, large = (size or 0 for size in sizes)
    assert 0 < small < large
    assert large > 16_000_000, "at least the keys and the counts"


def test_measuring_memory_raises_the_errors_of_the_query(warehouse: Warehouse) -> None:
    with pytest.raises(EngineError) as caught:
        warehouse.peak_memory(Statement("SELECT throwIf(number = 5, 'five') FROM numbers(10)"))
    assert caught.value.engine_code == 395


# --- rows in, rows out -------------------------------------------------------------------------------------------


def test_query_returns_names_types_and_python_values(warehouse: Warehouse) -> None:
    found = warehouse.query("SELECT toUInt8(1) AS a, 'x' AS b, toLowCardinality('y') AS c")
    assert (found.names, found.types) == (("a", "b", "c"), ("UInt8", "String", "LowCardinality(String)"))
    assert found.dicts() == [{"a": 1, "b": "x", "c": "y"}]


def test_an_empty_result_has_no_rows(warehouse: Warehouse) -> None:
    result = warehouse.query("SELECT toUInt8({p:UInt8}) AS a, 'x' AS b WHERE 0", {"p": 1}, {"max_threads": 1})
    assert (result.rows, result.dicts()) == ([], [])
    assert result.names in ((), ("a", "b"))
    found = warehouse.query("SELECT toUInt8({p:UInt8}) AS a, 'x' AS b WHERE 0", {"p": 1}, {"max_threads": 1})
    assert (found.rows, found.dicts()) == ([], [])
    assert found.names in ((), ("a", "b"))


@pytest.mark.parametrize("format", Input)
def test_insert_reads_every_format(warehouse: Warehouse, format: Input) -> None:
    table = f"{DATABASE}.`in {format.name}`"
    warehouse.execute(f"CREATE TABLE {table} (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", "y\n'"]}), sink)
    data = {
        Input.NDJSON: b'{"a": 1, "b": "x"}\n{"b": "y\\n\'", "a": 2}\n',
        Input.CSV: b'"a","b"\n1,"x"\n2,"y\n\'"\n',
        Input.PARQUET: sink.getvalue(),
    }[format]
    assert warehouse.insert(table, data, format) == 2
    assert warehouse.insert(table, iter([data[:9], data[9:]]), format, ("a", "b"), {"async_insert": 0}) == 2
    expected = [(1, "x"), (1, "x"), (2, "y\n'"), (2, "y\n'")]
    assert warehouse.query(f"SELECT a, b FROM {table} ORDER BY a").rows == expected


def test_insert_of_a_bad_row_stores_nothing(warehouse: Warehouse) -> None:
    warehouse.execute(f"CREATE TABLE {DATABASE}.bad (a UInt64) ENGINE = MergeTree ORDER BY a")
    with pytest.raises(EngineError) as caught:
        warehouse.insert(f"{DATABASE}.bad", b'{"a": 1}\n{"a": "no"}\n', Input.NDJSON)
    assert caught.value.code is errors.ENGINE
    assert caught.value.engine_code is not None
    assert warehouse.query(f"SELECT count() FROM {DATABASE}.bad").rows == [(0,)]


def test_an_insert_token_deduplicates_a_strict_insert(warehouse: Warehouse) -> None:
    warehouse.execute(
        f"CREATE TABLE {DATABASE}.once (a UInt64) ENGINE = MergeTree ORDER BY a "
        "SETTINGS non_replicated_deduplication_window = 100"
    )
    data = b"".join(b'{"a": %d}\n' % n for n in range(5000))
    for token in ("t1", "t1", "t2"):
        settings = {**SINGLE_BLOCK_SETTINGS, "insert_deduplication_token": token, "async_insert": 0}
        warehouse.insert(f"{DATABASE}.once", data, Input.NDJSON, (), settings)
        sql = f"INSERT INTO {DATABASE}.once SELECT number FROM numbers(300000)"
        warehouse.execute(sql, settings={**SINGLE_BLOCK_SETTINGS, "insert_deduplication_token": f"select {token}"})
    assert warehouse.query(f"SELECT count() FROM {DATABASE}.once").rows == [(2 * 5000 + 2 * 300_000,)]


# --- documents ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", Format)
def test_an_empty_result_is_a_well_formed_document(warehouse: Warehouse, format: Format) -> None:
    sql = f"SELECT n, s, d FROM {DATABASE}.many WHERE n > {{high:UInt64}}"
    document = read(warehouse, sql, format, bindings={"high": 10**9})
    assert rows_of(document, format) == []
    if format is Format.JSON:
        found = orjson.loads(document)
        assert [c["name"] for c in found["meta"]] == ["n", "s", "d"]
        assert found["rows"] == 0
    if format is Format.CSV:
        assert document == b'"n","s","d"\n'
    if format is Format.PARQUET:
        assert pq.read_schema(pa.BufferReader(document)).names == ["n", "s", "d"]


@pytest.mark.parametrize("format", Format)
def test_large_and_small_documents_have_the_same_shape(warehouse: Warehouse, format: Format) -> None:
    large = read(warehouse, MANY, format)
    pieces = [read(warehouse, f"{MANY} LIMIT {k}, 10000", format) for k in range(0, ROWS, 10_000)]
    assert rows_of(large, format) == [row for piece in pieces for row in rows_of(piece, format)]
    if format is Format.JSON:
        found, small = orjson.loads(large), orjson.loads(pieces[0])
        assert found["meta"] == small["meta"]
        assert found["rows"] == ROWS
        assert set(found["statistics"]) == set(small["statistics"]) == {"elapsed", "rows_read", "bytes_read"}
    if format is Format.CSV:
        assert large.startswith(pieces[0].split(b"\n")[0] + b"\n")
    if format is Format.PARQUET:
        small_schema = pq.read_schema(pa.BufferReader(pieces[0]))
        assert pq.read_schema(pa.BufferReader(large)).equals(small_schema)


@pytest.mark.parametrize("format", Format)
def test_a_statement_with_a_large_result_can_return_an_empty_one_later(warehouse: Warehouse, format: Format) -> None:
    sql = f"SELECT n, s, d, t, o FROM {DATABASE}.many WHERE n < {{upto:UInt64}} ORDER BY n"
    for upto in (ROWS, 0, 3):
        document = read(warehouse, sql, format, bindings={"upto": upto})
        assert len(rows_of(document, format)) == upto
    if format is Format.PARQUET:
        empty = read(warehouse, sql, format, bindings={"upto": 0})
        assert pq.read_schema(pa.BufferReader(empty)).equals(pq.read_schema(pa.BufferReader(document)))


def test_settings_apply_after_a_trailing_comment(warehouse: Warehouse) -> None:
    with pytest.raises(EngineError) as caught:
        read(warehouse, "SELECT number FROM numbers(100) -- all of them", settings={"max_result_rows": 10})
    assert (caught.value.code, caught.value.engine_code) == (errors.RESULT_LIMIT, 396)


@pytest.mark.parametrize(
    "settings", [{"max_result_rows": 28_000}, {"max_result_bytes": 9_000_000}, {"max_result_rows": 10}]
)
def test_result_limits_of_a_statement_hold_at_every_size(
    warehouse: Warehouse, settings: dict[str, int | str]
) -> None:
    for _ in range(2):
        with pytest.raises(EngineError) as caught:
            wide = f"SELECT *, repeat(x, 20) AS y FROM {DATABASE}.many -- {settings}"
            read(warehouse, wide, Format.JSON, settings=settings)
        assert (caught.value.code, caught.value.engine_code) == (errors.RESULT_LIMIT, 396)


def test_a_setting_whose_name_is_sql_is_refused(warehouse: Warehouse) -> None:
    with pytest.raises(EngineError):
        read(warehouse, "SELECT 1", settings={"max_threads = 1, readonly": 0})


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", Format)
def test_an_error_is_raised_at_the_first_chunk(warehouse: Warehouse, format: Format) -> None:
    stream = warehouse.stream(Statement(f"SELECT nothing FROM {DATABASE}.many"), format)
    with pytest.raises(EngineError) as caught:
        next(stream)
    stream.close()
    stream.close()
    assert caught.value.engine_code == 47
    assert "In scope" not in caught.value.message
    assert "nothing" in caught.value.message
    assert caught.value.detail


@pytest.mark.parametrize("format", Format)
def test_a_late_error_is_raised_instead_of_ending_the_stream(warehouse: Warehouse, format: Format) -> None:
    sql = "SELECT number, throwIf(number = 400000, 'late') FROM numbers(500000)"
    settings: dict[str, int | str] = {"max_threads": 1, "max_block_size": 1000}
    for _ in range(2):
        with pytest.raises(EngineError) as caught:
            read(warehouse, sql, format, settings=settings)
        assert caught.value.engine_code == 395
        assert "late" in caught.value.message


@pytest.mark.proves("D9")
@pytest.mark.parametrize("code", [395, 159, 241, 396])
def test_output_of_a_failed_read_never_reaches_the_next_result(warehouse: Warehouse, code: int) -> None:
    secret = "concat('SECRET', toString(number))"
    sql, settings = {
        395: (f"SELECT {secret}, throwIf(number = 20000) FROM numbers(24000)", {"max_block_size": 100}),
        159: (f"SELECT {secret}, sleepEachRow(0.001) FROM numbers(9000)", {"max_execution_time": "0.2"}),
        241: (f"SELECT {secret}, repeat('x', number) FROM numbers(24000)", {"max_memory_usage": 30_000_000}),
        396: (f"SELECT {secret} FROM numbers(20000)", {"max_result_rows": 15_000}),
    }[code]
    limits: dict[str, int | str] = {"max_threads": 1, "max_block_size": 500, **settings}
    for _ in range(2 * READERS):
        with pytest.raises(EngineError) as caught:
            read(warehouse, sql, Format.CSV, settings=limits)
        assert caught.value.engine_code == code
        for format in Format:
            assert b"SECRET" not in read(warehouse, "SELECT 'tenant b' AS who", format)
        assert warehouse.query("SELECT 'tenant b' AS who").rows == [("tenant b",)]
        if code == 159:
            break


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


# --- readers -----------------------------------------------------------------------------------------------------


@pytest.mark.proves("D12")
@pytest.mark.parametrize(
    "sql",
    [
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
    ],
)
@pytest.mark.parametrize("format", [Format.NDJSON, Format.JSON])
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
        found = dict(rows_of(read(warehouse, sql, format), format))
        assert found == {
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
        found = rows_of(read(warehouse, sql, format), format)
        assert found[0] == [EMPTY, "0", "0", "1", "2", "0"]
        assert found[-1] == [EMPTY, "0", "0", "1", "2", "29999"]
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


# --- the parser --------------------------------------------------------------------------------------------------


def test_parse_returns_the_tree_and_the_canonical_text(warehouse: Warehouse) -> None:
    tree, text = warehouse.parse("select  a as B -- why\nfrom t where s='it''s'\n;")
    assert text == "SELECT a AS B FROM t WHERE s = 'it\\'s'"
    assert tree["type"] == "SelectWithUnionQuery"
    assert warehouse.format(tree) == text
    assert warehouse.parse(text)[1] == text


@pytest.mark.parametrize(
    ("sql", "place"),
    [
        ("SELECT 1 +\n FROM WHERE", "2:"),
        ("SELECT 1; SELECT 2", "1:9"),
        ("SELECT (1", "1:"),
        ("SELECT 'a", "1:8"),
        ("", ""),
        ("-- nothing", ""),
        ("INSERT INTO t VALUES (1)", ""),
        ("INSERT INTO t SELECT 1", ""),
        ("CREATE TABLE t (a UInt8) ENGINE = Memory", ""),
        ("SHOW TABLES", ""),
        ("EXPLAIN SELECT 1", ""),
        ("SET a = 1", ""),
        ("DESCRIBE t", ""),
        ("SELECT 1\0", ""),
        ("SELECT '\ud800'", ""),
        ("SELECT " + "(" * 2000 + "1" + ")" * 2000, ""),
        ("SELECT " + "INTERVAL (" * 300 + "1" + ")" * 300, ""),
        ("SELECT 1" + " " * 65_536, ""),
    ],
)
def test_parse_refuses_other_texts(warehouse: Warehouse, sql: str, place: str) -> None:
    with pytest.raises(EngineError) as caught:
        warehouse.parse(sql)
    assert caught.value.code is errors.SQL_SYNTAX
    assert "parseQueryToJSON" not in str(caught.value)
    if place:
        assert str(caught.value.place).startswith(place)


def test_functions_lists_the_functions_of_the_engine(warehouse: Warehouse) -> None:
    found = warehouse.functions()
    assert {"plus", "count", "throwIf"} <= found
    assert len(found) > 1000
