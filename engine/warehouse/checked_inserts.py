"""Inserts into the tables of the product itself, of which every part is looked at when it is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine import errors
from engine.schema import Name
from engine.warehouse.errors import EngineError
from engine.warehouse.port import Input, Warehouse

MAX_TRIES = 3


def insert_checked(
    warehouse: Warehouse,
    table: Name,
    rows: bytes,
    columns: Iterable[str] = (),
    settings: Mapping[str, int | str] | None = None,
) -> None:
    """Insert NDJSON rows, again if the engine has stored a damaged part. Raises RK6009 if it does so every time."""
    names = tuple(columns)
    given = {**(settings or {}), "async_insert": 0}
    warehouse.note_parts([table])
    for _ in range(MAX_TRIES):
        warehouse.insert(table.sql(), rows, Input.NDJSON, names, given)
        bad = warehouse.damaged_parts([table])
        again = [warehouse.remove_part(table, part) for _, part, _ in bad]
        if bad:
            warehouse.undo_merges()
        if not any(again):
            return
    raise EngineError(
        errors.STORAGE, errors.STORAGE.title, detail=f"{table}: {bad[0][2]}", headers={"Retry-After": "2"}
    )
