"""Detached parts of derived tables: attached where their rows are missing, dropped where they are not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import RookeryError
from engine.schema import Name, literal
from engine.warehouse.port import Value, Warehouse

_PART = re.compile(r"(?:(?P<reason>[a-z][a-z-]*)_)?[^_]+(?:_\d+){3,4}(?:_try\d+)?")
"""The name of a detached part: why the engine put it aside, its partition, blocks, level, and mutation."""
ATTACHED, DROPPED, KEPT = "attached", "dropped", "kept"


@dataclass(frozen=True, slots=True)
class Part:
    """A detached part; `reason` is the engine's, and empty for a part that was detached by a statement."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Detached:
    """What was `done` with a detached part, and why."""

    part: str
    done: str
    why: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def detached_of(warehouse: Warehouse, table: Name) -> list[Part]:
    """The detached parts of a table."""
    where = "database = {d:String} AND table = {t:String}"
    return listed(warehouse, where, {"d": table.database, "t": table.name}).get(table, [])


def listed(warehouse: Warehouse, where: str, bindings: Mapping[str, Value]) -> dict[Name, list[Part]]:
    """Detached parts by table; `where` is a condition over `database` and `table`.

    The engine does not list those of tables that were loaded after its start, so their directories are read.
    """
    found: dict[Name, list[Part]] = {}
    told = warehouse.query(
        f"SELECT database, table, name, ifNull(reason, '') FROM system.detached_parts WHERE {where} ORDER BY ALL",
        bindings,
    )
    for database, table, name, reason in told.rows:
        found.setdefault(Name(database, table), []).append(Part(str(name), str(reason)))
    if not warehouse.capabilities.lazy_tables:
        return found
    paths = warehouse.query(
        "SELECT * FROM (SELECT database, name AS table, arrayJoin(data_paths) AS path FROM system.tables "
        f"WHERE engine != 'MaterializedView') WHERE {where} ORDER BY ALL",
        bindings,
    )
    for database, table, path in paths.rows:
        directory, name = Path(str(path)) / "detached", Name(database, table)
        parts = sorted(p.name for p in directory.iterdir()) if name not in found and directory.is_dir() else []
        named = [_PART.fullmatch(part) for part in parts]
        if any(named):
            found[name] = [Part(match[0], match["reason"] or "") for match in named if match]
    return found


def attach(warehouse: Warehouse, table: Name, part: Part) -> str | None:
    """Attach a part, with the table's merges stopped: its new name, or None if the engine refuses it.

    The table must be kept from receiving rows meanwhile.
    """
    warehouse.execute(f"SYSTEM STOP MERGES {table.sql()}")
    before = _parts(warehouse, table)
    try:
        warehouse.execute(f"ALTER TABLE {table.sql()} ATTACH PART {literal(part.name)}")
    except RookeryError:
        resume_merges(warehouse, table)
        return None
    (made,) = _parts(warehouse, table) - before or {""}
    if not made:
        resume_merges(warehouse, table)
    return made or None


def detach(warehouse: Warehouse, table: Name, part: str) -> None:
    """Take a part out of a table again."""
    warehouse.execute(f"ALTER TABLE {table.sql()} DETACH PART {literal(part)}")


def drop(warehouse: Warehouse, table: Name, part: Part) -> None:
    """Drop a detached part for good."""
    warehouse.execute(
        f"ALTER TABLE {table.sql()} DROP DETACHED PART {literal(part.name)} SETTINGS allow_drop_detached = 1"
    )


def resume_merges(warehouse: Warehouse, table: Name) -> None:
    """Let the engine merge a table's parts again."""
    warehouse.execute(f"SYSTEM START MERGES {table.sql()}")


def _parts(warehouse: Warehouse, table: Name) -> set[str]:
    return {str(row[0]) for row in warehouse.query(f"SELECT DISTINCT _part FROM {table.sql()}").rows}
