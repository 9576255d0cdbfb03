"""Lets the engine read the bodies of a batch into its stage, and notices rows that must be inspected one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.errors import UNKNOWN_COLUMNS, RookeryError
from engine.ingest.batch import MAX_JOINED_BYTES, Append, StagedBatch
from engine.ingest.batch_texts import BatchTexts, is_rewritten, is_truncated, json_rows_of, rewritten_texts, slices_of
from engine.ingest.commit import ONE_THREAD_BYTES, ONE_THREAD_SETTINGS
from engine.ingest.formats.body_rows import has_no_known_key
from engine.ingest.formats.file_columns import unknown_columns
from engine.ingest.formats.json_values import has_unknown_escape
from engine.ingest.formats.nested_lists import has_deep_lists
from engine.ingest.read_settings import PARSE_SETTINGS, too_large
from engine.ingest.row_position import bad_row
from engine.ingest.stage_schemas import known_keys, mode_search, schema_for, strict_keys
from engine.ingest.unknown_keys import MAX_KEY_CHARACTERS, MAX_NAMED_KEYS, KnownKeys
from engine.ingest.values.rejections import parse_json
from engine.ingest.values.staging import StageSchema, maybe_empty_condition
from engine.ingest.values.staging_mode import StagingMode
from engine.ingest.values.text_tenants import may_have_other_tenants, other_tenants, text_tenant_column
from engine.warehouse.errors import exceeds_own_memory, for_sender, is_transient
from engine.warehouse.port import Input
from engine.workspace.workspace import Workspace

MAX_PARSED_BYTES = 256 << 10
"""JSON up to this many bytes is parsed faster in Python than the engine answers a query."""


class StageReader:
    """Reads appends into stages. Called by several `ingest` and `search` threads at once; it has no state."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def examine(self, append: Append) -> None:
        """Set how an append must be staged, its lines, if it is small, and the keys in it that no column reads.

        Raises RK5005 and RK5006 where rows cannot be appended, since the datasource may have changed since `submit`.
        """
        schema_for(self._workspace.current, append.datasource, append.format)
        self.mode_of(append)
        if append.format is not Input.NDJSON:
            return
        keys = known_keys(self._workspace.current, append.datasource)
        if len(append.body) <= MAX_JOINED_BYTES:
            append.lines, append.unknown_keys, append.has_unrelated_event = keys.lines_of(append.body)
            if append.lines is None:
                append.unknown_keys = keys.within(json_rows_of(append))
        # A large body is sampled, unless an unknown key is a reason to reject a row.
        elif self.strict_keys(append) is not None:
            append.unknown_keys = keys.within(json_rows_of(append))
        else:
            append.unknown_keys = keys.sampled(append.body)
        # Its body may be joined as text only if it may share a batch.
        if not append.can_be_joined:
            append.lines = None

    def mode_of(self, append: Append) -> StagingMode:
        """How an append must be staged. It is determined once."""
        if append.mode is None:
            search = mode_search(self._workspace.current, append.datasource, append.format)
            append.mode = search.mode_of(append.body)
        return append.mode

    def read(self, batch: StagedBatch, texts: BatchTexts) -> StagedBatch | None:
        """Let the engine read the bodies into the batch's stage. Returns the batch with the rows of each append.

        None if its rows must be inspected one by one, in which case the stage may have some of them. Raises the
        errors of the database, RK5004 if a row is too large to read, and that of the bad row of a Parquet file.
        """
        if self._must_inspect(batch, texts):
            return None
        to_read = rewritten_texts(batch.schema, texts) if is_rewritten(batch.schema, texts) else texts.texts
        if to_read is None:
            return None
        try:
            rows_read = [self._read(batch, text, texts.format) for text in to_read]
        except RookeryError as exc:
            self._raise_unless_bad_row(exc, texts)
            return None
        # The rows of joined appends are known; the engine has counted those of each separate text.
        counts = [*(len(a.lines or ()) for a in texts.joined), *rows_read[bool(texts.joined) :]]
        batch = replace(batch, slices=slices_of(texts.appends, counts))
        if sum(counts) != sum(rows_read) or self._has_unrelated_event(batch, texts.separate):
            return None
        return batch

    def _raise_unless_bad_row(self, exc: RookeryError, texts: BatchTexts) -> None:
        """Return if inspecting the appends one by one can help: the engine failed to read a row. Otherwise raise."""
        # Each of them may be small enough separately.
        if exceeds_own_memory(exc) and len(texts.appends) > 1:
            return
        if exceeds_own_memory(exc):
            raise too_large(exc, self._workspace.settings.insert_memory) from exc
        if is_transient(exc):
            raise for_sender(exc) from exc
        if texts.format is Input.PARQUET:
            raise bad_row(exc, texts.texts[0], texts.format) from exc

    def _has_unrelated_event(self, batch: StagedBatch, appends: Sequence[Append]) -> bool:
        """Whether an event of large appends has no key of the datasource, and would be stored as a row of
        defaults.
        """
        if (
            not appends
            or appends[0].format is not Input.NDJSON
            or not batch.schema.accepts_empty_rows(is_bound=batch.bound is not None)
        ):
            return False
        if sum(len(a.body) for a in appends) > MAX_PARSED_BYTES:
            query = f"SELECT 1 FROM {batch.table.sql()} WHERE {maybe_empty_condition(batch.schema)} LIMIT 1"
            if not self._workspace.warehouse.query(query, None, ONE_THREAD_SETTINGS).rows:
                return False
        return any(has_no_known_key(parse_json(row), batch.schema.keys) for a in appends for row in json_rows_of(a))

    def _read(self, batch: StagedBatch, text: bytes, format: Input) -> int:
        """Let the engine read a body into the stage. Returns the number of rows."""
        limits: dict[str, int | str] = (
            {"input_format_parallel_parsing": 0, **ONE_THREAD_SETTINGS} if len(text) <= ONE_THREAD_BYTES else {}
        )
        # Without a limit, one body could take the memory of the whole process.
        limits |= {"max_memory_usage": self._workspace.settings.insert_memory}
        if b"[" not in text and format is not Input.PARQUET:
            # Only lists in objects depend on other rows, and values in objects are read faster from subcolumns.
            limits["max_dynamic_subcolumns_in_json_type_parsing"] = "auto"
        return self._workspace.warehouse.insert(batch.table.sql(), text, format, (), PARSE_SETTINGS | limits)

    def _must_inspect(self, batch: StagedBatch, texts: BatchTexts) -> bool:
        """Whether rows must be inspected, as far as that is known before the engine reads them."""
        if texts.format is Input.PARQUET:
            return False
        if batch.may_inspect or any(a.unknown_keys.count for a in texts.appends if self.strict_keys(a) is not None):
            return True
        accepts_empty_rows = batch.schema.accepts_empty_rows(is_bound=batch.bound is not None)
        # The engine would read the event as a row of defaults.
        if accepts_empty_rows and any(a.has_unrelated_event for a in texts.appends):
            return True
        # The engine drops the backslash of an unknown escape instead of refusing the row.
        if texts.format is Input.NDJSON and any(map(has_unknown_escape, texts.texts)):
            return True
        if batch.schema.infers_types and any(map(has_deep_lists, _unquoted(texts))):
            return True
        if any(is_truncated(text, texts.format) for text in texts.separate_texts):
            return True
        return texts.format is Input.NDJSON and _has_other_tenants(batch.schema, texts)

    def strict_keys(self, append: Append) -> KnownKeys | None:
        """The only keys that a strict datasource accepts; None for other datasources."""
        return strict_keys(self._workspace.current, append.datasource)


