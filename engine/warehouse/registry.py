"""The registry: control state as rows in the workspace's own database, each a small JSON body with a kind and a name.

It holds deployed files, tenants, tokens, keys and records of unfinished work, so that operators do not need a second
database. Only the newest row of each name is valid. Versions are times that never go back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import orjson

from engine.schema import Column, Mark, Name, Table, literal
from engine.warehouse import ddl
from engine.warehouse.checked_inserts import insert_checked
from engine.warehouse.kept_bodies import Bodies, KeptBodies
from engine.warehouse.layout_version import STOP_NAME
from engine.warehouse.port import Warehouse

STATE_TABLE = "_rk_state"
_UNCOUNTED = ("history", "settled", "doubt", "coverage", "missed", "deferred", "backup")
"""Records of deliveries. If they changed the version, each delivery would make every server load a new snapshot."""
VERSION_COLUMN = Column("version", "UInt64", "DEFAULT", "toUInt64(toUnixTimestamp64Nano(now64(9)))")


def state_table(workspace: str, name: str = STATE_TABLE) -> Table:
    """The table of a registry."""
    return Table(
        Name(workspace, name),
        (
            Column("kind", "LowCardinality(String)"),
            Column("name", "String"),
            Column("body", "String"),
            VERSION_COLUMN,
            Column("deleted", "UInt8"),
        ),
        engine="ReplacingMergeTree(version)",
        sorting_key="(kind, name)",
        mark=Mark(workspace, name, "state"),
    )


class VersionClock:
    """Times in nanoseconds that always increase, even if the system clock is set back. Thread-safe."""

    def __init__(self, newest: Callable[[], int]) -> None:
        """`newest` returns the newest stored version. It is called once, when the first version is needed."""
        self._newest = newest
        self._last: int | None = None
        self._lock = threading.Lock()

    def next(self) -> int:
        """A version that is newer than all earlier and all stored ones."""
        with self._lock:
            if self._last is None:
                self._last = self._newest()
            self._last = max(time.time_ns(), self._last + 1)
            return self._last


class Registry:
    """Reads and writes control state in the registry's table, or other state in a table with the same columns."""

    def __init__(self, warehouse: Warehouse, workspace: str, table: str = STATE_TABLE) -> None:
        self.warehouse = warehouse
        self._workspace = workspace
        self._name = Name(workspace, table)
        self._table = self._name.sql()
        self._versions = VersionClock(lambda: self._newest("1"))
        # Other processes may write the table of a ClickHouse server.
        self._kept = KeptBodies(_UNCOUNTED) if warehouse.capabilities.embedded else None
        warehouse.execute(ddl.create_database(workspace))
        warehouse.execute(ddl.create_table(state_table(workspace, table)))

    def version(self) -> int:
        """A number that increases with each change to control state, except for records of deliveries."""
        condition = f"kind NOT IN ({', '.join(map(literal, _UNCOUNTED))})"
        if self._kept is None:
            return self._newest(condition)
        return self._kept.version(lambda: self._newest(condition))

    def _newest(self, condition: str) -> int:
        result = self.warehouse.query(f"SELECT max(version) FROM {self._table} WHERE {condition}")
        return int(result.rows[0][0])

    def read(self, kind: str) -> dict[str, dict[str, Any]]:
        """All bodies of a kind, by name."""
        return self.read_all([kind]).get(kind, {})

    def read_all(self, kinds: Iterable[str]) -> dict[str, dict[str, dict[str, Any]]]:
        """All bodies of several kinds, by kind and name."""
        wanted = tuple(kinds)
        bodies = self._query(wanted) if self._kept is None else self._kept.read(wanted, self._query)
        # Parsed for each caller, who may change the result.
        return {k: {n: orjson.loads(body) for n, body in bodies[k].items()} for k in wanted if bodies.get(k)}

    def _query(self, kinds: Iterable[str] | None) -> Bodies:
        """The newest bodies in the table: of kinds, or all."""
        newest = self.warehouse.query(
            # Without the file that only makes programs of layout 1 refuse the workspace.
            f"SELECT kind, name, argMax(body, version) AS b, argMax(deleted, version) AS d FROM {self._table} "
            f"WHERE {'1' if kinds is None else 'kind IN {kinds:Array(String)}'} AND name != {{stop:String}} "
            "GROUP BY kind, name HAVING d = 0 ORDER BY kind, name",
            {"kinds": list(kinds or ()), "stop": STOP_NAME},
        )
        bodies: Bodies = {}
        for kind, name, body, _ in newest.rows:
            bodies.setdefault(str(kind), {})[str(name)] = str(body)
        return bodies

    def newest_blocks(self) -> dict[str, int]:
        """The highest block number of each non-empty table in the workspace's database, by name."""
        blocks = self.warehouse.query(
            "SELECT table, max(max_block_number) FROM system.parts "
            "WHERE active AND database = {d:String} AND NOT startsWith(table, '_rk_') GROUP BY table",
            {"d": self._workspace},
        )
        return {str(t): int(b) for t, b in blocks.rows}

    def empty(self) -> bool:
        """Whether nothing has ever been written to the registry."""
        return not self.warehouse.query(f"SELECT 1 FROM {self._table} LIMIT 1").rows

    def write_all(self, bodies: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Write bodies of several kinds under their names, replacing earlier ones. Atomic."""
        self._insert(
            [(k, n, orjson.dumps(dict(b)).decode(), 0) for k, named in bodies.items() for n, b in named.items()]
        )

    def write(self, kind: str, bodies: Mapping[str, Mapping[str, Any]]) -> None:
        """Write bodies under their names, replacing earlier ones. Atomic."""
        self._insert([(kind, name, orjson.dumps(body).decode(), 0) for name, body in bodies.items()])

    def remove(self, kind: str, names: Iterable[str]) -> None:
        """Remove names. Names that do not exist are ignored."""
        self._insert([(kind, name, "{}", 1) for name in names])

    def _insert(self, rows: list[tuple[str, str, str, int]]) -> None:
        if not rows:
            return
        version = self._versions.next()
        columns = ("kind", "name", "body", "deleted", "version")
        lines = (orjson.dumps(dict(zip(columns, (*row, version), strict=True))) for row in rows)
        with self._kept.writing(row[0] for row in rows) if self._kept is not None else nullcontext():
            insert_checked(self.warehouse, self._name, b"\n".join(lines), columns)
