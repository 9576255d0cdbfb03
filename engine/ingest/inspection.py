"""Validates each row of one append that cannot be stored as a whole: finds the bad rows and stages the others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from engine.errors import FOREIGN_TENANT, RookeryError
from engine.ingest.batch import AppendSlice, JudgedBatch, RejectedRow, RowTexts, StagedBatch
from engine.ingest.bisect import Bisection
from engine.ingest.commit import ONE_THREAD_SETTINGS
from engine.ingest.formats.body_rows import csv_rows, json_rows
from engine.ingest.purged_tenants import purged_among, without_values
from engine.ingest.read_settings import PARSE_SETTINGS
from engine.ingest.row_expressions import row_expressions
from engine.ingest.unknown_keys import KnownKeys
from engine.ingest.validation import Judge, search_limits
from engine.ingest.values.rejections import (
    MAX_SHOWN_CHARACTERS,
    column_values,
    event_of_file_row,
    parse_json,
    rejection_reason,
)
from engine.ingest.values.staging import ROW_NUMBER_COLUMN, stage_ddl, validity_checks
from engine.ingest.values.text_tenants import other_tenants, text_tenant_column
from engine.schema import Name, quote
from engine.warehouse import ddl
from engine.warehouse.port import Input
from engine.workspace.workspace import Workspace

UNKNOWN_KEY_REASON = "unknown key"
"""The beginning of the reason why a strict datasource rejects a row."""


def inspect(workspace: Workspace, batch: StagedBatch, strict_keys: KnownKeys | None) -> JudgedBatch:
    """Find the bad rows of a batch of one append, and leave only the others in its stage.

    With `strict_keys`, events with other keys are rejected.
    """
    (share,) = batch.slices
    if share.append.format is Input.PARQUET:
        judged = _inspect_parquet(workspace, batch)
    else:
        judged = _inspect_text(workspace, batch, strict_keys)
    purged, column = workspace.current.purged, batch.schema.source.tenant_column
    if purged and column is not None:
        judged = replace(judged, rejected={n: without_values(r, column, purged) for n, r in judged.rejected.items()})
    return _refused_if_foreign(judged)


def _inspect_text(workspace: Workspace, batch: StagedBatch, strict_keys: KnownKeys | None) -> JudgedBatch:
    """Validate the rows of a JSON or CSV body, and stage the good ones."""
    append = batch.slices[0].append
    rows = _rows_of(batch)
    # The failed attempt may have staged some of the rows, without numbers.
    workspace.warehouse.execute(f"TRUNCATE TABLE {batch.table.sql()}")
    settings = workspace.settings
    parsing = {**PARSE_SETTINGS, "max_memory_usage": settings.insert_memory}
    bisection = Bisection(workspace.warehouse, batch, rows, parsing, search_limits(workspace, batch))
    unreadable = bisection.read()
    invalid = bisection.validate(workspace.current.purged)
    if rows.format is Input.NDJSON:
        _reject_other_tenants(batch, rows.texts, unreadable, invalid)
    if strict_keys is not None and rows.format is Input.NDJSON:
        _reject_unknown_keys(batch, strict_keys, rows.texts, unreadable, invalid)
    rejected = invalid | unreadable
    if invalid:
        # The stage has all readable rows; those that are invalid must not be stored.
        bisection.stage_only([n for n in range(len(rows.texts)) if n not in rejected])
    staged = replace(batch, slices=(AppendSlice(append, 0, len(rows.texts)),))
    return JudgedBatch(staged, inspected=True, numbered=True, rejected=rejected)


def _rows_of(batch: StagedBatch) -> RowTexts:
    """The rows of the batch's only append, as they were sent."""
    append = batch.slices[0].append
    if append.format is Input.CSV:
        header, texts = csv_rows(append.body)
        return RowTexts(texts, append.format, header)
    return RowTexts(list(append.lines or json_rows(append.body, whole=append.is_complete)), append.format)


def _reject_unknown_keys(
    batch: StagedBatch,
    keys: KnownKeys,
    texts: Sequence[bytes],
    unreadable: dict[int, RejectedRow],
    invalid: dict[int, RejectedRow],
) -> None:
    """Add rows with keys that no column reads to the invalid ones."""
    for n, text in enumerate(texts):
        event = parse_json(text)
        names = keys.unknown(event) if isinstance(event, dict) else ()
        if not names:
            continue
        row = unreadable.get(n) or invalid.get(n)
        if row is None:
            row = invalid[n] = RejectedRow(n, text, Input.NDJSON)
            row.values = column_values(text, Input.NDJSON, b"", batch.schema)
        summary = keys.summary([names])
        more = f" and {summary.count - len(summary.names)} more" if summary.count > len(summary.names) else ""
        row.add("", f"{UNKNOWN_KEY_REASON} {', '.join(f'`{n}`' for n in summary.names)}{more}")


def _reject_other_tenants(
    batch: StagedBatch, texts: Sequence[bytes], unreadable: dict[int, RejectedRow], invalid: dict[int, RejectedRow]
) -> None:
    """Add rows whose tenant is not a string to the invalid ones, if the tenants of the datasource are strings."""
    column = text_tenant_column(batch.schema.source)
    found = other_tenants(column, texts) if column else {}
    for n, value in found.items():
        if column is None or n in unreadable:
            continue
        row = invalid.get(n)
        if row is None:
            row = invalid[n] = RejectedRow(n, texts[n], Input.NDJSON)
            row.values = column_values(texts[n], Input.NDJSON, b"", batch.schema)
        shown = value.decode(errors="replace")[:MAX_SHOWN_CHARACTERS]
        row.set_reason(column.name, f"`{shown}` is not a string, as a tenant id of type {column.type} must be")
        # It is the id of no tenant, so it is not another tenant's row.
        row.is_foreign = False


