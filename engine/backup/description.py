"""The description of a server's backup: what its tables contained at the moment of the backup.

It is a record of the registry, so it is part of the backup, and deleted in the workspace once the backup is complete.
A backup without it was not made by rookery.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from engine.compiler.storage import NULL_ENGINE
from engine.errors import BACKUP_DAMAGED, RookeryError
from engine.schema import Mark, Name, View
from engine.version import version
from engine.warehouse import ddl
from engine.warehouse.port import Value, Warehouse
from engine.warehouse.registry import STATE_TABLE, Registry
from engine.workspace.interrupted_backup import KIND, NAME

UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What reading a record raises that another program has changed."""


@dataclass(frozen=True, slots=True)
class StoredTable:
    """A table that stores rows."""

    uuid: str
    rows: int
    newest_block: int
    keeps_rows: bool
    """Whether only statements change its number of rows. Some engines merge rows, and a TTL removes them."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "uuid": self.uuid,
            "rows": self.rows,
            "newest_block": self.newest_block,
            "keeps_rows": self.keeps_rows,
        }

    @staticmethod
    def of(body: Mapping[str, Any]) -> StoredTable:
        table = StoredTable(str(body["uuid"]), int(body["rows"]), int(body["newest_block"]), bool(body["keeps_rows"]))
        if table.rows < 0 or table.newest_block < 0:
            raise ValueError(f"{table}")
        return table


Tables = Mapping[Name, StoredTable]


@dataclass(frozen=True, slots=True)
class Description:
    """A backup."""

    created_at: str
    rookery: str
    engine: str
    layout: int
    zone: str
    workspace: str
    databases: tuple[str, ...]
    tables: Tables
    logs: Mapping[str, Name]
    """For each view, by name: the table whose blocks it has received."""

    def as_dict(self) -> dict[str, Any]:
        """The stored form, which also is that of the output."""
        return {
            "created_at": self.created_at,
            "rookery": self.rookery,
            "engine": self.engine,
            "layout": self.layout,
            "timezone": self.zone,
            "workspace": self.workspace,
            "databases": list(self.databases),
            "tables": {str(n): t.as_dict() for n, t in self.tables.items()},
            "logs": {view: [n.database, n.name] for view, n in self.logs.items()},
        }

    @staticmethod
    def of(body: Mapping[str, Any]) -> Description:
        """Read the stored form. Raises BACKUP_DAMAGED."""
        try:
            return Description(
                str(body["created_at"]),
                str(body["rookery"]),
                str(body["engine"]),
                int(body["layout"]),
                str(body["timezone"]),
                str(body["workspace"]),
                tuple(map(str, body["databases"])),
                {_name(text): StoredTable.of(t) for text, t in body["tables"].items()},
                {view: Name(*map(str, parts)) for view, parts in body["logs"].items()},
            )
        except UNREADABLE as exc:
            raise RookeryError(BACKUP_DAMAGED, "the backup's description cannot be read", detail=repr(exc)) from exc

    def require(self, workspace: str) -> None:
        """Raise BACKUP_DAMAGED unless everything that it names belongs to a workspace.

        A restore writes to the databases that it names, so it must not name those of another workspace.
        """
        own = {name for name in self.databases if name == workspace or _is_nest_of(name, workspace)}
        named = {*self.databases, *(table.database for table in self.tables)}
        if self.workspace != workspace or named != own or Name(workspace, STATE_TABLE) not in self.tables:
            raise RookeryError(
                BACKUP_DAMAGED,
                f"the backup's description is not that of the workspace `{workspace}`",
                hint="restore only what `rookery backup` wrote",
            )


def _is_nest_of(database: str, workspace: str) -> bool:
    return database.startswith(f"{workspace}_nest") and database.isascii() and database.replace("_", "").isalnum()


def _name(text: str) -> Name:
    # Names of databases contain no dot.
    return Name(*text.split(".", 1))


def describe(warehouse: Warehouse, workspace: str, layout: int, logs: Mapping[str, Name]) -> Description:
    """The description of a backup that is made now, while no statement changes the data."""
    databases = own_databases(warehouse, workspace)
    return Description(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rookery=version(),
        engine=warehouse.capabilities.version,
        layout=layout,
        zone=warehouse.zone,
        workspace=workspace,
        databases=tuple(databases),
        tables=stored_tables(warehouse, databases),
        logs=logs,
    )


def own_databases(warehouse: Warehouse, workspace: str) -> list[str]:
    """The databases with a workspace's data: its own one and its nests."""
    rows = warehouse.query(
        "SELECT name, comment FROM system.databases WHERE startsWith(name, {w:String}) ORDER BY name",
        {"w": workspace},
    ).rows
    marks = {str(name): Mark.read(str(comment)) for name, comment in rows}
    return [n for n, m in marks.items() if n == workspace or (ddl.is_nest(n) and m and m.workspace == workspace)]


def stored_tables(warehouse: Warehouse, databases: Collection[str]) -> dict[Name, StoredTable]:
    """The tables in some databases that store rows."""
    bindings: dict[str, Value] = {"d": [*sorted(databases)]}
    parts = warehouse.query(
        "SELECT database, table, sum(rows), max(max_block_number) FROM system.parts "
        "WHERE active AND database IN {d:Array(String)} GROUP BY database, table",
        bindings,
    )
    sizes = {Name(d, t): (int(rows), int(newest)) for d, t, rows, newest in parts.rows}
    tables = warehouse.query(
        "SELECT database, name, toString(uuid), engine = 'MergeTree' AND position(engine_full, ' TTL ') = 0 "
        "FROM system.tables WHERE database IN {d:Array(String)} AND engine NOT LIKE '%View' AND engine != {n:String} "
        "ORDER BY database, name",
        {**bindings, "n": NULL_ENGINE},
    )
    return {
        Name(d, t): StoredTable(str(uuid), *sizes.get(Name(d, t), (0, 0)), bool(keeps))
        for d, t, uuid, keeps in tables.rows
    }


def log_names(views: Iterable[View]) -> dict[str, Name]:
    """For each view, by name: the table whose blocks it receives."""
    return {str(v.name): v.log or v.source for v in views}


def write(registry: Registry, description: Description) -> None:
    """Record a description, so that the backup contains it."""
    registry.write(KIND, {NAME: description.as_dict()})


def remove(registry: Registry) -> None:
    """Remove the record. It would otherwise be part of later copies, which it does not describe."""
    registry.remove(KIND, [NAME])


def read(registry: Registry, workspace: str) -> Description:
    """The recorded description of a backup of a workspace. Raises BACKUP_DAMAGED without one."""
    try:
        body = registry.read(KIND).get(NAME)
    except ValueError as exc:
        raise RookeryError(BACKUP_DAMAGED, "the backup's description cannot be read", detail=repr(exc)) from exc
    if body is None:
        raise RookeryError(
            BACKUP_DAMAGED,
            "the backup was not made by `rookery backup`",
            hint="a plain BACKUP may contain half of a delivery, so rows would be missing or doubled: docs/backup.md",
        )
    description = Description.of(body)
    description.require(workspace)
    return description
