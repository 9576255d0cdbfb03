"""Writes batches: stages the rows, validates and if necessary inspects them, records receipts, and commits.

Only the engine decides what a value is and which tenant a row belongs to. The stage keeps the tenant as the text that
was sent, so that a tenant that is missing, null, out of range or not canonical is detected. A row with such a tenant,
or one that cannot be read, goes to quarantine; the other rows are stored. `docs/INGESTION.md` explains the order of
the steps.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine.compiler import storage
from engine.errors import NOT_WRITABLE, UNKNOWN_COLUMNS, UNKNOWN_DATASOURCE, RookeryError
from engine.fanout.suspended_views import is_view_failure
from engine.ingest.batch import MAX_JOINED_BYTES, Append, AppendResult, AppendSlice, JudgedBatch, StagedBatch
from engine.ingest.commit import ONE_THREAD_BYTES, ONE_THREAD_SETTINGS, Committer, Visibility
from engine.ingest.formats.body_rows import has_no_known_key, is_unterminated_array, json_rows
from engine.ingest.formats.csv_records import is_unterminated
from engine.ingest.formats.file_columns import SourceType, read_source_types, unknown_columns
from engine.ingest.formats.json_values import BLANK, has_unknown_escape
from engine.ingest.idempotency import Key, Receipt, Receipts, key_of
from engine.ingest.inspection import inspect
from engine.ingest.read_settings import PARSE_SETTINGS, is_too_large, too_large_to_read
from engine.ingest.recording import Recorder
from engine.ingest.row_position import bad_row
from engine.ingest.staging_pool import BorrowedStage, StagingPool
from engine.ingest.unknown_keys import MAX_KEY_CHARACTERS, MAX_NAMED_KEYS, KnownKeys
from engine.ingest.values.rejections import parse_json
from engine.ingest.values.shared_keys import expand_shared_keys
from engine.ingest.values.staging import (
    BOUND_TENANT_COLUMN,
    NO_SOURCE_TYPES,
    StageSchema,
    maybe_empty_condition,
    stage_of,
)
from engine.ingest.values.staging_mode import DEFAULT_MODE, StagingMode, has_long_number, staging_mode_of
from engine.ingest.writer_queues import AppendGroup
from engine.warehouse.errors import for_sender, is_transient
from engine.warehouse.port import Input
from engine.workspace.snapshot import Snapshot, per_snapshot
from engine.workspace.workspace import Workspace

MAX_PARSED_BYTES = 256 << 10
"""JSON up to this many bytes is parsed faster in Python than the engine answers a query."""
FULL_CHECK_BATCHES = 200
"""Number of batches of a schema that skip the fast checks, after one that failed them and passed the full checks."""

Results = dict[int, AppendResult | RookeryError]
"""Results of appends, by the `id()` of the append."""


class _BatchFailed(Exception):
    """A batch cannot be stored as a whole: its appends must be separated, or its only append inspected."""


@dataclass(slots=True)
class Attempt:
    """The outcome of one step of storing a group."""

    results: Results = field(default_factory=dict)
    remaining: list[AppendGroup] = field(default_factory=list)
    """The groups that are still to be stored, in order."""


@dataclass(frozen=True, slots=True)
class _Bodies:
    """The appends of a batch and the bodies that the engine reads."""

    joined: list[Append]
    """Appends whose lines are known. These lines are read first, as one body."""
    lines: list[bytes]
    """Their lines. Each line begins with its tenant if the appends are bound to several tenants."""
    separate: list[Append]
    """Appends whose bodies are read separately."""
    texts: list[bytes]

    @classmethod
    def of(cls, appends: Sequence[Append]) -> _Bodies:
        joined = [a for a in appends if a.lines is not None]
        separate = [a for a in appends if a.lines is None]
        is_mixed = len({a.bound_tenant for a in appends}) > 1
        # The engine could not distinguish the tenants of bodies that it reads separately.
        assert not (is_mixed and separate)
        lines = [line for a in joined for line in (_named_lines(a) if is_mixed else a.lines or ())]
        return cls(joined, lines, separate, [*([b"\n".join(lines)] if joined else []), *(a.body for a in separate)])

    @property
    def appends(self) -> list[Append]:
        """The appends in the order in which their rows are staged."""
        return [*self.joined, *self.separate]

    @property
    def format(self) -> Input:
        return self.appends[0].format

    @property
    def separate_texts(self) -> list[bytes]:
        return self.texts[bool(self.joined) :]


class BatchWriter:
    """Stores batches. Called by several `ingest` and `search` threads at once."""

    def __init__(self, workspace: Workspace, stages: StagingPool, receipts: Receipts) -> None:
        self._workspace = workspace
        self._stages = stages
        self._receipts = receipts
        self._recorder = Recorder(workspace, receipts)
        self._committer = Committer(workspace)
        # By stage schema: how many batches still skip the fast checks. No lock is needed, because a lost update only
        # costs one check.
        self._fast_checks_skipped: dict[str, int] = {}

    def schema_for(
        self,
        name: str,
        format: Input,
        *,
        mode: StagingMode = DEFAULT_MODE,
        source_types: Mapping[str, SourceType] = NO_SOURCE_TYPES,
    ) -> StageSchema:
        """How a datasource's rows are staged. Raises RK5005, and RK5006 where rows come from a pipe."""
        snapshot = self._workspace.current
        if not source_types:
            return _text_schema(snapshot, name, format, mode)
        # The types in a file are rarely repeated, so their schemas are not cached.
        return _stage_schema(snapshot, name, format, mode, source_types)

    def complete_uncertain(self, datasource: str) -> None:
        """Complete unfinished work of earlier batches. Raises RK5013 or RK6008 if that is not possible now."""
        self._committer.complete_uncertain(datasource)
        self._recorder.remove_orphans(datasource)

    def keys_of(self, name: str) -> KnownKeys:
        """The keys that a datasource's columns read."""
        return _known_keys(self._workspace.current, name)

    def examine(self, append: Append) -> None:
        """Set an append's lines, if it is small, and the keys in it that no column reads."""
        self.schema_for(append.datasource, append.format)
        if append.format is not Input.NDJSON:
            return
        keys = self.keys_of(append.datasource)
        if len(append.body) <= MAX_JOINED_BYTES:
            append.lines, append.unknown_keys, append.has_unrelated_event = keys.lines_of(append.body)
            if append.lines is None:
                append.unknown_keys = keys.within(_json_rows(append))
        elif self._strict_keys(append) is not None:
            append.unknown_keys = keys.within(_json_rows(append))
        else:
            append.unknown_keys = keys.sampled(append.body)
        if not append.can_be_joined:
            append.lines = None

    def store(self, appends: Sequence[Append]) -> list[AppendResult | RookeryError]:
        """Store appends to one datasource as one batch, if all rows are good. If the appends are bound to several
        tenants, their lines must be known.

        Otherwise the batch is split until each append with bad rows is alone, so that no append is inspected or
        refused because of another.
        """
        groups, results = deque([AppendGroup(list(appends), failed=False)]), Results()
        while groups:
            attempt = self.attempt(groups.popleft())
            results |= attempt.results
            groups.extendleft(reversed(attempt.remaining))
        return [results[id(a)] for a in appends]

    def attempt(self, group: AppendGroup) -> Attempt:
        """Do one step of storing a group: store it as a whole or, if that has failed, split it or inspect its only
        append. Errors of appends are returned as results.
        """
        appends = group.appends
        if group.failed and len(appends) > 1:
            return Attempt(remaining=group.halves())
        try:
            if len(appends) > 1 and any(a.format is not Input.PARQUET and has_long_number(a.body) for a in appends):
                # A long number changes how the whole batch is staged, and therefore the reasons for other appends.
                return Attempt(remaining=group.halves())
            results = self._store_together(appends, may_inspect=group.failed)
        except _BatchFailed:
            return Attempt(remaining=[AppendGroup(appends, failed=True)])
        except RookeryError as exc:
            error = for_sender(exc) if is_transient(exc) else exc
            return Attempt({id(a): error for a in appends})
        return Attempt(results)

    def _store_together(self, appends: Sequence[Append], *, may_inspect: bool) -> Results:
        """Store appends as one batch. Raises `_BatchFailed` if that is not possible."""
        bodies, first = _Bodies.of(appends), appends[0]
        source = self.schema_for(first.datasource, first.format).source
        mode = staging_mode_of(source, first.format, bodies.texts)
        source_types = read_source_types(first.body) if first.format is Input.PARQUET else NO_SOURCE_TYPES
        schema = self.schema_for(first.datasource, first.format, mode=mode, source_types=source_types)
        # A batch that may be inspected has already failed, and the fast checks would only fail again.
        fast = not may_inspect and self._tries_fast_checks(schema)
        with self._stages.borrow(schema) as stage:
            batch = StagedBatch(
                _identity(first, schema),
                schema,
                stage.table,
                _slices(bodies.appends, [0 for _ in appends]),
                sum(map(len, bodies.texts)),
                may_inspect,
                self._ignored_columns(schema, bodies),
            )
            return self._finish(self._stage(batch, bodies, fast=fast), stage)

    def _ignored_columns(self, schema: StageSchema, bodies: _Bodies) -> tuple[str, ...]:
        """Columns of a file that the datasource does not have. Raises RK5018 if the datasource is strict."""
        if bodies.format is Input.NDJSON:
            return ()
        ignored = unknown_columns({c.source_name for c in schema.columns}, bodies.texts[0], bodies.format)
        if ignored and schema.source.strict:
            raise _unknown_columns_error(ignored)
        return ignored

    def _stage(self, batch: StagedBatch, bodies: _Bodies, *, fast: bool) -> JudgedBatch:
        """Let the engine read the bodies into the stage. Raises `_BatchFailed` where they must be inspected first."""
        if self._must_inspect(batch, bodies):
            return self._inspect(batch)
        texts = bodies.texts
        if batch.schema.shared:
            spread_texts = _with_shared_keys(batch.schema, bodies)
            if spread_texts is None:
                return self._inspect(batch)
            texts = spread_texts
        try:
            rows_read = [self._read(batch, text, bodies.format) for text in texts]
        except RookeryError as exc:
            self._raise_unless_bad_row(exc, bodies)
            return self._inspect(batch)
        counts = [*(len(a.lines or ()) for a in bodies.joined), *rows_read[bool(bodies.joined) :]]
        batch = replace(batch, slices=_slices(bodies.appends, counts))
        if sum(counts) != sum(rows_read) or self._has_unrelated_event(batch, bodies.separate):
            return self._inspect(batch)
        return JudgedBatch(batch, fast=fast)

    def _raise_unless_bad_row(self, exc: RookeryError, bodies: _Bodies) -> None:
        """Return if the engine failed to read a row, which can be searched for. Otherwise raise the error."""
        if is_too_large(exc) and len(bodies.appends) > 1:
            raise _BatchFailed from exc
        if is_too_large(exc):
            raise too_large_to_read(exc, self._workspace.settings.insert_memory) from exc
        if is_transient(exc):
            raise for_sender(exc) from exc
        if bodies.format is Input.PARQUET:
            raise bad_row(exc, bodies.texts[0], bodies.format) from exc

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
        return any(has_no_known_key(parse_json(row), batch.schema.keys) for a in appends for row in _json_rows(a))

    def _read(self, batch: StagedBatch, text: bytes, format: Input) -> int:
        """Let the engine read a body into the stage. Returns the number of rows."""
        limits: dict[str, int] = (
            {"input_format_parallel_parsing": 0, **ONE_THREAD_SETTINGS} if len(text) <= ONE_THREAD_BYTES else {}
        )
        limits |= {"max_memory_usage": self._workspace.settings.insert_memory}
        return self._workspace.warehouse.insert(batch.table.sql(), text, format, (), PARSE_SETTINGS | limits)

    def _must_inspect(self, batch: StagedBatch, bodies: _Bodies) -> bool:
        """Whether rows must be inspected, as far as that is known before the engine reads them."""
        if bodies.format is Input.PARQUET:
            return False
        if batch.may_inspect or any(a.unknown_keys.count for a in bodies.appends if self._strict_keys(a) is not None):
            return True
        accepts_empty_rows = batch.schema.accepts_empty_rows(is_bound=batch.bound is not None)
        if accepts_empty_rows and any(a.has_unrelated_event for a in bodies.appends):
            return True
        # The engine drops the backslash of an unknown escape instead of refusing the row.
        if bodies.format is Input.NDJSON and any(map(has_unknown_escape, bodies.texts)):
            return True
        return any(_is_truncated(text, bodies.format) for text in bodies.separate_texts)

    def _strict_keys(self, append: Append) -> KnownKeys | None:
        """The only keys that a strict datasource accepts; None for other datasources."""
        strict = self._workspace.current.build.datasources[append.datasource].strict
        return self.keys_of(append.datasource) if strict else None

    def _finish(self, batch: JudgedBatch, stage: BorrowedStage) -> Results:
        """Record receipts and commit. A batch whose bad rows only show when it is stored is inspected first."""
        if any(s.append.key for s in batch.staged.slices):
            # A receipt is written before the rows are stored, so their number must be known.
            batch = self._with_known_count(batch)
        batch, receipts = self._recorder.record(batch)
        visible: Visibility = None
        while batch.stored_rows:
            try:
                visible = self._committer.commit(batch, stage)
                break
            except RookeryError as exc:
                # A client error here means that a row failed its check or threw, and that the INSERT stored nothing.
                if exc.is_server_fault or is_view_failure(exc) or batch.inspected:
                    raise
                if (fully_checked := self._with_full_checks(batch)) is not None:
                    batch = fully_checked
                else:
                    batch, receipts = self._recorder.record(self._inspect(batch.staged))
        self._receipts.mark_stored(receipts)
        by_key = {r.key: r for r in receipts}
        return {id(s.append): _result(batch, s, by_key, visible) for s in batch.staged.slices}

    def _tries_fast_checks(self, schema: StageSchema) -> bool:
        """Whether a batch is tried with the fast checks. After a batch with unusual values, the next ones are not."""
        skipped = self._fast_checks_skipped.get(schema.identity, 0)
        if skipped:
            self._fast_checks_skipped[schema.identity] = skipped - 1
        return not skipped

    def _with_known_count(self, batch: JudgedBatch) -> JudgedBatch:
        """A batch whose number of stored rows is known."""
        if batch.inspected or not batch.stored_rows or self._all_valid(batch):
            return batch
        return self._with_full_checks(batch) or self._inspect(batch.staged)

    def _with_full_checks(self, batch: JudgedBatch) -> JudgedBatch | None:
        """The batch with the full checks, if it failed the fast ones and passes the full ones."""
        if not batch.fast:
            return None
        fully_checked = replace(batch, fast=False)
        if not self._all_valid(fully_checked):
            return None
        self._fast_checks_skipped[batch.staged.schema.identity] = FULL_CHECK_BATCHES
        return fully_checked

    def _all_valid(self, batch: JudgedBatch) -> bool:
        """Whether all staged rows pass the checks and none of their values throws."""
        projection = batch.projection
        try:
            result = self._workspace.warehouse.query(
                f"SELECT countIf(NOT ({projection.condition})), sum(ignore({projection.sql})) "
                f"FROM {batch.staged.table.sql()}"
            )
        except RookeryError as exc:
            if is_transient(exc):
                raise for_sender(exc) from exc
            return False
        return not result.rows[0][0]

    def _inspect(self, batch: StagedBatch) -> JudgedBatch:
        """Find the batch's bad rows. Raises `_BatchFailed` if it has several appends or may not be inspected yet."""
        if len(batch.slices) > 1 or not batch.may_inspect:
            raise _BatchFailed
        return inspect(self._workspace, batch, self._strict_keys(batch.slices[0].append))


