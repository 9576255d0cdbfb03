"""Conversions of columns to another type: tried on the rows before a plan is applied, and undone if they fail.

The engine changes a column's type in the catalog first and converts the rows afterwards, part by part. If a row
cannot be converted, the table keeps the new type with rows of the old one, and the engine tries again forever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from engine.errors import RookeryError
from engine.plan.alteration_groups import mentioned
from engine.plan.steps import ChangeColumn
from engine.schema import Column, Name, Schema, literal, quote
from engine.warehouse import ddl
from engine.warehouse.clauses import read_clauses
from engine.warehouse.errors import is_caused_by_rows
from engine.warehouse.port import Value, Warehouse

_FAILED = """SELECT database, table, command, latest_fail_reason FROM system.mutations
WHERE NOT is_done AND latest_fail_reason != '' AND position(command, 'MODIFY COLUMN') > 0
AND (database = {w:String} OR startsWith(database, concat({w:String}, '_nest')))"""
# Some parts may be converted. Most rows decide if a second change failed on top of the first.
_UNCONVERTED = """SELECT p.column, p.type FROM system.parts_columns AS p INNER JOIN system.columns AS c
ON c.database = p.database AND c.table = p.table AND c.name = p.column
WHERE p.active AND p.database = {d:String} AND p.table = {t:String} AND p.type != c.type
GROUP BY ALL ORDER BY sum(p.rows)"""


_DEFAULTS = """SELECT name, default_kind, type, default_expression FROM system.columns
WHERE database = {d:String} AND table = {t:String} AND default_kind != ''"""
_INDEXES = "SELECT name, expr FROM system.data_skipping_indices WHERE database = {d:String} AND table = {t:String}"

_ENGINE = "SELECT engine_full FROM system.tables WHERE database = {d:String} AND name = {t:String}"


@dataclass(frozen=True, slots=True)
class FailedConversion:
    """A column whose rows the engine could not convert to the type that the catalog has."""

    table: Name
    column: str
    type: str
    """The type of the rows."""
    reason: str


def conversion_error(step: ChangeColumn, warehouse: Warehouse) -> RookeryError | None:
    """The error with which a conversion would fail on the rows that the table has now. Raises the server's errors."""
    column = quote(step.column.name)
    structure = f"{column} {step.column.type}"
    rows = f"SELECT CAST({column} AS {step.column.type}) AS {column} FROM {step.name.sql()}"
    try:
        # The table function stores nothing.
        warehouse.execute(f"INSERT INTO FUNCTION null({literal(structure)}) ({column}) {rows}")
    except RookeryError as exc:
        if not is_caused_by_rows(exc):
            raise
        return exc
    return None


def failed_conversions(warehouse: Warehouse, workspace: str) -> list[FailedConversion]:
    """The conversions that the engine keeps trying, of the loaded tables of a workspace and its nests."""
    failed = []
    for database, table, command, reason in warehouse.query(_FAILED, {"w": workspace}).rows:
        types = dict(warehouse.query(_UNCONVERTED, {"d": database, "t": table}).rows)
        failed += [
            FailedConversion(Name(database, table), column, type, reason)
            for column, type in types.items()
            if _changes(command, column)
        ]
    return failed


def _changes(command: str, column: str) -> bool:
    """Whether a mutation's command changes this column. Other columns may have parts of an older type for good, such
    as an Enum with fewer values.
    """
    rest = command.partition("MODIFY COLUMN ")[2].removeprefix("IF EXISTS ")
    return rest.startswith((f"{quote(column)} ", f"{column} "))


def undo_failed_conversions(warehouse: Warehouse, workspace: str) -> list[FailedConversion]:
    """Give columns back the type of their rows, which also ends the failed mutations. Returns what was undone."""
    failed = failed_conversions(warehouse, workspace)
    for each in failed:
        # Without a default, which stays as it is: the plan compares it.
        convert_back(warehouse, each.table, Column(each.column, each.type))
    return failed


def convert_back(warehouse: Warehouse, table: Name, column: Column) -> None:
    """Give a column the type of its rows again. Defaults, indexes and the TTL that only work with the other type are
    removed; the next plan restores them.
    """
    changed = ddl.modify_column(table, column)
    try:
        warehouse.execute(changed)
    except RookeryError as exc:
        if exc.is_server_fault:
            raise
        warehouse.execute(ddl.alter(table, [*_detached(warehouse, table, column.name), changed]))


def _detached(warehouse: Warehouse, table: Name, column: str) -> Iterator[str]:
    """Statements that remove what uses a column."""
    bindings: dict[str, Value] = {"d": table.database, "t": table.name}
    for name, kind, type, default in warehouse.query(_DEFAULTS, bindings).rows:
        if name != column and mentioned([column], default):
            yield ddl.modify_column(table, Column(name, type), (kind,))
    for name, expression in warehouse.query(_INDEXES, bindings).rows:
        if mentioned([column], expression):
            yield ddl.drop_index(table, name)
    ((engine,),) = warehouse.query(_ENGINE, bindings).rows
    if mentioned([column], read_clauses(engine).ttl):
        yield ddl.modify_ttl(table, "")


def with_stored_types(live: Schema, failed: Iterable[FailedConversion]) -> Schema:
    """The schema in which columns that could not be converted have the type of their rows."""
    tables = dict(live.tables)
    for each in failed:
        if each.table in tables:
            table = tables[each.table]
            columns = tuple(replace(c, type=each.type) if c.name == each.column else c for c in table.columns)
            tables[each.table] = replace(table, columns=columns)
    return Schema(live.databases, tables, live.views)
