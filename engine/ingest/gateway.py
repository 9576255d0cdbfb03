"""The way in: appends wait for each other and go into their datasource together.

While one batch of a datasource is being stored the next gathers, so that many small requests become few inserts and
a lone request does not wait. Writers take turns, and bad rows are searched for on threads of their own, so that a
writer's bad rows delay only what the same writer sends. What waits is bounded, in bytes.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import structlog

from engine import observe
from engine.errors import CLOSED, INTERNAL, QUEUE_FULL, RookeryError
from engine.ingest.batch import Append, AppendResult
from engine.ingest.idempotency import Key, Receipt, Receipts, same_body
from engine.ingest.insert_memory import Memory, needed
from engine.ingest.staging_pool import StagingPool
from engine.ingest.writer import Attempt, BatchWriter, key_of
from engine.ingest.writer_queues import Group, IngestQueue
from engine.schema import Name
from engine.warehouse.port import Input
from engine.workspace.disk import require_space
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.ingest")

COALESCE_CALLERS = 4
"""Callers from which on a batch waits for those that were just answered, while they come again."""
COALESCE_QUIET_SECONDS, COALESCE_TIMEOUT_SECONDS = 0.003, 0.025
"""Seconds without another newcomer that end the wait, and its longest."""
MAX_WRITER_SHARE = 3
"""A writer's share of the room for what waits, as a multiple of what it leaves free."""
MAX_SEARCHES = 2
"""Threads that search for bad rows, for all datasources."""
_Done = dict[int, AppendResult | RookeryError]
"""What became of appends, by their identity."""


class MemoryBudget:
    """A request's share of the memory for what waits: taken while its body is read, left when it is answered."""

    def __init__(self, gateway: Gateway, writer: str) -> None:
        self._gateway = gateway
        self._writer = writer
        self._taken = 0

    def take(self, size: int) -> None:
        """Take more room. Raises RK5010 when there is none."""
        self._gateway.take(size, self._writer)
        self._taken += size

    def keep(self, size: int) -> None:
        """Have so much room and no more. Raises RK5010 when there is none."""
        self.take(size - self._taken)

    def leave(self) -> None:
        self._gateway.take(-self._taken, self._writer)
        self._taken = 0

    def __enter__(self) -> MemoryBudget:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


