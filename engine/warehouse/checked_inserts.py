"""Inserts into rookery's own tables, with a check that each stored part is intact."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine import errors
from engine.schema import Name
from engine.warehouse.errors import EngineError
from engine.warehouse.port import Input, Warehouse

MAX_INSERT_TRIES = 3


def insert_checked(
    warehouse: Warehouse,
    table: Name,
    rows: bytes,
    columns: Iterable[str] = (),
    settings: Mapping[str, int | str] | None = None,
) -> None:
    """Insert NDJSON rows, and repeat the insert if its part is damaged. Raises RK6009 if every attempt fails.

    The engine reports success even if a write to one of the part's files has failed.
    """
    names = tuple(columns)
    # The part must exist when the insert returns, so that it can be checked.
    synchronous = {**(settings or {}), "async_insert": 0}
    warehouse.note_parts([table])
    for _ in range(MAX_INSERT_TRIES):
        warehouse.insert(table.sql(), rows, Input.NDJSON, names, synchronous)
        damaged = warehouse.damaged_parts([table])
        must_repeat = [warehouse.remove_part(table, d.part) for d in damaged]
        if damaged:
            warehouse.undo_merges()
        if not any(must_repeat):
            return
    raise EngineError(
        errors.STORAGE, errors.STORAGE.title, detail=f"{table}: {damaged[0].reason}", headers={"Retry-After": "2"}
    )
