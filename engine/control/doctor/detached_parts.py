"""Statements on the detached parts of a derived table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import RookeryError
from engine.schema import Name, literal
from engine.warehouse.catalog import table_directories
from engine.warehouse.port import Value, Warehouse

_PART = re.compile(r"(?:(?P<reason>[a-z][a-z-]*)_)?[^_]+(?:_\d+){3,4}(?:_try\d+)?")
"""The name of a detached part: why the engine detached it, its partition, blocks, level, and mutation."""
ATTACHED, DROPPED, KEPT = "attached", "dropped", "kept"


@dataclass(frozen=True, slots=True)
class DetachedPart:
    """A detached part."""

    name: str
    """The name in the engine's list, which begins with the reason if there is one."""
    reason: str
    """Why the engine detached it; empty if a statement did."""


@dataclass(frozen=True, slots=True)
class Detached:
    """What a repair did with a detached part, and why."""

    part: str
    done: str
    """`attached`, `dropped` or `kept`."""
    why: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def detached_of(warehouse: Warehouse, table: Name) -> list[DetachedPart]:
    """The detached parts of a table."""
    condition = "database = {d:String} AND table = {t:String}"
    return detached_by_table(warehouse, condition, {"d": table.database, "t": table.name}).get(table, [])


def detached_by_table(
    warehouse: Warehouse, condition: str, bindings: Mapping[str, Value]
) -> dict[Name, list[DetachedPart]]:
    """Detached parts by table; `condition` is SQL over `database` and `table`.

    The engine does not list the parts of tables that were loaded after its start, so their directories are read.
    """
    parts: dict[Name, list[DetachedPart]] = {}
    result = warehouse.query(
        f"SELECT database, table, name, ifNull(reason, '') FROM system.detached_parts WHERE {condition} ORDER BY ALL",
        bindings,
    )
    for database, table, name, reason in result.rows:
        parts.setdefault(Name(database, table), []).append(DetachedPart(str(name), str(reason)))
    if not warehouse.capabilities.lazy_tables:
        return parts
    for owner, directory in table_directories(warehouse, condition, bindings):
        from_disk = _parts_in(directory / "detached") if owner not in parts else []
        if from_disk:
            parts[owner] = from_disk
    return parts


def _parts_in(directory: Path) -> list[DetachedPart]:
    """The detached parts in a table's directory, from the names of its subdirectories."""
    names = sorted(p.name for p in directory.iterdir()) if directory.is_dir() else []
    matches = [_PART.fullmatch(name) for name in names]
    return [DetachedPart(match[0], match["reason"] or "") for match in matches if match]


def attach(warehouse: Warehouse, table: Name, part: DetachedPart) -> str | None:
    """Stop the table's merges and attach a part. Returns its new name, or None if the engine refuses the part.

    The caller blocks inserts: the new part is recognized as the only one that did not exist before. Merges stay
    stopped if the part was attached; `resume_merges` ends that.
    """
    warehouse.execute(f"SYSTEM STOP MERGES {table.sql()}")
    # Merges are stopped first, since they would change the names of the parts.
    before = _parts(warehouse, table)
    try:
        warehouse.execute(f"ALTER TABLE {table.sql()} ATTACH PART {literal(part.name)}")
    except RookeryError:
        resume_merges(warehouse, table)
        return None
    (attached,) = _parts(warehouse, table) - before or {""}
    if not attached:
        resume_merges(warehouse, table)
    return attached or None


def detach(warehouse: Warehouse, table: Name, part: str) -> None:
    """Detach a part again."""
    warehouse.execute(f"ALTER TABLE {table.sql()} DETACH PART {literal(part)}")


def drop(warehouse: Warehouse, table: Name, part: DetachedPart) -> None:
    """Drop a detached part permanently."""
    warehouse.execute(
        f"ALTER TABLE {table.sql()} DROP DETACHED PART {literal(part.name)} SETTINGS allow_drop_detached = 1"
    )


def resume_merges(warehouse: Warehouse, table: Name) -> None:
    """Let the engine merge a table's parts again."""
    warehouse.execute(f"SYSTEM START MERGES {table.sql()}")


def _parts(warehouse: Warehouse, table: Name) -> set[str]:
    return {str(row[0]) for row in warehouse.query(f"SELECT DISTINCT _part FROM {table.sql()}").rows}
