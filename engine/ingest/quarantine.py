"""Rows that could not be stored. They are kept in a table next to their datasource, with their text, until they are
replayed or removed.

The table has the datasource's columns as text and the columns of Tinybird's quarantine: `c__error_column`,
`c__error`, `c__import_id` and `insertion_date`. `c__text` is the row as it was sent, `c__row` its number in
its batch, `c__header` the header line of its CSV file, and `c__writer` the tenant that its sender's token was bound
to.
"""

from __future__ import annotations

import csv
import io
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from engine.compiler.storage import QUARANTINE_COLUMNS, QUARANTINE_SUFFIX
from engine.errors import (
    NOT_WRITABLE,
    UNKNOWN_DATASOURCE,
    RookeryError,
    did_you_mean,
)
from engine.ingest.batch import RejectedRow
from engine.ingest.values.rejections import matches_header
from engine.observe import events, metrics
from engine.schema import Name, quote
from engine.warehouse.checked_inserts import insert_checked
from engine.warehouse.deletion import wait_until_deleted
from engine.warehouse.port import SINGLE_BLOCK_SETTINGS, Value
from engine.workspace.workspace import Workspace

MAX_CSV_HEADER_BYTES = 32 << 20
"""Bytes that the CSV headers of a batch's bad rows may take together. If they take more, each row keeps only the
columns that the datasource has."""
ROWS_PER_STATEMENT = 1000
"""Maximum number of rows that one statement names by their ids."""
OWN_COLUMNS = (
    "c__id",
    "insertion_date",
    "c__error_column",
    "c__error",
    "c__import_id",
    "c__row",
    "c__format",
    "c__text",
)
"""The columns of the quarantine itself that every row has."""
OPTIONAL_COLUMNS = ("c__header", "c__writer")
"""The columns of the quarantine itself that may be empty."""
_SPECIAL = re.compile(rb'["\\\x00-\x1f]')


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of quarantined rows."""

    batch: str
    """The identity of the batch."""
    bound_tenant: str | None
    """The tenant that the sender's token was bound to."""
    id_prefix: str
    """Prefix of the rows' ids; see `quarantine_quota`."""


def table_of(workspace: Workspace, datasource: str) -> Name:
    """The quarantine table of a datasource."""
    return Name(workspace.name, datasource + QUARANTINE_SUFFIX)


def require_table(workspace: Workspace, datasource: str) -> Name:
    """The quarantine table of a datasource. Raises RK5005 if the datasource does not exist, RK5006 if it has none."""
    build = workspace.current.build
    if datasource not in build.datasources:
        hint = did_you_mean(datasource, build.datasources, "rookery datasource ls")
        raise RookeryError(UNKNOWN_DATASOURCE, f"unknown datasource `{datasource}`", hint=hint)
    if not build.takes(datasource):
        raise RookeryError(NOT_WRITABLE, f"`{datasource}` is filled by a pipe and has no quarantine")
    return table_of(workspace, datasource)


def store(workspace: Workspace, datasource: str, origin: Origin, rows: Iterable[RejectedRow]) -> None:
    """Put rows into quarantine."""
    rows = list(rows)
    # Each row has a copy of its file's header, which can be larger than the rows.
    narrow = sum(len(row.header) for row in rows) > MAX_CSV_HEADER_BYTES
    body = b"\n".join(_line(row, origin, narrow=narrow) for row in rows)
    if body:
        # A retry may have the same batch identity. The token keeps its bad rows from being stored twice, even if the
        # first ones have been replayed or removed since.
        settings: dict[str, int | str] = {**SINGLE_BLOCK_SETTINGS, "insert_deduplication_token": f"q:{origin.batch}"}
        insert_checked(workspace.warehouse, table_of(workspace, datasource), body, settings=settings)
        metrics.QUARANTINED_BYTES.labels(datasource).inc(len(body))


def _line(row: RejectedRow, origin: Origin, *, narrow: bool) -> bytes:
    """A row of the quarantine table as JSON."""
    own = {c.name for c in QUARANTINE_COLUMNS}
    values: dict[str, Any] = {c: v for c, v in row.values.items() if v is not None and c not in own}
    values |= {
        "c__error_column": row.columns,
        "c__error": row.reasons,
        "c__import_id": origin.batch,
        "c__row": row.number,
        "c__format": row.format.value,
        "c__id": origin.id_prefix + secrets.token_hex(8),
        "c__writer": origin.bound_tenant or "",
    }
    header, text = map(_escaped, _narrowed(row) if narrow else (row.header, row.text))
    return orjson.dumps(values)[:-1] + b',"c__header":"' + header + b'","c__text":"' + text + b'"}'


