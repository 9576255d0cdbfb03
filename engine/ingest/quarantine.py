"""Rows that could not be stored: kept beside their datasource with their text, until they are mended or dropped.

The table has the datasource's columns as text, and what Tinybird's quarantine has: `c__error_column`, `c__error`,
`c__import_id` and `insertion_date`. `c__text` is the row as it was sent, `c__row` its number in its batch,
`c__header` the first line of its CSV file and `c__writer` the tenant that its sender's token was bound to.
"""

from __future__ import annotations

import csv
import io
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from engine import observe
from engine.compiler.storage import QUARANTINE_COLUMNS, QUARANTINE_SUFFIX
from engine.errors import NOT_WRITABLE, UNKNOWN_DATASOURCE, RookeryError
from engine.ingest.batch import RejectedRow
from engine.ingest.values.rejections import has_all_cells
from engine.schema import Name, quote
from engine.warehouse.checked_inserts import insert_checked
from engine.warehouse.port import SINGLE_BLOCK_SETTINGS, Value
from engine.workspace.workspace import Workspace

MAX_CSV_HEADER_BYTES = 32 << 20
"""Bytes that the CSV headers of a batch's bad rows may take together; beyond, only what is needed of them is kept."""
ROWS_PER_STATEMENT = 1000
"""Rows that one statement names."""
OWN = ("c__id", "insertion_date", "c__error_column", "c__error", "c__import_id", "c__row", "c__format", "c__text")
OWN_BUT_EMPTY = ("c__header", "c__writer")
_SPECIAL = re.compile(rb'["\\\x00-\x1f]')


def table_of(workspace: Workspace, datasource: str) -> Name:
    """The table of a datasource's quarantined rows."""
    return Name(workspace.name, datasource + QUARANTINE_SUFFIX)


def existing(workspace: Workspace, datasource: str) -> Name:
    """The same, of a datasource that has one. Raises RK5005, or RK5006 where rows come from a pipe."""
    build = workspace.current.build
    if datasource not in build.datasources:
        raise RookeryError(UNKNOWN_DATASOURCE, f"there is no datasource `{datasource}`", hint="rookery datasource ls")
    if not build.takes(datasource):
        raise RookeryError(NOT_WRITABLE, f"`{datasource}` is filled by a pipe and has no quarantine")
    return table_of(workspace, datasource)


def keep(
    workspace: Workspace, datasource: str, batch: str, writer: str | None, rows: Iterable[RejectedRow], *, mark: str
) -> None:
    """Put rows into quarantine, under the identity of their batch and the tenant that its sender writes for.

    Their ids begin with the sender's mark, by which its share of quarantine is counted.
    """
    rows = list(rows)
    wide = sum(len(row.header) for row in rows) > MAX_CSV_HEADER_BYTES
    body = b"\n".join(_line(row, batch, writer, mark, wide=wide) for row in rows)
    if body:
        settings: dict[str, int | str] = {**SINGLE_BLOCK_SETTINGS, "insert_deduplication_token": f"q:{batch}"}
        insert_checked(workspace.warehouse, table_of(workspace, datasource), body, settings=settings)
        observe.QUARANTINED_BYTES.labels(datasource).inc(len(body))


def _line(row: RejectedRow, batch: str, writer: str | None, mark: str, *, wide: bool) -> bytes:
    own = {c.name for c in QUARANTINE_COLUMNS}
    values: dict[str, Any] = {c: v for c, v in row.values.items() if v is not None and c not in own}
    values |= {
        "c__error_column": row.columns,
        "c__error": row.reasons,
        "c__import_id": batch,
        "c__row": row.number,
        "c__format": row.format.value,
        "c__id": mark + secrets.token_hex(8),
        "c__writer": writer or "",
    }
    header, text = map(_escaped, _narrowed(row) if wide else (row.header, row.text))
    return orjson.dumps(values)[:-1] + b',"c__header":"' + header + b'","c__text":"' + text + b'"}'


def _narrowed(row: RejectedRow) -> tuple[bytes, bytes]:
    """A row's header and text with what the datasource has of them. A record that is none keeps its text alone."""
    if not has_all_cells(row.text, row.header):
        return b"", row.text
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(row.values)
    writer.writerow([value or "" for value in row.values.values()])
    header, _, text = out.getvalue().rstrip("\n").partition("\n")
    return header.encode(), text.encode()


def _escaped(text: bytes) -> bytes:
    """Any bytes as a JSON string, which JSON libraries do not write and the engine reads."""
    return _SPECIAL.sub(lambda m: b"\\u%04x" % m[0][0], text)


def listing(workspace: Workspace, datasource: str, limit: int, offset: int) -> dict[str, Any]:
    """Rows of a datasource's quarantine, the newest first, and how many there are."""
    table = existing(workspace, datasource).sql()
    own = {c.name for c in QUARANTINE_COLUMNS}
    columns = [c.name for c in workspace.current.build.datasources[datasource].columns if c.name not in own]
    shown = [
        "c__id",
        "toString(insertion_date)",
        "c__error_column",
        "c__error",
        "c__import_id",
        "c__row",
        "c__format",
        "toValidUTF8(c__text)",
        "toValidUTF8(c__header)",
        "c__writer",
        *(f"toValidUTF8({quote(c)})" for c in columns),
    ]
    query = workspace.warehouse.query
    found = query(
        f"SELECT {', '.join(shown)} FROM {table} ORDER BY insertion_date DESC, c__import_id DESC, c__row DESC, c__id "
        "LIMIT {n:UInt64} OFFSET {m:UInt64}",
        {"n": limit, "m": offset},
    )
    rows = [_shown(columns, values) for values in found.rows]
    return {"datasource": datasource, "total": int(query(f"SELECT count() FROM {table}").rows[0][0]), "rows": rows}


def _shown(columns: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """A row for people: what is always there, then what it has beside that."""
    names = (*OWN, *OWN_BUT_EMPTY, *columns)
    optional = {*OWN_BUT_EMPTY, *columns}
    return {
        n: list(v) if isinstance(v, list | tuple) else v
        for n, v in zip(names, values, strict=True)
        if n not in optional or v not in (None, "")
    }


def remove(workspace: Workspace, datasource: str, ids: Sequence[str] | None) -> int:
    """Drop rows by their ids, or (None) all. Returns how many there were."""
    table = existing(workspace, datasource).sql()
    if ids is None:
        there = int(workspace.warehouse.query(f"SELECT count() FROM {table}").rows[0][0])
        workspace.warehouse.execute(f"TRUNCATE TABLE {table}")
        return there
    there = 0
    for at in range(0, len(ids), ROWS_PER_STATEMENT):
        some: dict[str, Value] = {"i": [*ids[at : at + ROWS_PER_STATEMENT]]}
        found = workspace.warehouse.query(f"SELECT count() FROM {table} WHERE c__id IN {{i:Array(String)}}", some)
        if count := int(found.rows[0][0]):
            workspace.warehouse.execute(f"DELETE FROM {table} WHERE c__id IN {{i:Array(String)}}", some)
        there += count
    return there


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
