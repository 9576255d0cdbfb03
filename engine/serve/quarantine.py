"""Rows that could not be stored: kept beside their datasource with their text, until they are mended or dropped.

The table has the datasource's columns as text, and what Tinybird's quarantine has: `c__error_column`, `c__error`,
`c__import_id` and `insertion_date`. `c__text` is the row as it was sent, `c__row` its number in its batch.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Any

import orjson

from engine.compiler.storage import QUARANTINE
from engine.plan.state import Workspace
from engine.schema import Name, quote
from engine.serve.batch import Bad
from engine.warehouse.port import STRICT, Input

_SPECIAL = re.compile(rb'["\\\x00-\x1f]')


def table_of(workspace: Workspace, datasource: str) -> Name:
    """The table of a datasource's quarantined rows."""
    return Name(workspace.name, datasource + QUARANTINE)


def keep(workspace: Workspace, datasource: str, batch: str, rows: Iterable[Bad]) -> None:
    """Put rows into quarantine, under the identity of their batch."""
    body = b"\n".join(_line(row, batch) for row in rows)
    if body:
        settings: dict[str, int | str] = {**STRICT, "insert_deduplication_token": f"q:{batch}", "async_insert": 0}
        workspace.warehouse.insert(table_of(workspace, datasource).sql(), body, Input.NDJSON, (), settings)


def _line(row: Bad, batch: str) -> bytes:
    values: dict[str, Any] = {c: v for c, v in row.values.items() if v is not None}
    values |= {
        "c__error_column": row.columns,
        "c__error": row.reasons,
        "c__import_id": batch,
        "c__row": row.number,
        "c__format": row.format.value,
        "c__id": secrets.token_hex(8),
    }
    # The text may be any bytes, which JSON libraries do not write and the engine reads.
    text = _SPECIAL.sub(lambda m: b"\\u%04x" % m[0][0], row.text)
    return orjson.dumps(values)[:-1] + b',"c__text":"' + text + b'"}'


def count(workspace: Workspace, datasource: str, batch: str) -> int:
    """Rows of a batch that are in quarantine."""
    found = workspace.warehouse.query(
        f"SELECT count() FROM {table_of(workspace, datasource).sql()} WHERE {quote('c__import_id')} = {{b:String}}",
        {"b": batch},
    )
    return int(found.rows[0][0])


def forget(workspace: Workspace, datasource: str, batch: str) -> None:
    """Take out the rows of a batch that never happened."""
    table = table_of(workspace, datasource).sql()
    if count(workspace, datasource, batch):
        workspace.warehouse.execute(f"DELETE FROM {table} WHERE c__import_id = {{b:String}}", {"b": batch})
