"""A batch on its way into a datasource: staged, searched if need be, noted, and stored by one INSERT.

Only the engine decides what a value is and whose row it is. The stage keeps the tenant as the text that arrived, so
that a value which is missing, null, out of range or not canonical is seen as it is. Such a row, and one that cannot
be read, goes to quarantine; its neighbours are stored. The order of steps is explained in `docs/INGESTION.md`.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from engine.compiler import storage
from engine.errors import NOT_WRITABLE, UNKNOWN_COLUMNS, UNKNOWN_DATASOURCE, RookeryError
from engine.fanout.suspended_views import is_view_failure
from engine.ingest import quarantine
from engine.ingest.batch import Append, AppendResult, AppendSlice, Batch
from engine.ingest.commit import ONE_THREAD_BYTES, ONE_THREAD_SETTINGS, Committer
from engine.ingest.formats.body_rows import has_no_known_key, is_unterminated_array, json_rows
from engine.ingest.formats.csv_records import is_unterminated
from engine.ingest.formats.file_columns import SourceType, read_source_types, unknown_columns
from engine.ingest.formats.json_values import has_unknown_escape
from engine.ingest.idempotency import Key, Receipt, Receipts
from engine.ingest.inspection import inspect
from engine.ingest.orphaned_rejections import OrphanedRejections
from engine.ingest.quarantine_quota import QuarantineQuota, mark_of
from engine.ingest.read_settings import PARSE_SETTINGS, is_too_large, opens_too_far
from engine.ingest.row_position import bad_row
from engine.ingest.staging_pool import StagingPool
from engine.ingest.unknown_keys import MAX_KEY_CHARACTERS, MAX_NAMED_KEYS, KnownKeys
from engine.ingest.values.rejections import loaded
from engine.ingest.values.shared_keys import spread
from engine.ingest.values.staging import (
    NO_SOURCE_TYPES,
    ROW_NUMBER_COLUMN,
    USUAL,
    Manner,
    StageSchema,
    condition,
    has_long_number,
    manner_of,
    may_be_empty,
    stage_of,
    taken,
)
from engine.ingest.writer_queues import Group
from engine.schema import literal
from engine.warehouse.errors import for_sender, is_transient
from engine.warehouse.port import Input
from engine.workspace.workspace import Snapshot, Workspace

MAX_JOINED_BYTES = 64 << 10
"""Requests up to this many bytes are put together as text; a larger one is read by the engine by itself."""
MAX_COUNTED_TENANTS = 1000
"""Tenants that a receipt counts."""
PARSED_HERE_BYTES = 256 << 10
"""Bytes of JSON that are parsed here sooner than the engine answers a query."""
FULL_CHECK_BATCHES = 200
"""Batches that are asked at length at once, after one of their datasource was good and not as values usually are."""


class _Unsound(Exception):
    """Appends that do not go in as they are."""


@dataclass(slots=True)
class Attempt:
    """What a step came to: outcomes by the identity of their appends, and the groups that are left, in order."""

    done: dict[int, AppendResult | RookeryError] = field(default_factory=dict)
    left: list[Group] = field(default_factory=list)


class BatchWriter:
    """Stores batches."""

    def __init__(self, workspace: Workspace, stages: StagingPool, receipts: Receipts) -> None:
        self._workspace = workspace
        self._stages = stages
        self._receipts = receipts
        self._landing = Committer(workspace, stages)
        self._quota = QuarantineQuota(workspace)
        self._leftovers = OrphanedRejections(workspace, receipts)
        self._unusual: dict[str, int] = {}

    def stage_for(
        self, name: str, format: Input, *, manner: Manner = USUAL, given: Mapping[str, SourceType] = NO_SOURCE_TYPES
    ) -> StageSchema:
        """How a datasource's rows are staged. Raises RK5005, or RK5006 where rows come from a pipe."""
        snapshot = self._workspace.current
        if given:
            return _maker(snapshot, name, format, manner, given)()
        return snapshot.derived(("stage", name, format, manner), _maker(snapshot, name, format, manner))

    def settle(self, datasource: str) -> None:
        """Complete what is in doubt in a datasource. Raises RK5013 or RK6008 if that is not possible at present."""
        self._landing.settle(datasource)
        self._leftovers.remove_part(datasource)

    def keys_of(self, name: str) -> KnownKeys:
        """The keys that a datasource's columns take."""
        snapshot = self._workspace.current
        return snapshot.derived(("keys", name), partial(KnownKeys, snapshot.build.datasources[name]))

    def look(self, append: Append) -> None:
        """Find an append's lines, if it is small, and the keys that no column takes."""
        self.stage_for(append.datasource, append.format)
        if append.format is not Input.NDJSON:
            return
        keys = self.keys_of(append.datasource)
        if len(append.body) <= MAX_JOINED_BYTES:
            append.lines, append.unknown, append.strange = keys.lines_of(append.body)
            if append.lines is None:
                append.unknown = keys.within(json_rows(append.body, whole=append.whole))
        elif self._strict(append) is not None:
            append.unknown = keys.within(json_rows(append.body, whole=append.whole))
        else:
            append.unknown = keys.sampled(append.body)
        if not append.joins:
            append.lines = None

    def store(self, appends: Sequence[Append]) -> list[AppendResult | RookeryError]:
        """Store appends to one datasource under one tenant: all that is good in them, as one batch if they are sound.

        Where something in the batch is not, it is parted until what is wrong is alone: nobody's rows are judged,
        searched or refused for those of others.
        """
        groups, found = deque([Group(list(appends), failed=False)]), dict[int, AppendResult | RookeryError]()
        while groups:
            attempt = self.attempt(groups.popleft())
            found |= attempt.done
            groups.extendleft(reversed(attempt.left))
        return [found[id(a)] for a in appends]

    def attempt(self, group: Group) -> Attempt:
        """One step towards storing a group: try it whole, or, if that failed, part it or search its only append."""
        appends = group.appends
        if group.failed and len(appends) > 1:
            return Attempt(left=group.parts())
        try:
            if len(appends) > 1 and any(a.format is not Input.PARQUET and has_long_number(a.body) for a in appends):
                return Attempt(left=group.parts())
            outcomes = self._together(appends, searching=group.failed)
        except _Unsound:
            return Attempt(left=[Group(appends, failed=True)])
        except RookeryError as exc:
            seen = for_sender(exc) if is_transient(exc) else exc
            outcomes = [seen for _ in appends]
        return Attempt({id(a): o for a, o in zip(appends, outcomes, strict=True)})

    def _together(self, appends: Sequence[Append], *, searching: bool) -> list[AppendResult | RookeryError]:
        """Store appends as one batch: those whose lines are known as one text, any other read by itself."""
        first = appends[0]
        simple = [a for a in appends if a.lines is not None]
        large = [a for a in appends if a.lines is None]
        texts = [b"\n".join(line for a in simple for line in a.lines or ())] if simple else []
        texts += [a.body for a in large]
        source = self.stage_for(first.datasource, first.format).source
        manner = manner_of(source, first.format, texts)
        given = read_source_types(first.body) if first.format is Input.PARQUET else NO_SOURCE_TYPES
        stage = self.stage_for(first.datasource, first.format, manner=manner, given=given)
        size = sum(map(len, texts))
        usual = not searching and self._expects_usual(stage)
        batch = Batch(_identity(first, stage), stage, self._stages.borrow(stage), [], first.bound, size, usual=usual)
        batch.searching = searching
        try:
            self._stage(batch, simple, large, texts, first.format)
            found = self._finish(batch)
        finally:
            if not batch.handed:
                self._stages.give_back(stage, batch.table)
        by_append = {id(p.append): o for p, o in zip(batch.portions, found, strict=True)}
        return [by_append[id(a)] for a in appends]

    def _stage(
        self, batch: Batch, simple: list[Append], large: list[Append], texts: Sequence[bytes], format: Input
    ) -> None:
        appends = [*simple, *large]
        counts = [len(a.lines or ()) for a in simple]
        if format is not Input.NDJSON:
            batch.ignored = unknown_columns({c.given for c in batch.stage.columns}, texts[0], format)
            if batch.ignored and batch.stage.source.strict:
                raise _strange(batch.ignored)
        unsound = format is Input.NDJSON and any(map(has_unknown_escape, texts))
        if unsound or self._needs_search(batch, appends, texts[bool(simple) :]):
            batch.portions = _portions(appends, [0 for _ in appends])
            self._look_closer(batch)
            return
        if batch.stage.shared:
            found = _repeating(batch.stage, simple, large)
            if found is None:
                batch.portions = _portions(appends, [0 for _ in appends])
                self._look_closer(batch)
                return
            texts = found
        try:
            for position, text in enumerate(texts):
                rows = self._read(batch, text, format)
                batch.rows += rows
                if position >= bool(simple):
                    counts.append(rows)
        except RookeryError as exc:
            if is_too_large(exc) and len(appends) == 1:
                raise opens_too_far(exc, self._workspace.settings.insert_memory) from exc
            if is_too_large(exc):
                raise _Unsound from exc
            if is_transient(exc):
                raise for_sender(exc) from exc
            if format is Input.PARQUET:
                raise bad_row(exc, texts[0], format) from exc
            batch.portions = _portions(appends, [0 for _ in appends])
            self._look_closer(batch)
            return
        batch.portions = _portions(appends, counts)
        if sum(counts) != batch.rows or (large and self._has_strangers(batch, large)):
            self._look_closer(batch)

    def _has_strangers(self, batch: Batch, large: Sequence[Append]) -> bool:
        """Whether some events of large appends have none of the datasource's keys."""
        if large[0].format is not Input.NDJSON or not batch.stage.takes_empty(batch.bound):
            return False
        if sum(len(a.body) for a in large) > PARSED_HERE_BYTES:
            query = f"SELECT 1 FROM {batch.table.sql()} WHERE {may_be_empty(batch.stage)} LIMIT 1"
            if not self._workspace.warehouse.query(query, None, ONE_THREAD_SETTINGS).rows:
                return False
        return any(has_no_known_key(loaded(row), batch.stage.keys) for a in large for row in _json_rows(a))

    def _read(self, batch: Batch, text: bytes, format: Input) -> int:
        """Let the engine read rows into the stage; how many they are."""
        limits: dict[str, int] = (
            {"input_format_parallel_parsing": 0, **ONE_THREAD_SETTINGS} if len(text) <= ONE_THREAD_BYTES else {}
        )
        limits |= {"max_memory_usage": self._workspace.settings.insert_memory}
        return self._workspace.warehouse.insert(batch.table.sql(), text, format, (), PARSE_SETTINGS | limits)

    def _needs_search(self, batch: Batch, appends: Sequence[Append], texts: Sequence[bytes]) -> bool:
        """Whether rows have to be looked at one by one, as far as it is known before the engine reads them."""
        if appends[0].format is Input.PARQUET:
            return False
        if batch.searching or any(a.unknown.count for a in appends if self._strict(a) is not None):
            return True
        if batch.stage.takes_empty(batch.bound) and any(a.strange for a in appends):
            return True
        return any(_has_no_end(text, appends[0].format) for text in texts)

    def _strict(self, append: Append) -> KnownKeys | None:
        """The keys of a datasource that takes no others."""
        strict = self._workspace.current.build.datasources[append.datasource].strict
        return self.keys_of(append.datasource) if strict else None

    def _finish(self, batch: Batch) -> list[AppendResult | RookeryError]:
        """Note, store and answer; a batch whose bad rows show only now is searched and stored without them."""
        if any(p.append.key for p in batch.portions) and not self._fits(batch):
            # A receipt is written before the rows are stored, so their number must be known by now.
            self._look_closer(batch)
        receipts = self._note(batch)
        looked = batch.numbered or bool(batch.bad)
        while batch.good:
            try:
                self._landing.put(batch)
                break
            except RookeryError as exc:
                if exc.is_server_fault or is_view_failure(exc) or looked:
                    raise
                if not (batch.usual and self._fits_at_length(batch)):
                    self._look_closer(batch)
                    receipts = self._note(batch)
                    looked = True
        self._receipts.happened(receipts)
        by_key = {r.key: r for r in receipts}
        return [self._outcome(batch, p, by_key) for p in batch.portions]

    def _expects_usual(self, stage: StageSchema) -> bool:
        """Whether a batch is tried the short way. It is not while its datasource's values turn out to be unusual."""
        left = self._unusual.get(stage.identity, 0)
        if left:
            self._unusual[stage.identity] = left - 1
        return not left

    def _fits(self, batch: Batch) -> bool:
        """Whether all staged rows can be stored, as far as it is not known."""
        if batch.numbered or batch.bad or not batch.good or self._meets(batch):
            return True
        return batch.usual and self._fits_at_length(batch)

    def _fits_at_length(self, batch: Batch) -> bool:
        """Whether the rows of a batch that is not as usual can be stored nevertheless."""
        batch.usual = False
        fits = self._meets(batch)
        if fits:
            self._unusual[batch.stage.identity] = FULL_CHECK_BATCHES
        return fits

    def _meets(self, batch: Batch) -> bool:
        """Whether all staged rows are good, and none of their values throws."""
        good = condition(batch.stage, batch.bound, usual=batch.usual)
        values = taken(batch.stage, batch.bound, usual=batch.usual)
        try:
            found = self._workspace.warehouse.query(
                f"SELECT countIf(NOT ({good})), sum(ignore({values})) FROM {batch.table.sql()}"
            )
        except RookeryError as exc:
            if is_transient(exc):
                raise for_sender(exc) from exc
            return False
        return not found.rows[0][0]

    def _look_closer(self, batch: Batch) -> None:
        """Tell an append's bad rows, if that is wanted now. Several are parted first."""
        batch.usual = False
        if len(batch.portions) > 1 or not batch.searching:
            raise _Unsound
        inspect(self._workspace, batch, self._strict(batch.portions[0].append))

    def _note(self, batch: Batch) -> list[Receipt]:
        """Keep bad rows and write receipts, in this order. Nothing is written of an append that leaves nothing."""
        try:
            self._keep(batch)
            return self._write_receipts(batch)
        except BaseException:
            if batch.bad:
                self._leftovers.add(batch.stage.source.name, batch.id)
            raise

    def _keep(self, batch: Batch) -> None:
        """Put bad rows into quarantine, as far as their writer's share has room."""
        if batch.bad:
            # Bad rows are an append's alone: several were parted.
            writer = batch.portions[0].append.writer
            kept = self._quota.admitted(batch.stage.source.name, writer, batch.bad)
            batch.refused = batch.bad.keys() - kept.keys()
            mark = mark_of(writer)
            quarantine.keep(self._workspace, batch.stage.source.name, batch.id, batch.bound, kept.values(), mark=mark)

    def _write_receipts(self, batch: Batch) -> list[Receipt]:
        keyed = [p for p in batch.portions if p.append.key and not p.refused and not self._leaves_nothing(batch, p)]
        if not keyed:
            return []
        tenants = self._tenants(batch, keyed)
        receipts = [
            Receipt(
                key_of(p.append),
                p.append.digest,
                batch.id,
                p.stop - p.start - batch.bad_in(p),
                batch.bad_in(p) - batch.refused_in(p),
                tenants.get(n, {}),
                batch.stage.source.is_landing,
                refused=batch.refused_in(p),
                unknown=p.append.unknown,
                first=batch.first_bad(p),
            )
            for n, p in enumerate(keyed)
        ]
        self._receipts.write(receipts)
        return receipts

    def _tenants(self, batch: Batch, portions: Sequence[AppendSlice]) -> dict[int, dict[str, int]]:
        """Rows to be stored by tenant, for each of the portions."""
        if batch.stage.tenant is None or not batch.good:
            return {}
        number = ROW_NUMBER_COLUMN if batch.numbered else "rowNumberInAllBlocks()"
        value = literal(batch.bound) if batch.bound is not None else batch.stage.tenant.value
        starts, stops = ([getattr(p, side) for p in portions] for side in ("start", "stop"))
        found = self._workspace.warehouse.query(
            # No alias may be a column's name: it would take the column's place in the condition.
            "SELECT arrayFirstIndex((_rk_a, _rk_b) -> _rk_i >= _rk_a AND _rk_i < _rk_b, "
            f"{starts}, {stops}) AS _rk_p, assumeNotNull(_rk_t), count() "
            f"FROM (SELECT {number} AS _rk_i, {value} AS _rk_t FROM {batch.table.sql()} WHERE {batch.condition}) "
            f"WHERE _rk_p > 0 GROUP BY 1, 2 ORDER BY 3 DESC LIMIT {MAX_COUNTED_TENANTS} BY _rk_p",
            None,
            ONE_THREAD_SETTINGS,
        )
        counted: dict[int, dict[str, int]] = {}
        for position, tenant, rows in found.rows:
            counted.setdefault(int(position) - 1, {})[str(tenant)] = int(rows)
        return counted

    def _outcome(
        self, batch: Batch, portion: AppendSlice, receipts: Mapping[Key, Receipt]
    ) -> AppendResult | RookeryError:
        if portion.refused is not None:
            return portion.refused
        bad, refused = batch.bad_in(portion), batch.refused_in(portion)
        receipt = receipts.get(key_of(portion.append)) if portion.append.key else None
        return AppendResult(
            batch.id,
            portion.stop - portion.start - bad,
            bad - refused,
            refused,
            receipt.tenants if receipt else {},
            batch.visible,
            ignored=batch.ignored,
            unknown=portion.append.unknown,
            first=batch.first_bad(portion),
        )

    @staticmethod
    def _leaves_nothing(batch: Batch, portion: AppendSlice) -> bool:
        """Whether no row of a portion is stored or kept, so that it can be sent again as if it had never been."""
        rows = portion.stop - portion.start
        return 0 < rows == batch.refused_in(portion)