def _unquoted(texts: BatchTexts) -> Sequence[bytes]:
    """The texts, without the quotes around objects in CSV."""
    return [text.replace(b'"', b"") for text in texts.texts] if texts.format is Input.CSV else texts.texts


def _has_other_tenants(schema: StageSchema, texts: BatchTexts) -> bool:
    """Whether an event has a tenant that is not a string, which the engine would read as one."""
    column = text_tenant_column(schema.source)
    if column is None or not any(may_have_other_tenants(column, text) for text in texts.texts):
        return False
    return any(other_tenants(column, rows) for rows in (texts.lines, *map(json_rows_of, texts.separate)))


def ignored_columns(schema: StageSchema, texts: BatchTexts) -> tuple[str, ...]:
    """Columns of a file that the datasource does not have. Raises RK5018 if the datasource is strict."""
    if texts.format is Input.NDJSON:
        return ()
    ignored = unknown_columns({c.source_name for c in schema.columns}, texts.texts[0], texts.format)
    if ignored and schema.source.strict:
        raise _unknown_columns_error(ignored)
    return ignored


def _unknown_columns_error(names: Sequence[str]) -> RookeryError:
    """RK5018, with the first names."""
    shown = ", ".join(f"`{name[:MAX_KEY_CHARACTERS]}`" for name in names[:MAX_NAMED_KEYS])
    message = f"the file has columns that the datasource does not have: {shown}"
    hint = "nothing was stored; the datasource is strict: remove these columns, or declare them in its file"
    return RookeryError(UNKNOWN_COLUMNS, message, hint=hint)