def _result(
    batch: JudgedBatch, share: AppendSlice, receipts: Mapping[Key, Receipt], visible: Visibility
) -> AppendResult | RookeryError:
    """The result of one append of a batch."""
    if batch.refusal is not None:
        return batch.refusal
    rejected, discarded = batch.rejected_in(share), batch.discarded_in(share)
    receipt = receipts.get(key_of(share.append)) if share.append.key else None
    return AppendResult(
        batch.staged.id,
        share.rows - rejected,
        rejected - discarded,
        discarded,
        receipt.tenants if receipt else {},
        visible,
        ignored_columns=batch.staged.ignored_columns,
        unknown_keys=share.append.unknown_keys,
        first_bad_row=batch.first_bad_row(share),
    )


def _unknown_columns_error(names: Sequence[str]) -> RookeryError:
    shown = ", ".join(f"`{name[:MAX_KEY_CHARACTERS]}`" for name in names[:MAX_NAMED_KEYS])
    message = f"the file has columns that the datasource does not have: {shown}"
    hint = "nothing was stored; the datasource is strict: remove these columns, or declare them in its file"
    return RookeryError(UNKNOWN_COLUMNS, message, hint=hint)


def _identity(append: Append, schema: StageSchema) -> str:
    """A new batch's identity, which is also its deduplication token.

    Rows of a landing datasource contain their batch's id. For other datasources, a retry can only be recognized by
    the engine's deduplication window, so the identity is derived from the idempotency key, and each append with a key
    is a separate batch.
    """
    if not schema.source.is_landing and append.key:
        return f"k:{storage.digest(*key_of(append), append.digest)}"
    return f"g:{time.time_ns():x}{secrets.token_hex(5)}"