class Gateway:
    """Takes appends and answers each by its future."""

    def __init__(self, workspace: Workspace, stages: StagingPool) -> None:
        self._workspace = workspace
        self.receipts = Receipts(workspace)
        self._ingestion = BatchWriter(workspace, stages, self.receipts)
        self._lanes: dict[str, IngestQueue] = {}
        self._flying: dict[Key, Append] = {}
        self._lock = threading.Lock()
        self._taken = 0
        self._held: dict[str, int] = {}
        self._closed = False
        self._queued = 0
        self._busy = 0
        self._idle = threading.Condition(self._lock)
        self._memory = Memory(workspace.settings.total_insert_memory)
        self._threads = ThreadPoolExecutor(workspace.settings.writers, thread_name_prefix="ingest")
        self._searches = ThreadPoolExecutor(MAX_SEARCHES, thread_name_prefix="search")

    @property
    def waiting_bytes(self) -> int:
        """Bytes of bodies in memory."""
        return self._taken

    def room(self, bound: str | None = None, writer: str = "") -> MemoryBudget:
        """Room for one request's body, with what names its writer, as in `append`."""
        return MemoryBudget(self, _turn(bound, writer))

    def take(self, size: int, writer: str) -> None:
        """Count bytes of a writer that wait, or that no longer do. Raises RK5010.

        A writer has at most MAX_WRITER_SHARE times as many bytes as are left for others, so that none takes all the room.
        """
        with self._lock:
            held = self._held.get(writer, 0) + size
            left = self._workspace.settings.max_waiting - self._taken - size
            if size > 0 and held > MAX_WRITER_SHARE * left:
                raise RookeryError(
                    QUEUE_FULL,
                    "too much waits to be stored",
                    hint="send it again after a second; the room is ROOKERY_MAX_WAITING",
                    headers={"Retry-After": "1"},
                )
            self._taken += size
            self._held[writer] = held
            if not held:
                del self._held[writer]

    def append(
        self,
        name: str,
        body: bytes,
        format: Input,
        bound: str | None = None,
        key: str | None = None,
        *,
        writer: str = "",
        into: Name | None = None,
        whole: bool = True,
    ) -> Future[AppendResult]:
        """Store a body's rows; good ones in the datasource (or the table `into`, like it), bad ones in quarantine.

        `writer` names the token of a caller that writes for no tenant: appends of one writer are stored in order.

        The future raises RK5003 for another tenant's row, RK5008 for a used key, RK5011 for a failing view, and
        RK5013 while an earlier batch is in doubt. Raises RK5005 and RK5006 at once where no rows are taken.
        """
        self._ingestion.stage_for(name, format)
        append = Append(name, body, format, bound, key, into=into, whole=whole, writer=_turn(bound, writer))
        # A caller may go away; its rows are stored all the same.
        append.answer.set_running_or_notify_cancel()
        if not body.strip() and not key:
            append.answer.set_result(AppendResult("", 0))
            return append.answer
        if append.key:
            append.digest = hashlib.sha256(body).hexdigest()
        with self._lock:
            if self._closed:
                raise RookeryError(CLOSED, "the server is stopping", headers={"Retry-After": "1"})
            flying = self._flying.get(key_of(append)) if append.key else None
            if flying is not None:
                if flying.digest != append.digest:
                    same_body(_receipt_of(flying), append.digest)
                return _as_repeated(flying.answer)
            if append.key:
                self._flying[key_of(append)] = append
            lane = self._lanes.setdefault(name, IngestQueue())
            lane.add(append)
            if lane.may_start(append):
                self._start(lane)
        return append.answer

    def close(self) -> None:
        """Store what waits, and take nothing more."""
        with self._lock:
            self._closed = True
            self._idle.wait_for(lambda: not self._busy)
        self._threads.shutdown(wait=True)
        self._searches.shutdown(wait=True)
        self.receipts.flush()

    def _start(self, lane: IngestQueue) -> None:
        """Take a lane's next batch under way. Called with the lock held."""
        if appends := lane.take():
            lane.running[appends[0].bound] += 1
            self._busy += 1
            self._submit(lane, appends)

    def _run(self, lane: IngestQueue, appends: list[Append]) -> None:
        """Store a lane's batches, one after the other as long as no other lane waits for its turn."""
        with self._lock:
            self._queued -= 1
        while appends:
            bound = appends[0].bound
            done, failed = self._stored(appends)
            with self._lock:
                callers = len(appends) + lane.waiting_for(bound)
            self._search_later(lane, failed)
            for append in appends:
                if id(append) in done:
                    self._answer(append, done[id(append)])
            if not failed:
                self._gather(lane, callers, bound)
            with self._lock:
                lane.ended(bound)
                appends = lane.take()
                if not appends:
                    self._ended()
                    return
                lane.running[appends[0].bound] += 1
                if self._queued and not self._closed:
                    self._submit(lane, appends)
                    return

    def _ended(self) -> None:
        self._busy -= 1
        if not self._busy:
            self._idle.notify_all()

    def _submit(self, lane: IngestQueue, appends: list[Append]) -> None:
        self._queued += 1
        self._threads.submit(self._run, lane, appends)

    def _gather(self, lane: IngestQueue, callers: int, bound: str | None) -> None:
        """Let a crowd of callers, of whom some were just answered, come again before the next batch begins.

        Otherwise they would part: the first have a batch for themselves, and the others wait for it. Callers who
        write for another tenant do not wait for a crowd.
        """
        with self._lock:
            others = lane.waiting > lane.waiting_for(bound)
        if callers < COALESCE_CALLERS or others:
            return
        lane.expected, lane.gathering, end = callers, bound, time.monotonic() + COALESCE_TIMEOUT_SECONDS
        lane.enough.clear()
        before = seen = lane.waiting
        while not (lane.complete or self._closed or time.monotonic() > end):
            if lane.enough.wait(COALESCE_QUIET_SECONDS) or before < lane.waiting == seen:
                break
            seen = lane.waiting

    def _search_later(self, lane: IngestQueue, failed: Sequence[Group]) -> None:
        """Hand groups whose rows have to be searched over to the threads for that, each writer's in its own turn."""
        with self._lock:
            for writer in lane.hold(failed):
                self._busy += 1
                self._searches.submit(self._search, lane, writer)

    def _search(self, lane: IngestQueue, writer: str) -> None:
        """One step for a writer's groups that failed; then it is the turn of other writers."""
        with self._lock:
            group = lane.held[writer].popleft()
        attempt = self._attempt(group)
        for append in group.appends:
            if id(append) in attempt.done:
                self._answer(append, attempt.done[id(append)])
        with self._lock:
            lane.held[writer].extendleft(reversed(attempt.left))
            if lane.held[writer]:
                self._searches.submit(self._search, lane, writer)
                return
            waiting = lane.release(writer)
            if waiting is not None and lane.may_start(waiting):
                self._start(lane)
            self._ended()

    def _stored(self, appends: Sequence[Append]) -> tuple[_Done, list[Group]]:
        """Store what is good of a batch, and tell which groups have to be searched. Never raises."""
        done: _Done = {}
        try:
            groups = deque(self._groups(appends, done))
        except BaseException as exc:
            error = exc if isinstance(exc, RookeryError) else _bug(exc)
            return {id(a): error for a in appends}, []
        failed: list[Group] = []
        held: set[str] = set()
        while groups:
            group = groups.popleft()
            writers = {a.writer for a in group.appends}
            if len(writers) == 1 and (group.failed or writers & held):
                # What a writer sent after rows that are searched is stored after them.
                failed.append(group)
                held |= writers
            elif writers & held:
                groups.extendleft(reversed(group.parts()))
            else:
                attempt = self._attempt(group)
                done |= attempt.done
                groups.extendleft(reversed(attempt.left))
        return done, failed

    def _groups(self, appends: Sequence[Append], done: _Done) -> list[Group]:
        """What of a batch is to be stored together. Appends that an earlier try has stored are `done`."""
        self._ingestion.settle(appends[0].datasource)
        found = self.receipts.find([key_of(a) for a in appends if a.key])
        together = []
        for append in appends:
            receipt = found.get(key_of(append)) if append.key else None
            if receipt is not None and (receipt.stands or receipt.digest != append.digest):
                done[id(append)] = _repeated(receipt, append)
                continue
            self._ingestion.look(append)
            together.append(append)
        if self._workspace.current.build.datasources[appends[0].datasource].is_landing:
            return [Group(together, failed=False)] if together else []
        groups: list[list[Append]] = []
        for append in together:
            # Without a log, a key is the batch's identity.
            if append.key or not groups or groups[-1][0].key:
                groups.append([append])
            else:
                groups[-1].append(append)
        return [Group(g, failed=False) for g in groups]

    def _attempt(self, group: Group) -> Attempt:
        """A step towards storing a group, counted. Never raises."""
        try:
            require_space(self._workspace, sum(len(a.body) for a in group.appends))
            with self._memory.set_aside(self._needed(group)):
                attempt = self._ingestion.attempt(group)
        except BaseException as exc:
            error = exc if isinstance(exc, RookeryError) else _bug(exc)
            attempt = Attempt({id(a): error for a in group.appends})
        _count(group.appends, attempt.done)
        return attempt

    def _needed(self, group: Group) -> int:
        """The most memory that reading a group's rows may take."""
        first = group.appends[0]
        columns = len(self._workspace.current.build.datasources[first.datasource].columns)
        size = sum(len(a.body) for a in group.appends)
        return needed(size, columns, first.format, self._workspace.settings.insert_memory)

    def _answer(self, append: Append, outcome: AppendResult | RookeryError) -> None:
        if append.key:
            with self._lock:
                self._flying.pop(key_of(append), None)
        if isinstance(outcome, RookeryError):
            append.answer.set_exception(outcome)
        else:
            append.answer.set_result(outcome)


