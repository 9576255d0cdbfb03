"""Created objects read back as their definitions; objects of other programs are ignored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from engine.schema import Column, Index, Mark, Name, Table, View, nest_database, quote
from engine.warehouse import ddl
from engine.warehouse.catalog import foreign_objects, read_schema
from engine.warehouse.port import Warehouse

WS = "rkcat"
NEST = nest_database(WS, "Tenant é'`")


def mark(resource: str, kind: str = "datasource", **rest: str) -> Mark:
    return Mark(WS, resource, kind, **rest)


AWKWARD = Table(
    Name(WS, "a `b\\'"),
    (
        Column("a b", "UInt64", "DEFAULT", "1 + 1", "CODEC(Delta(8), ZSTD(3))", "it's `a` \\ (comment), one"),
        Column("s`", "LowCardinality(String)"),
        Column("d", "Date", "MATERIALIZED", "toDate(substring('2020-01-01, PARTITION BY', 1, 10))"),
        Column("e", "UInt8", "ALIAS", "`s``` = 'x'".replace("```", "\\``")),
        Column("j", "JSON"),
        Column("en", "Enum8('a\\'b' = 1, 'c, d' = 2)"),
    ),
    engine="ReplacingMergeTree(`a b`)",
    sorting_key="(`a b`, `s\\``)",
    partition_key="toYYYYMM(d)",
    primary_key="`a b`",
    sampling_key="`a b`",
    ttl="d + toIntervalDay(30) WHERE `s\\`` = ' SETTINGS x = 1, COMMENT '",
    settings=(
        ("enable_block_number_column", "1"),
        ("enable_block_offset_column", "1"),
        ("index_granularity", "4096"),
        ("part_minmax_index_columns", "'with_block_number_offset'"),
    ),
    indexes=(Index("ix", "`s\\``", "bloom_filter(0.01)", 4), Index("iy", "(`a b`, d)", "minmax", 1)),
    constraints=(("c `1`", "`a b` > 0"), ("c2", "`s\\`` != ', CONSTRAINT y CHECK z'")),
    mark=mark("a", description="Ünïcode, 'quotes', \\ and {braces: 1}"),
)
PLAIN = Table(Name(WS, "plain"), (Column("a", "UInt8"),), sorting_key="tuple()", mark=mark("plain"))
NULL_TABLE = Table(Name(WS, "null_table"), (Column("a", "UInt8"),), engine="Null", mark=mark("null_table"))
COPY = Table(
    Name(NEST, "copy"), (Column("a", "UInt8"),), sorting_key="a", mark=mark("copy", "nest", tenant="Tenant é'`")
)
SUMS = Table(
    Name(NEST, "sums"),
    (Column("k", "String"), Column("n", "UInt64"), Column("c", "AggregateFunction(count)")),
    engine="SummingMergeTree(n)",
    sorting_key="k",
    mark=mark("sums", "nest", tenant="Tenant é'`"),
)
TABLES = (AWKWARD, PLAIN, NULL_TABLE, COPY, SUMS)
VIEWS = (
    # Named against the order of data flow.
    View(
        Name(WS, "z_first"),
        NULL_TABLE.name,
        AWKWARD.name,
        f"SELECT toUInt8(`a b`) AS a FROM {WS}.`a \\`b\\\\'`",
        ("a",),
        mark=mark("z_first", "view", fingerprint="f1"),
    ),
    View(
        Name(WS, "m_second"),
        COPY.name,
        NULL_TABLE.name,
        f"SELECT a FROM {WS}.null_table",
        ("a",),
        mark=mark("m_second", "view", fingerprint="f2"),
    ),
    View(
        Name(NEST, "a_third"),
        SUMS.name,
        COPY.name,
        f"SELECT toString(a) AS k, count() AS n, countState() AS c FROM {quote(NEST)}.copy GROUP BY k",
        ("k", "n", "c"),
        mark=mark("a_third", "view", fingerprint="f3"),
    ),
)


@pytest.fixture
def catalog(warehouse: Warehouse) -> Iterator[Warehouse]:
    _create(warehouse)
    yield warehouse
    for database in (WS, NEST, WS + "_nest_foreign", WS + "2"):
        warehouse.execute(ddl.drop_database(database))


def _create(warehouse: Warehouse) -> None:
    for database in (WS, NEST):
        warehouse.execute(ddl.create_database(database))
    for table in TABLES:
        warehouse.execute(ddl.create_table(table))
    for view in VIEWS:
        warehouse.execute(ddl.create_view(view))


def test_created_objects_are_read_back_as_defined(catalog: Warehouse) -> None:
    _create(catalog)  # It changes nothing.
    schema = read_schema(catalog, WS)
    assert schema.databases == {WS, NEST}
    for table in TABLES:
        assert schema.tables[table.name] == table
    assert len(schema.tables) == len(TABLES)
    assert [v.name for v in schema.views.values()] == [v.name for v in VIEWS]
    for view in VIEWS:
        live = schema.views[view.name]
        assert replace(live, sql="") == replace(view, sql="")
    assert schema.views[VIEWS[1].name].sql == VIEWS[1].sql


def test_views_deliver_rows(catalog: Warehouse) -> None:
    catalog.execute(f"INSERT INTO {AWKWARD.name.sql()} (`a b`, `s\\``) VALUES (7, 'x'), (8, 'y')")
    assert catalog.query(f"SELECT k, n FROM {SUMS.name.sql()} ORDER BY k").rows == [("7", 1), ("8", 1)]


def test_an_altered_table_reads_like_a_created_one(catalog: Warehouse) -> None:
    column = Column("later", "DateTime", "DEFAULT", "now()", "CODEC(ZSTD(1))", "added")
    for _ in range(2):
        catalog.execute(ddl.add_column(PLAIN.name, column))
        catalog.execute(ddl.add_column(PLAIN.name, Column("between", "String"), after="a"))
    catalog.execute(ddl.modify_ttl(PLAIN.name, "later + toIntervalDay(1)"))
    catalog.execute(ddl.modify_setting(PLAIN.name, "merge_with_ttl_timeout", "3600"))
    catalog.execute(ddl.comment(PLAIN.name, mark("plain", description="now with words")))
    expected = replace(
        PLAIN,
        columns=(*PLAIN.columns, Column("between", "String"), column),
        ttl="later + toIntervalDay(1)",
        settings=(("merge_with_ttl_timeout", "3600"),),
        mark=mark("plain", description="now with words"),
    )
    assert read_schema(catalog, WS).tables[PLAIN.name] == expected
    twin = replace(expected, name=Name(WS, "twin"))
    catalog.execute(ddl.create_table(twin))
    assert read_schema(catalog, WS).tables[twin.name] == twin
    catalog.execute(ddl.modify_ttl(PLAIN.name, ""))
    catalog.execute(ddl.modify_column(PLAIN.name, replace(column, type="DateTime64(3)")))
    for _ in range(2):
        catalog.execute(ddl.drop_column(PLAIN.name, "between"))
    table = read_schema(catalog, WS).tables[PLAIN.name]
    assert (table.ttl, [c.type for c in table.columns]) == ("", ["UInt8", "DateTime64(3)"])


def test_the_default_granularity_is_not_a_setting(catalog: Warehouse) -> None:
    table = replace(PLAIN, name=Name(WS, "granular"), settings=(("index_granularity", "8192"),))
    catalog.execute(ddl.create_table(table))
    assert read_schema(catalog, WS).tables[table.name] == replace(table, settings=())


def test_foreign_objects_are_ignored(catalog: Warehouse) -> None:
    foreign = Name(WS, "foreign")
    catalog.execute(f"CREATE TABLE {foreign.sql()} (a UInt8) ENGINE = Memory COMMENT 'about rookery'")
    catalog.execute(ddl.create_table(replace(PLAIN, name=Name(WS, "other"), mark=Mark("else", "x", "datasource"))))
    catalog.execute(f"CREATE DATABASE {WS}_nest_foreign")
    catalog.execute(ddl.create_database(WS + "2"))
    schema = read_schema(catalog, WS)
    assert schema.databases == {WS, NEST}
    assert set(schema.tables) == {t.name for t in TABLES}
    assert foreign_objects(catalog, [foreign, PLAIN.name, VIEWS[0].name, Name(WS, "nothing")]) == {foreign}
    assert foreign_objects(catalog, []) == set()


def test_a_view_without_its_source_is_read(catalog: Warehouse) -> None:
    catalog.execute(ddl.drop_table(AWKWARD.name))
    view = read_schema(catalog, WS).views[VIEWS[0].name]
    assert (view.source, view.target) == (Name("", ""), NULL_TABLE.name)
    for _ in range(2):
        catalog.execute(ddl.drop_view(view.name))
    assert view.name not in read_schema(catalog, WS).views


def test_many_tables_are_read_in_a_few_queries(catalog: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(60):
        catalog.execute(ddl.create_table(replace(PLAIN, name=Name(WS, f"t{n}"))))
    schema = read_schema(catalog, WS)
    assert len(schema.tables) == 60 + len(TABLES)
    queries = []
    real = catalog.query
    monkeypatch.setattr(catalog, "query", lambda *args: queries.append(args) or real(*args))
    assert read_schema(catalog, WS) == schema
    assert len(queries) < 10
    assert foreign_objects(catalog, schema.tables) == set()


def test_a_missing_database_is_an_empty_schema(warehouse: Warehouse) -> None:
    schema = read_schema(warehouse, "rknothing")
    assert (schema.databases, dict(schema.tables), dict(schema.views)) == (frozenset(), {}, {})
