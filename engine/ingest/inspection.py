"""Looking at each row of one append that cannot be stored as it is: the bad ones are told, the others are staged."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from engine.errors import FOREIGN_TENANT, RookeryError
from engine.ingest.batch import Batch, RejectedRow
from engine.ingest.bisect import Bisection
from engine.ingest.commit import ONE_THREAD_SETTINGS
from engine.ingest.formats.body_rows import csv_rows, json_rows
from engine.ingest.read_settings import PARSE_SETTINGS
from engine.ingest.row_expressions import evaluated
from engine.ingest.unknown_keys import KnownKeys
from engine.ingest.validation import Judge
from engine.ingest.values.rejections import as_event, loaded, reason, values_of
from engine.ingest.values.staging import ROW_NUMBER_COLUMN, checks, stage_ddl
from engine.schema import Name, quote
from engine.warehouse import ddl
from engine.warehouse.port import Input
from engine.workspace.workspace import Workspace

NO_COLUMN = "unknown key"
"""How the reason begins for which a strict datasource does not store a row."""


def inspect(workspace: Workspace, batch: Batch, keys: KnownKeys | None) -> None:
    """Tell the bad rows of a batch of one append, and stage the others. With `keys`, unknown keys make rows bad."""
    (portion,) = batch.portions
    if portion.append.format is Input.PARQUET:
        _parquet(workspace, batch)
    else:
        _text(workspace, batch, keys)
    _judge(batch)


def _text(workspace: Workspace, batch: Batch, keys: KnownKeys | None) -> None:
    (portion,) = batch.portions
    append, format = portion.append, portion.append.format
    if format is Input.CSV:
        batch.header, texts = csv_rows(append.body)
    else:
        texts = list(append.lines or json_rows(append.body, whole=append.whole))
    portion.start, portion.stop = 0, len(texts)
    workspace.warehouse.execute(f"TRUNCATE TABLE {batch.table.sql()}")
    settings = workspace.settings
    limits = settings.search_rows, settings.search_tries
    parsing = {**PARSE_SETTINGS, "max_memory_usage": settings.insert_memory}
    search = Bisection(workspace.warehouse, batch.stage, batch.table, parsing, limits)
    batch.bad = search.read(texts, format, batch.header, batch.stage.takes_empty(batch.bound))
    unfit = search.check(batch.bound, texts, format, batch.header)
    if keys is not None and format is Input.NDJSON:
        _astray(batch, keys, texts, unfit)
    batch.bad = unfit | batch.bad
    if unfit:
        search.keep_only({n: text for n, text in enumerate(texts) if n not in batch.bad}, format, batch.header)
    batch.rows, batch.numbered = len(texts), True


def _astray(batch: Batch, keys: KnownKeys, texts: Sequence[bytes], unfit: dict[int, RejectedRow]) -> None:
    """Rows with keys that no column takes."""
    for n, text in enumerate(texts):
        event = loaded(text)
        names = keys.unknown(event) if isinstance(event, dict) else ()
        if not names:
            continue
        bad = batch.bad.get(n) or unfit.get(n)
        if bad is None:
            bad = unfit[n] = RejectedRow(n, text, Input.NDJSON)
            bad.values = values_of(text, Input.NDJSON, b"", batch.stage)
        summary = keys.summary([names])
        more = f" and {summary.count - len(summary.names)} more" if summary.count > len(summary.names) else ""
        bad.add("", f"{NO_COLUMN} {', '.join(f'`{n}`' for n in summary.names)}{more}")


def _parquet(workspace: Workspace, batch: Batch) -> None:
    """Rows of a Parquet file have no text: the stage's own numbers and rendering stand in."""
    columns = ", ".join(quote(c.name) for c in {c.name: c for c in batch.stage.columns}.values())
    numbered = f"(SELECT rowNumberInAllBlocks() AS {ROW_NUMBER_COLUMN}, {columns} FROM {batch.table.sql()})"
    rendered = f"hex(formatRowNoNewline('JSONEachRow', {columns}))"
    for staged, check in checks(batch.stage, batch.bound):
        found = workspace.warehouse.query(
            f"SELECT {ROW_NUMBER_COLUMN}, toString({staged.value}), {rendered} FROM {numbered} WHERE ifNull(NOT ({check}), 0)",
            None,
            {**ONE_THREAD_SETTINGS, "output_format_json_quote_denormals": 1},
        )
        for number, value, text in found.rows:
            named = bytes.fromhex(text)
            row = batch.bad.setdefault(
                int(number), RejectedRow(int(number), as_event(batch.stage, named), Input.NDJSON)
            )
            row.add(staged.column, reason(batch.stage, staged, value, batch.bound))
            row.values = values_of(named, Input.NDJSON, b"", batch.stage)
            row.foreign |= batch.bound is not None and staged is batch.stage.tenant and value is not None
    if evaluated(batch.stage.source):
        _unstorable(workspace, batch, rendered)


def _unstorable(workspace: Workspace, batch: Batch, rendered: str) -> None:
    """Tell the rows of a file on which keys, TTLs and indexes throw, and stage the good ones with their numbers."""
    warehouse = workspace.warehouse
    numbered = Name(batch.table.database, f"{batch.table.name}_numbered")
    columns = ", ".join(quote(c.name) for c in {c.name: c for c in batch.stage.columns}.values())
    try:
        warehouse.execute(stage_ddl(batch.stage, numbered))
        warehouse.execute(
            f"INSERT INTO {numbered.sql()} ({columns}, {ROW_NUMBER_COLUMN}) SETTINGS max_threads = 1, max_insert_threads = 1 "
            f"SELECT {columns}, rowNumberInAllBlocks() FROM {batch.table.sql()}"
        )
        rows = [b""] * batch.rows
        known = set(batch.bad)
        most = workspace.settings.search_tries
        judge = Judge(warehouse, batch.stage, numbered, rows, Input.NDJSON, b"", _as_they_are, most, batch.bad)
        judge.note_unstorable(batch.bound)
        new = [str(n) for n in sorted(batch.bad.keys() - known)]
        if not new:
            return
        texts = warehouse.query(
            f"SELECT {ROW_NUMBER_COLUMN}, {rendered} FROM {numbered.sql()} WHERE {ROW_NUMBER_COLUMN} IN ({', '.join(new)})",
            None,
            {"output_format_json_quote_denormals": 1},
        )
        for number, text in texts.rows:
            named = bytes.fromhex(text)
            row = batch.bad[int(number)]
            row.text, row.values = as_event(batch.stage, named), values_of(named, Input.NDJSON, b"", batch.stage)
        warehouse.execute(f"TRUNCATE TABLE {batch.table.sql()}")
        kept = f"{columns}, {ROW_NUMBER_COLUMN}"
        warehouse.execute(f"INSERT INTO {batch.table.sql()} ({kept}) SELECT {kept} FROM {judge.sound()}")
        batch.numbered = True
    finally:
        warehouse.execute(ddl.drop_table(numbered))


def _as_they_are(_numbers: Collection[int]) -> None:
    """Rows of a file are not staged again: none of their values is cast out of an object."""


def _judge(batch: Batch) -> None:
    """Refuse an append with another tenant's rows, where the datasource wants it so."""
    (portion,) = batch.portions
    tenant = batch.stage.source.tenant
    foreign = next((n for n in batch.bad if batch.bad[n].foreign), None)
    if foreign is not None and tenant is not None and tenant.foreign == "refuse":
        message = f"row {foreign + 1}: the token writes for one tenant only"
        portion.refused = RookeryError(FOREIGN_TENANT, message, hint="nothing was stored")
        batch.bad = {}
