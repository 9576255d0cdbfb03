"""The text of DDL statements. Pure. Running any of them again is harmless."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from engine.schema import Column, Index, Mark, Name, Table, View, literal, quote
from engine.warehouse.port import SINGLE_BLOCK_SETTINGS
from engine.warehouse.render import settings_list

DEFAULT = "DEFAULT"
_NEST = "_nest"


def create_database(name: str, mark: Mark | None = None, *, lazy: bool = False, in_memory: bool = False) -> str:
    """Create a database. By default, its mark is that of the workspace to which the name belongs.

    The engine loads the tables of a `lazy` database when they are first used, instead of at its start. The tables of
    an `in_memory` database are lost when the engine stops.
    """
    mark = mark or Mark(name.partition(_NEST)[0], name, "database")
    engine = " ENGINE = Atomic SETTINGS lazy_load_tables = 1" if lazy else " ENGINE = Memory" if in_memory else ""
    return f"CREATE DATABASE IF NOT EXISTS {quote(name)}{engine} COMMENT {literal(mark.text())}"


def is_nest(database: str) -> bool:
    """Whether a database of a workspace is a tenant's nest."""
    return _NEST in database


def create_table(table: Table) -> str:
    """Create a table with its columns, indexes, constraints, clauses and mark."""
    parts = [_column(c) for c in table.columns]
    parts += [_index(i) for i in table.indexes]
    parts += [f"CONSTRAINT {quote(name)} CHECK {expression}" for name, expression in table.constraints]
    sorting_key = table.sorting_key or ("tuple()" if "MergeTree" in table.engine else "")
    clauses = [
        f"ENGINE = {table.engine}",
        f"PARTITION BY {table.partition_key}" if table.partition_key else "",
        f"PRIMARY KEY {table.primary_key}" if table.primary_key else "",
        f"ORDER BY {sorting_key}" if sorting_key else "",
        f"SAMPLE BY {table.sampling_key}" if table.sampling_key else "",
        f"TTL {table.ttl}" if table.ttl else "",
        "SETTINGS " + ", ".join(f"{key} = {value}" for key, value in table.settings) if table.settings else "",
        f"COMMENT {literal(table.mark.text())}" if table.mark else "",
    ]
    body = ",\n    ".join(parts)
    return f"CREATE TABLE IF NOT EXISTS {table.name.sql()}\n(\n    {body}\n)\n" + "\n".join(c for c in clauses if c)


def create_view(view: View) -> str:
    """Create a materialized view with its mark."""
    # Without the brackets, COMMENT could be parsed as an alias at the end of the query.
    comment = f"\nCOMMENT {literal(view.mark.text())}" if view.mark else ""
    name, target = view.name.sql(), view.target.sql()
    return f"CREATE MATERIALIZED VIEW IF NOT EXISTS {name} TO {target} AS (\n{view.sql}\n){comment}"


def drop_table(*names: Name) -> str:
    """Drop tables, of which some may not exist, and wait until they are gone."""
    return f"DROP TABLE IF EXISTS {', '.join(n.sql() for n in names)} SYNC"


def drop_view(name: Name) -> str:
    """Drop a view and wait until it is gone."""
    return f"DROP VIEW IF EXISTS {name.sql()} SYNC"


def drop_database(name: str) -> str:
    """Drop a database with all its tables."""
    return f"DROP DATABASE IF EXISTS {quote(name)} SYNC"


def add_column(name: Name, column: Column, after: str | None = None) -> str:
    """Add a column at the end, or after another column."""
    place = f" AFTER {quote(after)}" if after else ""
    return f"ALTER TABLE {name.sql()} ADD COLUMN IF NOT EXISTS {_column(column)}{place}"


def modify_column(name: Name, column: Column, removes: Iterable[str] = ()) -> str:
    """Change a column to this type, default, codec and comment. Those that it does not have stay unless they are in
    `removes`, which the existing column must have. A removed default becomes a constant for `remove`: in a
    statement that also changes other columns, the engine would still examine the old one.
    """
    removed = [remove(name, column.name, what) for what in removes if what != DEFAULT]
    if DEFAULT in removes:
        constant = f"defaultValueOfTypeName({literal(column.type)})"
        column = replace(column, default_kind=DEFAULT, default=constant)
    return alter(name, [*removed, f"ALTER TABLE {name.sql()} MODIFY COLUMN IF EXISTS {_column(column)}"])