def _turn(bound: str | None, writer: str) -> str:
    """Whose turn an append takes: a tenant's, or that of a token without one."""
    return f"token {writer}" if bound is None else f"tenant {bound}"


def _as_repeated(first: Future[AppendResult]) -> Future[AppendResult]:
    """The answer of a try that came while the first one was under way."""
    answer = Future[AppendResult]()
    answer.set_running_or_notify_cancel()

    def pass_on(done: Future[AppendResult]) -> None:
        if (exc := done.exception()) is not None:
            answer.set_exception(exc)
        else:
            answer.set_result(replace(done.result(), repeated=True))

    first.add_done_callback(pass_on)
    return answer


def _receipt_of(append: Append) -> Receipt:
    return Receipt(key_of(append), append.digest, "", 0, 0)


def _repeated(receipt: Receipt, append: Append) -> AppendResult | RookeryError:
    try:
        same_body(receipt, append.digest)
    except RookeryError as exc:
        return exc
    return AppendResult(
        receipt.batch,
        receipt.rows,
        receipt.quarantined,
        receipt.refused,
        receipt.tenants,
        repeated=True,
        unknown=receipt.unknown,
        first=receipt.first,
    )


def _count(appends: Sequence[Append], done: _Done) -> None:
    stored = [(a, o) for a in appends if isinstance(o := done.get(id(a)), AppendResult)]
    if stored:
        name = appends[0].datasource
        observe.INGEST_BATCHES.labels(name).inc()
        observe.INGEST_REQUESTS.labels(name).inc(len(stored))
        observe.INGESTED_ROWS.labels(name).inc(sum(o.rows for _, o in stored))
        observe.INGESTED_BYTES.labels(name).inc(sum(len(a.body) for a, o in stored if o.rows))
        observe.QUARANTINED_ROWS.labels(name).inc(sum(o.quarantined for _, o in stored))
        observe.REFUSED_ROWS.labels(name).inc(sum(o.refused for _, o in stored))


def _bug(exc: BaseException) -> RookeryError:
    log.error("a batch could not be stored", exc_info=exc)
    return RookeryError(
        INTERNAL, "the batch could not be stored", hint="the server's log tells more", detail=str(exc)
    )
