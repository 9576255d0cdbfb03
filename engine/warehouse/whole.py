"""Inserts into tables of notes, of which every part is looked at when it is stored."""

from __future__ import annotations

from collections.abc import Iterable

from engine import errors
from engine.schema import Name, literal
from engine.warehouse.errors import EngineError
from engine.warehouse.port import Input, Warehouse

TRIES = 3


def insert_whole(warehouse: Warehouse, table: Name, rows: bytes, columns: Iterable[str] = ()) -> None:
    """Insert NDJSON rows, again if the engine has stored a damaged part. Raises RK6009 if it does so every time."""
    names = tuple(columns)
    for _ in range(TRIES):
        warehouse.insert(table.sql(), rows, Input.NDJSON, names, {"async_insert": 0})
        bad = warehouse.damaged([table])
        if not bad:
            return
        for _, part, _ in bad:
            warehouse.execute(f"ALTER TABLE {table.sql()} DROP PART {literal(part)}")
    raise EngineError(
        errors.STORAGE, errors.STORAGE.title, detail=f"{table}: {bad[0][2]}", headers={"Retry-After": "2"}
    )
