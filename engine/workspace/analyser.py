"""Asks the engine about types, over empty tables: the columns of a query, and the canonical form of a definition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from threading import RLock

from engine.cache import LruCache, size_of
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
    """Asks the engine about types, in a scratch database without rows. Results are cached. Safe for threads."""

    def __init__(self, warehouse: Warehouse, workspace: str) -> None:
        self._warehouse = warehouse
        self._database = scratch_database(workspace)
        self._lock = RLock()
        self._tables: dict[Name, str] = {}
        """The identity of each table in the scratch database. Guarded by the lock, as are the tables themselves."""
        self._types: dict[str, str] = {}
        self._described: LruCache[str, tuple[Column, ...]] = LruCache(5_000, weigh=size_of)
        self._canonical: LruCache[str, Table] = LruCache(5_000, weigh=size_of)
        # A killed process may have left tables here that are not in `_tables`.
        warehouse.execute(ddl.drop_database(self._database))
        warehouse.execute(ddl.create_database(self._database))

    def describe(self, sql: str, bindings: Mapping[str, Value], tables: Iterable[Table]) -> tuple[Column, ...]:
        """The columns of a SELECT. Raises the engine's error if the SELECT is not valid."""
        needed = list(tables)
        key = fingerprint(sql, sorted((k, str(v)) for k, v in bindings.items()), [_identity(t) for t in needed])
        known = self._described.get(key)
        if known is not None:
            return known
        with self._lock:
            for table in needed:
                self._ensure(table)
            # Done with the lock held, because another thread may need other tables with the same names.
            rows = self._warehouse.query(f"DESCRIBE TABLE ({sql})", bindings, ANALYSIS_SETTINGS)
        return self._described.put(key, tuple(Column(row[0], row[1]) for row in rows.rows))

    def define(self, table: Table) -> None:
        """Check a definition by creating an empty table. Raises the engine's error."""
        if self._canonical.get(_identity(table)) is None:
            with self._lock:
                self._ensure(table)

    def first_refused(
        self, table: Table, changes: Sequence[Callable[[Name], str]]
    ) -> tuple[int, RookeryError] | None:
        """The position of the first change that the engine refuses on an empty copy of a table, and the error.

        Each change creates its statement for a table with the given name. Raises errors that do not concern the
        change.
        """
        copy = Name(self._database, f"a_{table.name.name}")
        with self._lock:
            self._warehouse.execute(ddl.drop_table(copy))
            # Without the mark, so that no plan mistakes the copy for an object of a workspace.
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
        """The engine's own name of a type; None if there is no such type."""
        if type not in self._types:
            try:
                columns = self._warehouse.query(f"DESCRIBE TABLE ({type_probe(type)})", None, ANALYSIS_SETTINGS)
            except EngineError as exc:
                if exc.is_server_fault:
                    raise
                return None
            self._types[type] = on_one_line(str(columns.rows[0][1]))
        return self._types[type]

    def is_true(self, condition: str) -> bool:
        """Whether a SELECT without tables returns a true value. Also False if it cannot be computed."""
        try:
            return bool(self._warehouse.query(condition, None, ANALYSIS_SETTINGS).rows[0][0])
        except EngineError as exc:
            if exc.is_server_fault:
                raise
            return False

    def canonical(self, desired: Schema) -> Schema:
        """The schema with every table in the form that the catalog would show after its creation."""
        fresh = {k: t for t in desired.tables.values() if self._canonical.get(k := _identity(t)) is None}
        if fresh:
            with self._lock:
                self._read_back(fresh)
        tables = {}
        for name, table in desired.tables.items():
            canonical = self._canonical.get(_identity(table))
            if canonical is None:
                raise RuntimeError(f"no canonical form of {name}")
            # The cached form is shared by all tables of this definition. Names, marks and constraints are their own.
            tables[name] = replace(canonical, name=name, mark=table.mark, constraints=table.constraints)
        return Schema(desired.databases, tables, desired.views)

    def _read_back(self, fresh: Mapping[str, Table]) -> None:
        """Create tables, and cache the form in which the catalog shows each of them. The lock must be held."""
        names = {k: Name(self._database, f"c_{k}") for k in fresh}
        for key, table in fresh.items():
            mark = Mark(self._database, table.name.name, "scratch")
            self._warehouse.execute(ddl.create_table(replace(table, name=names[key], mark=mark, constraints=())))
        # One query for all new tables, because a query of the catalog takes longer than a table.
        created = read_schema(self._warehouse, self._database).tables
        for key, name in names.items():
            self._canonical.put(key, created[name])
            self._warehouse.execute(ddl.drop_table(name))

    def _ensure(self, table: Table) -> None:
        """Create a table in the scratch database, unless it already exists in this form. The lock must be held."""
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
    """Equal for tables that differ only in name, mark, constraints or rows."""
    plain = replace(table, name=Name("", ""), mark=None, constraints=())
    return fingerprint(repr(plain))