def remove(name: Name, column: str, what: str) -> str:
    """Remove the default or codec that a column has."""
    return f"ALTER TABLE {name.sql()} MODIFY COLUMN IF EXISTS {quote(column)} REMOVE {what}"


def store_values(name: Name, column: str) -> str:
    """Write a column's values into the parts that do not have them, and wait until it is done."""
    return f"ALTER TABLE {name.sql()} UPDATE {quote(column)} = {quote(column)} WHERE 1 SETTINGS mutations_sync = 1"


def merge_all(name: Name) -> str:
    """Merge all parts of each partition, also of one that has only one part, and wait until it is done. Fails if the
    engine does not merge one of them, for example because the disk has too little space.
    """
    settings = "optimize_skip_merged_partitions = 0, optimize_throw_if_noop = 1"
    return f"OPTIMIZE TABLE {name.sql()} FINAL SETTINGS {settings}"


def drop_column(name: Name, column: str) -> str:
    """Drop a column with its values."""
    return f"ALTER TABLE {name.sql()} DROP COLUMN IF EXISTS {quote(column)}"


def add_index(name: Name, index: Index) -> str:
    """Add a skip index. Existing parts get it when they are merged."""
    return f"ALTER TABLE {name.sql()} ADD {_index(index).replace('INDEX', 'INDEX IF NOT EXISTS', 1)}"


def drop_index(name: Name, index: str) -> str:
    """Drop a skip index."""
    return f"ALTER TABLE {name.sql()} DROP INDEX IF EXISTS {quote(index)}"


def alter(name: Name, statements: Iterable[str]) -> str:
    """Combine ALTER statements of one table. The engine makes all changes or none, and examines only the result. A
    TTL must come last.
    """
    start = f"ALTER TABLE {name.sql()} "
    return start + ", ".join(s.removeprefix(start) for s in statements)


def modify_ttl(name: Name, ttl: str) -> str:
    """Set a table's TTL, or remove it if `ttl` is empty."""
    return f"ALTER TABLE {name.sql()} " + (f"MODIFY TTL {ttl}" if ttl else "REMOVE TTL")


def modify_setting(name: Name, setting: str, value: str) -> str:
    """Set one setting of a table; the value is SQL text."""
    return f"ALTER TABLE {name.sql()} MODIFY SETTING {setting} = {value}"


def reset_setting(name: Name, setting: str) -> str:
    """Give one setting of a table the engine's default."""
    return f"ALTER TABLE {name.sql()} RESET SETTING {setting}"


def comment(name: Name, mark: Mark) -> str:
    """Replace the mark of a table or view."""
    return f"ALTER TABLE {name.sql()} MODIFY COMMENT {literal(mark.text())}"


def insert_block(target: str, columns: Iterable[str], token: str, select: str, **settings: int) -> str:
    """Insert the rows of a SELECT as one block with a deduplication token. `target` is a quoted SQL name.

    Repeating it with the same token inserts nothing.
    """
    clause = settings_list({**SINGLE_BLOCK_SETTINGS, **settings, "insert_deduplication_token": token})
    return f"INSERT INTO {target} ({', '.join(map(quote, columns))}) SETTINGS {clause} {select}"


def _column(column: Column) -> str:
    """A column as a clause of CREATE TABLE or ALTER TABLE."""
    text = f"{quote(column.name)} {column.type}"
    if column.default_kind:
        text += f" {column.default_kind} {column.default}".rstrip()
    if column.comment:
        text += f" COMMENT {literal(column.comment)}"
    if column.codec:
        text += f" {column.codec}" if column.codec.startswith("CODEC(") else f" CODEC({column.codec})"
    return text


def _index(index: Index) -> str:
    """A skip index as a clause of CREATE TABLE."""
    return f"INDEX {quote(index.name)} {index.expression} TYPE {index.type} GRANULARITY {index.granularity}"