def _with_shared_keys(schema: StageSchema, bodies: _Bodies) -> list[bytes] | None:
    """The bodies with the values of shared keys repeated under each column's name; None if a row is not an object."""
    joined = [bodies.lines] if bodies.joined else []
    texts = []
    for rows in (*joined, *(_json_rows(a) for a in bodies.separate)):
        spread_rows = [expand_shared_keys(row, schema.shared) for row in rows]
        objects = [row for row in spread_rows if row is not None]
        if len(objects) < len(spread_rows):
            return None
        texts.append(b"\n".join(objects))
    return texts


def _named_lines(append: Append) -> Iterator[bytes]:
    """An append's lines with the tenant of its token as the first key.

    The key's name is random, and the engine refuses a row in which a key is repeated, so no line can name a tenant.
    """
    key = b'{"%s":%s' % (BOUND_TENANT_COLUMN.encode(), json.dumps(append.bound_tenant).encode())
    for line in append.lines or ():
        members = line[1:].lstrip(BLANK)
        yield key + (members if members.startswith(b"}") else b"," + members)


def _is_truncated(body: bytes, format: Input) -> bool:
    """Whether a list or a quoted value is still open at a body's end. The engine would accept it as complete."""
    return is_unterminated_array(body) if format is Input.NDJSON else format is Input.CSV and is_unterminated(body)


