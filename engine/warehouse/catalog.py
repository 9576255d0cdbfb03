"""Reads the objects of a workspace from the database into the types of `engine.schema`.

All SQL is in the engine's canonical form. So two tables with the same definition compare equal, even if some columns
of one of them were added later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.schema import Column, Index, Mark, Name, Schema, Table, View, quote
from engine.warehouse.clauses import as_expression, read_clauses, read_constraints, read_target
from engine.warehouse.ddl import is_nest
from engine.warehouse.part_names import parts_in, replaced_parts
from engine.warehouse.port import Value, Warehouse

_WORKSPACE = "({0} = {{w:String}} OR startsWith({0}, concat({{w:String}}, '_nest')))"
_NAMED = "{0} IN {{databases:Array(String)}}"

_DATABASES = "SELECT name, comment FROM system.databases WHERE "
_TABLES = """SELECT database, name, engine, engine_full, create_table_query, as_select, comment
FROM system.tables WHERE %s AND position(comment, 'rookery') > 0 ORDER BY database, name"""
_COLUMNS = """SELECT database, table, name, type, default_kind, default_expression, compression_codec, comment
FROM system.columns WHERE %s ORDER BY database, table, position"""
_INDEXES = """SELECT database, table, name, expr, type_full, granularity
FROM system.data_skipping_indices WHERE %s"""
_SOURCES = """SELECT d AS database, v, s, name FROM (SELECT database AS s, name, d, v FROM system.tables
ARRAY JOIN dependencies_database AS d, dependencies_table AS v) WHERE %s"""

_MISSING_IN_PARTS = """SELECT name FROM system.columns
WHERE database = {d:String} AND table = {t:String} AND name NOT IN
(SELECT column FROM system.parts_columns WHERE active AND database = {d:String} AND table = {t:String}
GROUP BY column HAVING count() = (SELECT count() FROM system.parts
WHERE active AND database = {d:String} AND table = {t:String}))"""


_PATHS = "SELECT arrayJoin(data_paths) FROM system.tables WHERE database = {d:String} AND name = {t:String}"


def table_directories(
    warehouse: Warehouse, condition: str, bindings: Mapping[str, Value]
) -> Iterator[tuple[Name, Path]]:
    """The directories of an embedded engine's tables; `condition` is SQL over `database` and `table`.

    They follow from the ids of the tables. The engine would load each table to say where its data are.
    """
    assert warehouse.directory is not None
    tables = warehouse.query(
        "SELECT * FROM (SELECT database, name AS table, toString(uuid) AS id FROM system.tables "
        f"WHERE engine != 'MaterializedView') WHERE {condition} ORDER BY ALL",
        bindings,
    )
    for database, table, id in tables.rows:
        yield Name(database, table), warehouse.directory / "store" / str(id)[:3] / str(id)


def read_schema(warehouse: Warehouse, workspace: str, databases: Collection[str] | None = None) -> Schema:
    """Read all objects with this workspace's mark, in its database and nests, or only in `databases`.

    Views are in order of data flow.
    """
    bindings: dict[str, Value] = {"w": workspace, "databases": [*sorted(databases or ())]}
    condition = _WORKSPACE if databases is None else _NAMED
    where = condition.format("database")
    # Only nests have tables that are not loaded.
    if databases is None or any(map(is_nest, databases)):
        _load(warehouse, where, bindings)
    columns = _columns(warehouse, where, bindings)
    indexes = _indexes(warehouse, where, bindings)
    sources = {Name(d, v): Name(sd, s) for d, v, sd, s in warehouse.query(_SOURCES % where, bindings).rows}
    tables: list[Table] = []
    views: list[View] = []
    for row in warehouse.query(_TABLES % where, bindings).dicts():
        mark = Mark.read(row["comment"])
        if mark is None or mark.workspace != workspace:
            continue
        name = Name(row["database"], row["name"])
        if row["engine"] == "MaterializedView":
            views.append(_view(name, row, mark, sources, columns[name]))
        else:
            tables.append(_table(name, row, mark, columns[name], indexes[name]))
    # A database without a mark belongs to us if it contains tables of ours.
    with_tables = {workspace, *(t.name.database for t in tables)}
    comments = dict(warehouse.query(_DATABASES + condition.format("name"), bindings).rows)
    ours = {name for name, comment in comments.items() if name in with_tables or _is_of(comment, workspace)}
    return Schema.of(ours, tables, _in_order(views))


def load_tables(warehouse: Warehouse, database: str) -> None:
    """Make the engine load all tables of a database."""
    _load(warehouse, "database = {d:String}", {"d": database})


def load_tables_named(warehouse: Warehouse, workspace: str, names: Collection[str]) -> None:
    """Make the engine load the tables with these names in all nests."""
    if names:
        where = "startsWith(database, concat({w:String}, '_nest')) AND name IN {names:Array(String)}"
        _load(warehouse, where, {"w": workspace, "names": [*sorted(names)]})


def _load(warehouse: Warehouse, where: str, bindings: Mapping[str, Value]) -> None:
    """Make the engine load tables. The catalog does not have the comment, and therefore the mark, of a table that is
    not loaded.
    """
    if warehouse.capabilities.lazy_tables:
        # The engine has to load a table to know its data paths.
        warehouse.query(f"SELECT sum(length(data_paths)) FROM system.tables WHERE {where}", bindings)


def newest_block_in_parts(warehouse: Warehouse, table: Name) -> int:
    """The newest block of a loaded table; 0 if it has no parts. Reads no rows."""
    result = warehouse.query(
        "SELECT max(max_block_number) FROM system.parts "
        "WHERE active AND database = {d:String} AND table = {t:String}",
        {"d": table.database, "t": table.name},
    )
    return int(result.rows[0][0])


def columns_missing_in_parts(warehouse: Warehouse, table: Name) -> set[str]:
    """The columns of a table that some of its parts do not have, because they are older."""
    bindings: dict[str, Value] = {"d": table.database, "t": table.name}
    missing = {str(name) for (name,) in warehouse.query(_MISSING_IN_PARTS, bindings).rows}
    if not missing or not (warehouse.capabilities.lazy_tables and is_nest(table.database)):
        return missing
    # The engine does not list the parts of a table that it loaded after its start, so their files are read.
    paths = warehouse.query(_PATHS, bindings).rows
    return missing & {name for (path,) in paths for name in _not_in_all_parts(Path(str(path)), missing)}


def _not_in_all_parts(directory: Path, columns: Collection[str]) -> Iterator[str]:
    """Those of the columns that the directory of some part does not list."""
    parts = parts_in(directory)
    for part in parts.keys() - {*replaced_parts(parts)}:
        try:
            listed = (directory / part / "columns.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            # A merge has removed the part meanwhile. Its result may lack the same columns.
            yield from columns
            return
        yield from (c for c in columns if not any(line.startswith(f"{quote(c)} ") for line in listed))


def foreign_objects(warehouse: Warehouse, names: Iterable[Name]) -> set[Name]:
    """Those of the names under which an object without our mark exists."""
    candidates = set(names)
    if not candidates:
        return set()
    databases: list[Value] = [*sorted({n.database for n in candidates})]
    tables: list[Value] = [*sorted({n.name for n in candidates})]
    result = warehouse.query(
        "SELECT database, name, comment FROM system.tables "
        "WHERE database IN {databases:Array(String)} AND name IN {names:Array(String)}",
        {"databases": databases, "names": tables},
    )
    foreign = {Name(database, name) for database, name, comment in result.rows if Mark.read(comment) is None}
    return candidates & foreign


def _is_of(comment: str, workspace: str) -> bool:
    """Whether a comment is a mark of this workspace."""
    mark = Mark.read(comment)
    return mark is not None and mark.workspace == workspace


def _columns(warehouse: Warehouse, where: str, bindings: Mapping[str, Value]) -> defaultdict[Name, list[Column]]:
    """The columns of the matching tables and views, in order."""
    columns: defaultdict[Name, list[Column]] = defaultdict(list)
    for database, table, *column in warehouse.query(_COLUMNS % where, bindings).rows:
        columns[Name(database, table)].append(Column(*column))
    return columns


def _indexes(warehouse: Warehouse, where: str, bindings: Mapping[str, Value]) -> defaultdict[Name, list[Index]]:
    """The skip indexes of the matching tables, in order."""
    indexes: defaultdict[Name, list[Index]] = defaultdict(list)
    for database, table, name, expression, kind, granularity in warehouse.query(_INDEXES % where, bindings).rows:
        indexes[Name(database, table)].append(Index(name, as_expression(expression), kind, granularity))
    return indexes


def _table(name: Name, row: Mapping[str, Any], mark: Mark, columns: list[Column], indexes: list[Index]) -> Table:
    """A table from its row in the catalog. Its clauses are read from the text of its definition."""
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
    """A view from its row in the catalog. It has no backfill: only compiled views are filled."""
    missing = Name("", "")
    return View(
        name=name,
        target=read_target(row["create_table_query"]) or missing,
        # Read from the engine's dependencies. A view whose source was dropped does not have any.
        source=sources.get(name, missing),
        sql=row["as_select"],
        columns=tuple(c.name for c in columns),
        mark=mark,
    )


def _in_order(views: Iterable[View]) -> list[View]:
    """Sort views in order of data flow: the views that fill a table come before those that read it."""
    remaining = list(views)
    ordered: list[View] = []
    while remaining:
        filled = {v.target for v in remaining}
        # Views in a cycle have no order; they are added as they are, so that the loop ends.
        ready = [v for v in remaining if v.source not in filled] or remaining
        ordered.extend(ready)
        done = {v.name for v in ready}
        remaining = [v for v in remaining if v.name not in done]
    return ordered