def key_of(append: Append) -> Key:
    """What an append's receipt is kept under."""
    return (append.bound or "", append.datasource, append.key or "")


def _strange(names: Sequence[str]) -> RookeryError:
    shown = ", ".join(f"`{name[:MAX_KEY_CHARACTERS]}`" for name in names[:MAX_NAMED_KEYS])
    message = f"the file has columns that the datasource does not have: {shown}"
    hint = "nothing was stored; the datasource is strict: leave them out, or add them to its file"
    return RookeryError(UNKNOWN_COLUMNS, message, hint=hint)


def _identity(append: Append, stage: StageSchema) -> str:
    """A batch's identity. Without a log to tell what happened, the engine's window must, so a key makes it."""
    if not stage.source.is_landing and append.key:
        return f"k:{storage.digest(*key_of(append), append.digest)}"
    return f"g:{time.time_ns():x}{secrets.token_hex(5)}"


def _repeating(stage: StageSchema, simple: Sequence[Append], large: Sequence[Append]) -> list[bytes] | None:
    """The texts of appends with the values of shared keys repeated; None if a row is not an object."""
    lines = [[line for a in simple for line in a.lines or ()]] if simple else []
    rows = [[spread(row, stage.shared) for row in some] for some in (*lines, *(_json_rows(a) for a in large))]
    texts = [b"\n".join(row for row in some if row is not None) for some in rows]
    return texts if all(row is not None for some in rows for row in some) else None


