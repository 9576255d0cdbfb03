"""The contract of every warehouse, embedded or a server: rows, documents, errors and the parser."""

from __future__ import annotations

import io

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import errors
from engine.warehouse.errors import EngineError, exceeds_own_memory, is_caused_by_rows, is_transient
from engine.warehouse.port import SINGLE_BLOCK_SETTINGS, Format, Input, Statement, Warehouse
from tests.support.reading import MANY, read, rows_of
from tests.support.warehouses import DATABASE, READERS, ROWS

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


@pytest.mark.parametrize(
    ("setting", "own"), [("max_memory_usage", True), ("max_memory_usage_for_user", False)], ids=["own", "all"]
)
def test_a_statement_that_takes_too_much_memory_differs_from_a_busy_engine(
    warehouse: Warehouse, setting: str, own: bool
) -> None:
    with pytest.raises(EngineError) as caught:
        warehouse.execute(
            "INSERT INTO FUNCTION null('n UInt64') SELECT length(range(number + 50000000)) FROM numbers(1)",
            None,
            {setting: 100_000_000},
        )
    assert caught.value.engine_code == 241
    assert exceeds_own_memory(caught.value) is is_caused_by_rows(caught.value) is own
    assert is_transient(caught.value) is not own


# --- rows in, rows out -------------------------------------------------------------------------------------------


def test_query_returns_names_types_and_python_values(warehouse: Warehouse) -> None:
    result = warehouse.query("SELECT toUInt8(1) AS a, 'x' AS b, toLowCardinality('y') AS c")
    assert (result.names, result.types) == (("a", "b", "c"), ("UInt8", "String", "LowCardinality(String)"))
    assert result.dicts() == [{"a": 1, "b": "x", "c": "y"}]


def test_an_empty_result_has_no_rows(warehouse: Warehouse) -> None:
    result = warehouse.query("SELECT toUInt8({p:UInt8}) AS a, 'x' AS b WHERE 0", {"p": 1}, {"max_threads": 1})
    assert (result.rows, result.dicts()) == ([], [])
    assert result.names in ((), ("a", "b"))
    empty = warehouse.query("SELECT toUInt8({p:UInt8}) AS a, 'x' AS b WHERE 0", {"p": 1}, {"max_threads": 1})
    assert (empty.rows, empty.dicts()) == ([], [])
    assert empty.names in ((), ("a", "b"))


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


FORMATS = [pytest.param(f, marks=[pytest.mark.soak_only] if f is Format.BARE_CSV else []) for f in Format]
"""For tests of large results, in which CSV without a header passes through the same code as CSV with one."""


# --- documents ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", Format)
def test_an_empty_result_is_a_well_formed_document(warehouse: Warehouse, format: Format) -> None:
    sql = f"SELECT n, s, d FROM {DATABASE}.many WHERE n > {{high:UInt64}}"
    document = read(warehouse, sql, format, bindings={"high": 10**9})
    assert rows_of(document, format) == []
    if format is Format.JSON:
        parsed = orjson.loads(document)
        assert [c["name"] for c in parsed["meta"]] == ["n", "s", "d"]
        assert parsed["rows"] == 0
    if format is Format.CSV:
        assert document == b'"n","s","d"\n'
    if format is Format.PARQUET:
        assert pq.read_schema(pa.BufferReader(document)).names == ["n", "s", "d"]


@pytest.mark.parametrize("format", FORMATS)
def test_large_and_small_documents_have_the_same_shape(warehouse: Warehouse, format: Format) -> None:
    large = read(warehouse, MANY, format)
    pieces = [read(warehouse, f"{MANY} LIMIT {k}, 10000", format) for k in range(0, ROWS, 10_000)]
    assert rows_of(large, format) == [row for piece in pieces for row in rows_of(piece, format)]
    if format is Format.JSON:
        document, small = orjson.loads(large), orjson.loads(pieces[0])
        assert document["meta"] == small["meta"]
        assert document["rows"] == ROWS
        assert set(document["statistics"]) == set(small["statistics"]) == {"elapsed", "rows_read", "bytes_read"}
    if format is Format.CSV:
        assert large.startswith(pieces[0].split(b"\n")[0] + b"\n")
    if format is Format.PARQUET:
        small_schema = pq.read_schema(pa.BufferReader(pieces[0]))
        assert pq.read_schema(pa.BufferReader(large)).equals(small_schema)


@pytest.mark.parametrize("format", FORMATS)
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


def test_a_statement_of_rookery_s_own_may_be_long(warehouse: Warehouse) -> None:
    """The conditions for the rows of a wide datasource are longer than the engine allows by default."""
    size = 1 << 19
    assert warehouse.query(f"SELECT length('{'x' * size}')").rows == [(size,)]


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


@pytest.mark.parametrize("format", FORMATS)
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
    functions = warehouse.functions()
    assert {"plus", "count", "throwIf"} <= functions
    assert len(functions) > 1000
