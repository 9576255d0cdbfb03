"""Detached parts of derived tables: attached where their rows are missing, dropped where they are not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from engine.errors import RookeryError
from engine.schema import Name, literal
from engine.warehouse.port import Warehouse

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
    found = warehouse.query(
        "SELECT name, ifNull(reason, '') FROM system.detached_parts "
        "WHERE database = {d:String} AND table = {t:String} ORDER BY name",
        {"d": table.database, "t": table.name},
    )
    return [Part(str(name), str(reason)) for name, reason in found.rows]


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