def _json_rows(append: Append) -> list[bytes]:
    return list(append.lines or json_rows(append.body, whole=append.is_complete))


def _slices(appends: Sequence[Append], counts: Sequence[int]) -> tuple[AppendSlice, ...]:
    """The slices of appends that are staged one after the other, with `counts` rows."""
    slices, start = [], 0
    for append, count in zip(appends, counts, strict=True):
        slices.append(AppendSlice(append, start, start + count))
        start += count
    return tuple(slices)


@per_snapshot
def _known_keys(snapshot: Snapshot, datasource: str) -> KnownKeys:
    return KnownKeys(snapshot.build.datasources[datasource])


@per_snapshot
def _text_schema(snapshot: Snapshot, name: str, format: Input, mode: StagingMode) -> StageSchema:
    """The schema for rows that arrive as text, whose columns have no types of their own."""
    return _stage_schema(snapshot, name, format, mode, NO_SOURCE_TYPES)


def _stage_schema(
    snapshot: Snapshot, name: str, format: Input, mode: StagingMode, source_types: Mapping[str, SourceType]
) -> StageSchema:
    if name not in snapshot.build.relations:
        raise RookeryError(UNKNOWN_DATASOURCE, f"there is no datasource `{name}`", hint="rookery datasource ls")
    pipe = next((p.name for p in snapshot.build.materialized() if p.target and p.target.name == name), None)
    if pipe is not None:
        raise RookeryError(NOT_WRITABLE, f"`{name}` is the target of pipe `{pipe}`: rows cannot be appended to it")
    return stage_of(snapshot.build.datasources[name], format, mode, source_types)