def _inspect_parquet(workspace: Workspace, batch: StagedBatch) -> JudgedBatch:
    """Validate the rows of a Parquet file. They have no text, so they are numbered and rendered from the stage."""
    columns = _column_list(batch)
    rejected: dict[int, RejectedRow] = {}
    numbered = f"(SELECT rowNumberInAllBlocks() AS {ROW_NUMBER_COLUMN}, {columns} FROM {batch.table.sql()})"
    for staged, check in validity_checks(batch.schema, batch.bound):
        result = workspace.warehouse.query(
            f"SELECT {ROW_NUMBER_COLUMN}, toString({staged.value}), {_rendered(batch)} FROM {numbered} "
            f"WHERE ifNull(NOT ({check}), 0)",
            None,
            {**ONE_THREAD_SETTINGS, "output_format_json_quote_denormals": 1},
        )
        for number, value, text in result.rows:
            row = rejected.setdefault(int(number), RejectedRow(int(number), b"", Input.NDJSON))
            _fill_in(row, batch, text)
            row.add(staged.column, rejection_reason(batch.schema, staged, value, batch.bound_tenant, Input.PARQUET))
            is_tenant = staged is batch.schema.tenant
            row.is_foreign |= batch.bound_tenant is not None and is_tenant and value is not None
    numbered_stage = False
    purged = purged_among(workspace.warehouse, batch, batch.table.sql(), workspace.current.purged)
    if row_expressions(batch.schema.source) or batch.schema.expiry is not None or purged:
        numbered_stage = _reject_unstorable(workspace, batch, rejected)
    return JudgedBatch(batch, inspected=True, numbered=numbered_stage, rejected=rejected)


def _reject_unstorable(workspace: Workspace, batch: StagedBatch, rejected: dict[int, RejectedRow]) -> bool:
    """Reject the rows of a file on which keys, TTLs or indexes throw, or a TTL overflows, and rows of purged tenants.

    If there are any, the good rows are staged again with their numbers. Returns whether they were.
    """
    warehouse = workspace.warehouse
    numbered = Name(batch.table.database, f"{batch.table.name}_numbered")
    columns = _column_list(batch)
    known = set(rejected)
    try:
        # A copy, because the stage of a file was filled without row numbers.
        warehouse.execute(stage_ddl(batch.schema, numbered))
        # Only a single thread numbers the rows in their order.
        warehouse.execute(
            f"INSERT INTO {numbered.sql()} ({columns}, {ROW_NUMBER_COLUMN}) "
            "SETTINGS max_threads = 1, max_insert_threads = 1 "
            f"SELECT {columns}, rowNumberInAllBlocks() FROM {batch.table.sql()}"
        )
        rows = RowTexts([b""] * batch.slices[0].rows, Input.NDJSON)
        limits, purged = search_limits(workspace, batch), workspace.current.purged
        judge = Judge(warehouse, replace(batch, table=numbered), rows, _keep_all, limits, purged, rejected)
        judge.reject_purged()
        judge.reject_unstorable()
        new = sorted(rejected.keys() - known)
        if not new:
            return False
        _render(workspace, batch, numbered, {n: rejected[n] for n in new})
        warehouse.execute(f"TRUNCATE TABLE {batch.table.sql()}")
        kept = f"{columns}, {ROW_NUMBER_COLUMN}"
        warehouse.execute(f"INSERT INTO {batch.table.sql()} ({kept}) SELECT {kept} FROM {judge.good_rows()}")
        return True
    finally:
        warehouse.execute(ddl.drop_table(numbered))


def _render(workspace: Workspace, batch: StagedBatch, numbered: Name, rejected: dict[int, RejectedRow]) -> None:
    """Set the text and the values of rows in a numbered stage."""
    numbers = ", ".join(map(str, rejected))
    result = workspace.warehouse.query(
        f"SELECT {ROW_NUMBER_COLUMN}, {_rendered(batch)} FROM {numbered.sql()} "
        f"WHERE {ROW_NUMBER_COLUMN} IN ({numbers})",
        None,
        {"output_format_json_quote_denormals": 1},
    )
    for number, text in result.rows:
        _fill_in(rejected[int(number)], batch, text)


def _fill_in(row: RejectedRow, batch: StagedBatch, rendered: str) -> None:
    """Set a row's text and values from its rendering, which is JSON by column name, in hex."""
    named = bytes.fromhex(rendered)
    row.text, row.values = (
        event_of_file_row(batch.schema, named),
        column_values(named, Input.NDJSON, b"", batch.schema),
    )


def _column_list(batch: StagedBatch) -> str:
    """The stage's columns as SQL, each once."""
    return ", ".join(quote(name) for name in dict.fromkeys(c.name for c in batch.schema.columns))


def _rendered(batch: StagedBatch) -> str:
    """The SQL of a staged row as JSON, in hex because it may hold any bytes."""
    return f"hex(formatRowNoNewline('JSONEachRow', {_column_list(batch)}))"


def _keep_all(_numbers: Collection[int]) -> None:
    """Used instead of staging rows again: a file has no values that are cast out of an object."""


def _refused_if_foreign(batch: JudgedBatch) -> JudgedBatch:
    """Refuse the append as a whole if it has another tenant's row and the datasource is declared so."""
    tenant = batch.staged.schema.source.tenant
    foreign = next((n for n, row in batch.rejected.items() if row.is_foreign), None)
    if foreign is None or tenant is None or tenant.foreign != "refuse":
        return batch
    message = f"row {foreign + 1}: the tenant is not the one that the token is bound to"
    return replace(batch, rejected={}, refusal=RookeryError(FOREIGN_TENANT, message, hint="nothing was stored"))
