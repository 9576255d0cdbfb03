"""Control state as rows of the workspace's own database: small JSON bodies by kind and name.

Deployed sources, tenants, tokens, keys and noted deliveries live here, so that there is no second database to
operate. Versions come from the database's clock; the newest row of a name wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from engine.schema import Column, Mark, Name, Table
from engine.warehouse import ddl
from engine.warehouse.port import Input, Warehouse

STATE = "_rk_state"


def state_columns() -> tuple[Column, ...]:
    """Columns of a table that a registry is kept in."""
    return (
        Column("kind", "LowCardinality(String)"),
        Column("name", "String"),
        Column("body", "String"),
        Column("version", "UInt64", "DEFAULT", "toUInt64(toUnixTimestamp64Nano(now64(9)))"),
        Column("deleted", "UInt8"),
    )


def state_table(workspace: str) -> Table:
    """The registry's table."""
    return Table(
        Name(workspace, STATE),
        state_columns(),
        engine="ReplacingMergeTree(version)",
        sorting_key="(kind, name)",
        mark=Mark(workspace, STATE, "state"),
    )


class Registry:
    """Reads and writes control state, or what else is kept in a table of the same columns."""

    def __init__(self, warehouse: Warehouse, workspace: str, table: str = STATE) -> None:
        self._warehouse = warehouse
        self.workspace = workspace
        self._table = Name(workspace, table).sql()
        if table == STATE:
            warehouse.execute(ddl.create_database(workspace))
            warehouse.execute(ddl.create_table(state_table(workspace)))

    def version(self) -> int:
        """Grows with every change of control state other than notes of deliveries."""
        found = self._warehouse.query(f"SELECT max(version) FROM {self._table} WHERE kind != 'history'")
        return int(found.rows[0][0])

    def read(self, kind: str) -> dict[str, dict[str, Any]]:
        """All bodies of a kind by name."""
        return self.read_all([kind]).get(kind, {})

    def read_all(self, kinds: Iterable[str]) -> dict[str, dict[str, dict[str, Any]]]:
        """All bodies of several kinds, by kind and name."""
        found = self._warehouse.query(
            f"SELECT kind, name, argMax(body, version) AS b, argMax(deleted, version) AS d FROM {self._table} "
            "WHERE kind IN {kinds:Array(String)} GROUP BY kind, name HAVING d = 0 ORDER BY kind, name",
            {"kinds": list(kinds)},
        )
        result: dict[str, dict[str, dict[str, Any]]] = {}
        for kind, name, body, _ in found.rows:
            result.setdefault(kind, {})[name] = orjson.loads(body)
        return result

    def newest_blocks(self, tables: Iterable[str]) -> dict[str, int]:
        """The newest block's number of tables in the workspace's database; without those that are empty."""
        found = self._warehouse.query(
            "SELECT table, max(max_block_number) FROM system.parts "
            "WHERE active AND database = {d:String} AND table IN {t:Array(String)} GROUP BY table",
            {"d": self.workspace, "t": list(tables)},
        )
        return {str(t): int(b) for t, b in found.rows}

    def write(self, kind: str, bodies: Mapping[str, Mapping[str, Any]]) -> None:
        """Put bodies under their names, replacing what was there."""
        self._insert([(kind, name, orjson.dumps(body).decode(), 0) for name, body in bodies.items()])

    def remove(self, kind: str, names: Iterable[str]) -> None:
        """Remove names; those that do not exist are ignored."""
        self._insert([(kind, name, "{}", 1) for name in names])

    def _insert(self, rows: list[tuple[str, str, str, int]]) -> None:
        if not rows:
            return
        lines = (orjson.dumps({"kind": k, "name": n, "body": b, "deleted": d}) for k, n, b, d in rows)
        columns = ("kind", "name", "body", "deleted")
        self._warehouse.insert(self._table, b"\n".join(lines), Input.NDJSON, columns, {"async_insert": 0})