def _narrowed(row: RejectedRow) -> tuple[bytes, bytes]:
    """A CSV row's header and text, with only the columns that the datasource has.

    A record with more or fewer fields than the header keeps its text and gets no header.
    """
    if not matches_header(row.text, row.header):
        return b"", row.text
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(row.values)
    writer.writerow([value or "" for value in row.values.values()])
    header, _, text = out.getvalue().rstrip("\n").partition("\n")
    return header.encode(), text.encode()


def _escaped(text: bytes) -> bytes:
    """Encode any bytes as the inside of a JSON string. JSON libraries refuse invalid UTF-8, but the engine reads
    it.
    """
    return _SPECIAL.sub(lambda m: b"\\u%04x" % m[0][0], text)


def listing(workspace: Workspace, datasource: str, limit: int, offset: int) -> dict[str, Any]:
    """Rows of a datasource's quarantine, newest first, and how many there are in total."""
    table = require_table(workspace, datasource).sql()
    own = {c.name for c in QUARANTINE_COLUMNS}
    columns = [c.name for c in workspace.current.build.datasources[datasource].columns if c.name not in own]
    selected = [
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
    result = query(
        f"SELECT {', '.join(selected)} FROM {table} "
        "ORDER BY insertion_date DESC, c__import_id DESC, c__row DESC, c__id LIMIT {n:UInt64} OFFSET {m:UInt64}",
        {"n": limit, "m": offset},
    )
    rows = [_listed_row(columns, values) for values in result.rows]
    return {"datasource": datasource, "total": int(query(f"SELECT count() FROM {table}").rows[0][0]), "rows": rows}


def _listed_row(columns: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """A row of the listing: the columns that every row has, then those that are not empty."""
    names = (*OWN_COLUMNS, *OPTIONAL_COLUMNS, *columns)
    optional = {*OPTIONAL_COLUMNS, *columns}
    return {
        n: list(v) if isinstance(v, list | tuple) else v
        for n, v in zip(names, values, strict=True)
        if n not in optional or v not in (None, "")
    }


def remove(workspace: Workspace, datasource: str, ids: Sequence[str] | None) -> int:
    """Remove rows by their ids, or (None) all. Returns how many there were."""
    name = require_table(workspace, datasource)
    table = name.sql()
    if ids is None:
        total = int(workspace.warehouse.query(f"SELECT count() FROM {table}").rows[0][0])
        workspace.warehouse.execute(f"TRUNCATE TABLE {table}")
        events.note("quarantine removed", datasource=datasource, rows=total)
        return total
    removed = 0
    for at in range(0, len(ids), ROWS_PER_STATEMENT):
        bindings: dict[str, Value] = {"i": [*ids[at : at + ROWS_PER_STATEMENT]]}
        result = workspace.warehouse.query(
            f"SELECT count() FROM {table} WHERE c__id IN {{i:Array(String)}}", bindings
        )
        # Counted first, since a DELETE does not say how many rows matched.
        if rows := int(result.rows[0][0]):
            _delete(workspace, name, "c__id IN {i:Array(String)}", bindings)
        removed += rows
    events.note("quarantine removed", datasource=datasource, rows=removed)
    return removed


def contains(workspace: Workspace, datasource: str, batch: str) -> bool:
    """Whether quarantine has rows of a batch."""
    table = table_of(workspace, datasource).sql()
    return bool(
        workspace.warehouse.query(
            f"SELECT 1 FROM {table} WHERE c__import_id = {{b:String}} LIMIT 1", {"b": batch}
        ).rows
    )


def remove_batch(workspace: Workspace, datasource: str, batch: str) -> None:
    """Remove the rows of a batch that was never stored."""
    # A DELETE is a mutation, which takes time even if no row matches.
    if contains(workspace, datasource, batch):
        _delete(workspace, table_of(workspace, datasource), "c__import_id = {b:String}", {"b": batch})


def _delete(workspace: Workspace, table: Name, condition: str, bindings: Mapping[str, Value]) -> None:
    """Delete rows and wait until they are gone. Raises RK3010 if the engine does not complete it."""
    sql = f"DELETE FROM {table.sql()} WHERE {condition}"
    workspace.warehouse.execute(sql, bindings, {"lightweight_deletes_sync": 0})
    wait_until_deleted(workspace.warehouse, table)
