"""What the engine says about types: pipes are analysed, and definitions spelled canonically, over empty tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from threading import RLock

from engine.cache import LruCache
from engine.compiler.build_state import scratch_database
from engine.compiler.definitions import type_probe
from engine.errors import RookeryError
from engine.schema import Column, Mark, Name, Schema, Table, fingerprint
from engine.warehouse import ddl
from engine.warehouse.catalog import read_schema
from engine.warehouse.errors import EngineError
from engine.warehouse.port import Value, Warehouse
from engine.warehouse.type_names import on_one_line

ANALYSIS_SETTINGS: Mapping[str, int] = {"max_execution_time": 5, "max_memory_usage": 1 << 30}


class Analyser:
    """Asks an engine about types, in a scratch database that holds no rows. Answers are remembered."""

    def __init__(self, warehouse: Warehouse, workspace: str) -> None:
        self._warehouse = warehouse
        self._database = scratch_database(workspace)
        self._lock = RLock()
        self._tables: dict[Name, str] = {}
        self._types: dict[str, str] = {}
        self._described: LruCache[str, tuple[Column, ...]] = LruCache(5_000)
        self._canonical: LruCache[str, Table] = LruCache(5_000)
        warehouse.execute(ddl.drop_database(self._database))
        warehouse.execute(ddl.create_database(self._database))

    def describe(self, sql: str, bindings: Mapping[str, Value], tables: Iterable[Table]) -> tuple[Column, ...]:
        """Names and types of a SELECT's output. Raises the engine's own error when it is not valid."""
        needed = list(tables)
        key = fingerprint(sql, sorted((k, str(v)) for k, v in bindings.items()), [_identity(t) for t in needed])
        known = self._described.get(key)
        if known is not None:
            return known
        with self._lock:
            for table in needed:
                self._ensure(table)
            rows = self._warehouse.query(f"DESCRIBE TABLE ({sql})", bindings, ANALYSIS_SETTINGS)
        return self._described.put(key, tuple(Column(row[0], row[1]) for row in rows.rows))

    def define(self, table: Table) -> None:
        """Create an empty table of this definition in the scratch database. Raises the engine's error."""
        if self._canonical.get(_identity(table)) is None:
            with self._lock:
                self._ensure(table)

    def first_refused(
        self, table: Table, changes: Sequence[Callable[[Name], str]]
    ) -> tuple[int, RookeryError] | None:
        """The first of some changes that the engine refuses on an empty copy of a table, with its error.

        `changes` make the statement for a table of the given name. Raises errors that say nothing about the change.
        """
        copy = Name(self._database, f"a_{table.name.name}")
        with self._lock:
            self._warehouse.execute(ddl.drop_table(copy))
            self._warehouse.execute(ddl.create_table(replace(table, name=copy, mark=None, constraints=())))
            try:
                for position, change in enumerate(changes):
                    try:
                        self._warehouse.execute(change(copy))
                    except RookeryError as exc:
                        if exc.is_server_fault:
                            raise
                        return position, exc
            finally:
                self._warehouse.execute(ddl.drop_table(copy))
        return None

    def canonical_type(self, type: str) -> str | None:
        """The engine's own name of a type, None where there is no such type."""
        if type not in self._types:
            try:
                found = self._warehouse.query(f"DESCRIBE TABLE ({type_probe(type)})", None, ANALYSIS_SETTINGS)
            except EngineError as exc:
                if exc.is_server_fault:
                    raise
                return None
            self._types[type] = on_one_line(str(found.rows[0][1]))
        return self._types[type]

    def is_true(self, condition: str) -> bool:
        """Whether a SELECT of one condition without tables gives a true one; False also if it cannot be computed."""
        try:
            return bool(self._warehouse.query(condition, None, ANALYSIS_SETTINGS).rows[0][0])
        except EngineError as exc:
            if exc.is_server_fault:
                raise
            return False

    def canonical(self, desired: Schema) -> Schema:
        """The schema with every table spelled as the catalogue would spell it once created."""
        fresh = {k: t for t in desired.tables.values() if self._canonical.get(k := _identity(t)) is None}
        if fresh:
            with self._lock:
                self._read_back(fresh)
        tables = {}
        for name, table in desired.tables.items():
            found = self._canonical.get(_identity(table))
            if found is None:
                raise RuntimeError(f"no canonical form of {name}")
            tables[name] = replace(found, name=name, mark=table.mark, constraints=table.constraints)
        return Schema(desired.databases, tables, desired.views)

    def _read_back(self, fresh: Mapping[str, Table]) -> None:
        names = {k: Name(self._database, f"c_{k}") for k in fresh}
        for key, table in fresh.items():
            mark = Mark(self._database, table.name.name, "scratch")
            self._warehouse.execute(ddl.create_table(replace(table, name=names[key], mark=mark, constraints=())))
        found = read_schema(self._warehouse, self._database).tables
        for key, name in names.items():
            self._canonical.put(key, found[name])
            self._warehouse.execute(ddl.drop_table(name))

    def _ensure(self, table: Table) -> None:
        identity = _identity(table)
        if self._tables.get(table.name) == identity:
            return
        self._warehouse.execute(ddl.drop_table(table.name))
        self._warehouse.execute(ddl.create_table(replace(table, mark=None)))
        self._tables[table.name] = identity

    def close(self) -> None:
        """Drop the scratch database."""
        try:
            self._warehouse.execute(ddl.drop_database(self._database))
        except RookeryError:
            return


def _identity(table: Table) -> str:
    """What makes two tables the same but for name, owner and rows."""
    plain = replace(table, name=Name("", ""), mark=None, constraints=())
    return fingerprint(repr(plain))