def _has_no_end(body: bytes, format: Input) -> bool:
    """Whether a list or a quoted value is open at a body's end; the engine would take it for complete."""
    return is_unterminated_array(body) if format is Input.NDJSON else format is Input.CSV and is_unterminated(body)


def _json_rows(append: Append) -> list[bytes]:
    return list(append.lines or json_rows(append.body, whole=append.whole))


def _portions(appends: Sequence[Append], counts: Sequence[int]) -> list[AppendSlice]:
    portions, start = [], 0
    for append, count in zip(appends, counts, strict=True):
        portions.append(AppendSlice(append, start, start + count))
        start += count
    return portions


def _maker(
    snapshot: Snapshot, name: str, format: Input, manner: Manner, given: Mapping[str, SourceType] = NO_SOURCE_TYPES
) -> Callable[[], StageSchema]:
    def make() -> StageSchema:
        if name not in snapshot.build.relations:
            raise RookeryError(UNKNOWN_DATASOURCE, f"there is no datasource `{name}`", hint="rookery datasource ls")
        fed = next((p.name for p in snapshot.build.materialized() if p.target and p.target.name == name), None)
        if fed is not None:
            raise RookeryError(NOT_WRITABLE, f"`{name}` is filled by pipe `{fed}` and takes no rows from outside")
        return stage_of(snapshot.build.datasources[name], format, manner, given)

    return make
