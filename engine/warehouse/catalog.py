"""What exists in the database and is ours, read into the types of `engine.schema` in four queries.

Texts are the engine's own canonical ones, so two tables made from one definition compare equal, and so does one that
got a column later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from engine.schema import Column, Index, Mark, Name, Schema, Table, View
from engine.warehouse.clauses import as_expression, read_clauses, read_constraints, read_target
from engine.warehouse.port import Value, Warehouse

_OURS = "(database = {w:String} OR startsWith(database, concat({w:String}, '_nest')))"

_DATABASES = """SELECT name, comment FROM system.databases
WHERE name = {w:String} OR startsWith(name, concat({w:String}, '_nest'))"""
_TABLES = f"""SELECT database, name, engine, engine_full, create_table_query, as_select, comment
FROM system.tables WHERE {_OURS} AND position(comment, 'rookery') > 0 ORDER BY database, name"""
_COLUMNS = f"""SELECT database, table, name, type, default_kind, default_expression, compression_codec, comment
FROM system.columns WHERE {_OURS} ORDER BY database, table, position"""
_INDEXES = f"""SELECT database, table, name, expr, type_full, granularity
FROM system.data_skipping_indices WHERE {_OURS}"""
_SOURCES = """SELECT d, v, database, name FROM system.tables
ARRAY JOIN dependencies_database AS d, dependencies_table AS v
WHERE d = {w:String} OR startsWith(d, concat({w:String}, '_nest'))"""


def read_schema(warehouse: Warehouse, workspace: str) -> Schema:
    """Everything with this workspace's mark, in its database and nests. Views are in order of data flow."""
    bindings = {"w": workspace}
    columns = _columns(warehouse, bindings)
    indexes = _indexes(warehouse, bindings)
    sources = {Name(d, v): Name(sd, s) for d, v, sd, s in warehouse.query(_SOURCES, bindings).rows}
    tables: list[Table] = []
    views: list[View] = []
    for row in warehouse.query(_TABLES, bindings).dicts():
        mark = Mark.read(row["comment"])
        if mark is None or mark.workspace != workspace:
            continue
        name = Name(row["database"], row["name"])
        if row["engine"] == "MaterializedView":
            views.append(_view(name, row, mark, sources, columns[name]))
        else:
            tables.append(_table(name, row, mark, columns[name], indexes[name]))
    databases = {workspace: "", **dict.fromkeys((t.name.database for t in tables), "")}
    found = dict(warehouse.query(_DATABASES, bindings).rows)
    ours = {name for name, comment in found.items() if name in databases or _is_of(comment, workspace)}
    return Schema.of(ours, tables, _in_order(views))


def occupied(warehouse: Warehouse, names: Iterable[Name]) -> set[Name]:
    """Which of these names exist without a mark of ours."""
    wanted = set(names)
    if not wanted:
        return set()
    databases: list[Value] = [*sorted({n.database for n in wanted})]
    tables: list[Value] = [*sorted({n.name for n in wanted})]
    found = warehouse.query(
        "SELECT database, name, comment FROM system.tables "
        "WHERE has({databases:Array(String)}, database) AND has({names:Array(String)}, name)",
        {"databases": databases, "names": tables},
    )
    foreign = {Name(database, name) for database, name, comment in found.rows if Mark.read(comment) is None}
    return wanted & foreign


def _is_of(comment: str, workspace: str) -> bool:
    mark = Mark.read(comment)
    return mark is not None and mark.workspace == workspace


def _columns(warehouse: Warehouse, bindings: Mapping[str, str]) -> defaultdict[Name, list[Column]]:
    found: defaultdict[Name, list[Column]] = defaultdict(list)
    for database, table, *column in warehouse.query(_COLUMNS, bindings).rows:
        found[Name(database, table)].append(Column(*column))
    return found


def _indexes(warehouse: Warehouse, bindings: Mapping[str, str]) -> defaultdict[Name, list[Index]]:
    found: defaultdict[Name, list[Index]] = defaultdict(list)
    for database, table, name, expression, kind, granularity in warehouse.query(_INDEXES, bindings).rows:
        found[Name(database, table)].append(Index(name, as_expression(expression), kind, granularity))
    return found


def _table(name: Name, row: Mapping[str, Any], mark: Mark, columns: list[Column], indexes: list[Index]) -> Table:
    clauses = read_clauses(row["engine_full"])
    return Table(
        name=name,
        columns=tuple(columns),
        engine=clauses.engine,
        sorting_key=clauses.sorting_key,
        partition_key=clauses.partition_key,
        primary_key=clauses.primary_key,
        sampling_key=clauses.sampling_key,
        ttl=clauses.ttl,
        settings=clauses.settings,
        indexes=tuple(indexes),
        constraints=read_constraints(row["create_table_query"]),
        mark=mark,
    )


def _view(
    name: Name, row: Mapping[str, Any], mark: Mark, sources: Mapping[Name, Name], columns: list[Column]
) -> View:
    nowhere = Name("", "")
    return View(
        name=name,
        target=read_target(row["create_table_query"]) or nowhere,
        # The engine knows which table's inserts wake a view; a view whose source was dropped has none.
        source=sources.get(name, nowhere),
        sql=row["as_select"],
        columns=tuple(c.name for c in columns),
        mark=mark,
    )


def _in_order(views: Iterable[View]) -> list[View]:
    """Views in order of data flow: one that fills a table before those that read it."""
    waiting = list(views)
    ordered: list[View] = []
    while waiting:
        filled = {v.target for v in waiting}
        ready = [v for v in waiting if v.source not in filled] or waiting
        ordered.extend(ready)
        done = {v.name for v in ready}
        waiting = [v for v in waiting if v.name not in done]
    return ordered
