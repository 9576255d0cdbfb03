"""The way in: appends wait for each other and go into their datasource together.

While one batch of a datasource is being stored the next gathers, so that many small requests become few inserts and
a lone request waits for nobody. What waits is bounded, in bytes.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import structlog

from engine import observe
from engine.errors import CLOSED, INTERNAL, QUEUE_FULL, RookeryError
from engine.plan.disk import require_room
from engine.plan.state import Workspace
from engine.schema import Name
from engine.serve.batch import Append, Outcome
from engine.serve.bodies import small_lines
from engine.serve.ingest import Ingestion, key_of
from engine.serve.landing import Router
from engine.serve.receipts import Key, Receipt, Receipts, same_body
from engine.serve.stages import Stages
from engine.warehouse.errors import for_sender, may_pass
from engine.warehouse.port import Input

log = structlog.get_logger("rookery.ingest")

TOGETHER = 64 << 10
"""Requests up to this many bytes are put together as text; a larger one is read by the engine by itself."""
BATCH = 8 << 20
"""Bytes of requests that share an INSERT into the datasource."""
AT_ONCE = 2
"""Batches of one datasource under way at once: one is parsed while another is stored."""
CROWD = 4
"""Callers from which on a batch waits for those that were just answered, while they come again."""
QUIET, PATIENCE = 0.003, 0.025
"""Seconds without another newcomer that end the wait, and its longest."""
WORTH = 512 << 10
"""Bytes that must wait for a second batch to begin: fewer do better to gather until the first is stored."""


@dataclass(slots=True)
class _Lane:
    """What waits for one datasource."""

    waiting: deque[Append] = field(default_factory=deque)
    size: int = 0
    running: int = 0
    expected: int = 0
    enough: threading.Event = field(default_factory=threading.Event)

    @property
    def complete(self) -> bool:
        """Whether all callers that are expected are there, or enough of them for a batch."""
        return len(self.waiting) >= self.expected or self.size >= WORTH


class Room:
    """A request's share of the memory for what waits: taken while its body is read, left when it is answered."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._taken = 0

    def take(self, size: int) -> None:
        """Take more room. Raises RK5010 when there is none."""
        self._gateway.take(size)
        self._taken += size

    def leave(self) -> None:
        self._gateway.take(-self._taken)
        self._taken = 0

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


class Gateway:
    """Takes appends and answers each by its future."""

    def __init__(self, workspace: Workspace, stages: Stages, router: Router | None = None) -> None:
        self._workspace = workspace
        self.receipts = Receipts(workspace)
        self._ingestion = Ingestion(workspace, stages, self.receipts, router)
        self._lanes: dict[str, _Lane] = {}
        self._flying: dict[Key, Append] = {}
        self._lock = threading.Lock()
        self._taken = 0
        self._closed = False
        self._queued = 0
        self._threads = ThreadPoolExecutor(workspace.settings.writers, thread_name_prefix="ingest")

    @property
    def waiting_bytes(self) -> int:
        """Bytes of bodies in memory."""
        return self._taken

    def room(self) -> Room:
        """Room for one request's body."""
        return Room(self)

    def take(self, size: int) -> None:
        """Count bytes that wait, or that no longer do. Raises RK5010."""
        with self._lock:
            limit = self._workspace.settings.max_waiting
            if size > 0 and self._taken + size > limit:
                raise RookeryError(
                    QUEUE_FULL,
                    "too much waits to be stored",
                    hint="send it again after a second; the room is ROOKERY_MAX_WAITING",
                    headers={"Retry-After": "1"},
                )
            self._taken += size

    def append(
        self,
        name: str,
        body: bytes,
        format: Input,
        bound: str | None = None,
        key: str | None = None,
        *,
        into: Name | None = None,
        whole: bool = True,
    ) -> Future[Outcome]:
        """Store a body's rows; good ones in the datasource (or the table `into`, like it), bad ones in quarantine.

        The future raises RK5003 for another tenant's row, RK5008 for a used key, RK5011 for a failing view, RK5013
        while an earlier batch is in doubt. Raises
        RK5005 and RK5006 at once, for a datasource that takes no rows.
        """
        self._ingestion.stage_for(name, format)
        append = Append(name, body, format, bound, key, into=into, whole=whole)
        # Whoever waits may go away; the rows go on.
        append.answer.set_running_or_notify_cancel()
        if not body.strip() and not key:
            append.answer.set_result(Outcome("", 0))
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
            lane = self._lanes.setdefault(name, _Lane())
            lane.waiting.append(append)
            lane.size += len(body)
            if lane.complete:
                lane.enough.set()
            if not lane.running or (lane.running < AT_ONCE and lane.size >= WORTH):
                lane.running += 1
                self._submit(lane)
        return append.answer

    def close(self) -> None:
        """Store what waits, and take nothing more."""
        with self._lock:
            self._closed = True
        self._threads.shutdown(wait=True)

    def _run(self, lane: _Lane) -> None:
        """Store a lane's batches, one after the other as long as no other lane waits for its turn."""
        with self._lock:
            self._queued -= 1
        while appends := self._next(lane):
            callers = len(appends)
            try:
                outcomes = self._stored(appends)
                callers += len(lane.waiting)
                for append, outcome in zip(appends, outcomes, strict=True):
                    self._answer(append, outcome)
            except BaseException as exc:
                error = exc if isinstance(exc, RookeryError) else _bug(exc)
                for append in appends:
                    if not append.answer.done():
                        self._answer(append, error)
            self._gather(lane, callers)
            with self._lock:
                if self._queued and not self._closed:
                    self._submit(lane)
                    return

    def _submit(self, lane: _Lane) -> None:
        self._queued += 1
        self._threads.submit(self._run, lane)

    def _gather(self, lane: _Lane, callers: int) -> None:
        """Let a crowd of callers, of whom some were just answered, come again before the next batch begins.

        Otherwise they would part: the first have a batch for themselves, and the others wait for it.
        """
        if callers < CROWD:
            return
        lane.expected, end = callers, time.monotonic() + PATIENCE
        lane.enough.clear()
        before = seen = len(lane.waiting)
        while not (lane.complete or self._closed or time.monotonic() > end):
            if lane.enough.wait(QUIET) or before < len(lane.waiting) == seen:
                break
            seen = len(lane.waiting)

    def _next(self, lane: _Lane) -> list[Append]:
        """The next batch: the oldest append, with others of its tenant if both are JSON."""
        with self._lock:
            if not lane.waiting:
                lane.running -= 1
                return []
            first = lane.waiting.popleft()
            if not _may_join(first):
                lane.size -= len(first.body)
                return [first]
            taken, left, size = [first], deque[Append](), len(first.body)
            while lane.waiting and size < BATCH:
                append = lane.waiting.popleft()
                if _may_join(append) and append.bound == first.bound:
                    taken.append(append)
                    size += len(append.body)
                else:
                    left.append(append)
            left.extend(lane.waiting)
            lane.waiting = left
            lane.size -= size
            return taken

    def _stored(self, appends: Sequence[Append]) -> list[Outcome | RookeryError]:
        """Store a batch, but for appends that an earlier try has stored."""
        self._ingestion.settle(appends[0].datasource)
        results: dict[int, Outcome | RookeryError] = {}
        found = self.receipts.find([key_of(a) for a in appends if a.key])
        together = []
        for append in appends:
            receipt = found.get(key_of(append)) if append.key else None
            if receipt is not None and (receipt.stands or receipt.digest != append.digest):
                results[id(append)] = _repeated(receipt, append)
                continue
            append.lines = small_lines(append.body) if _is_small(append) else None
            together.append(append)
        groups = [together] if together else []
        if not self._workspace.current.build.datasources[appends[0].datasource].is_landing:
            # Without a log, a key is the batch's identity.
            groups = [g for g in ([a for a in together if not a.key], *([a] for a in together if a.key)) if g]
        for group in groups:
            try:
                require_room(self._workspace, sum(len(a.body) for a in group))
                outcomes = self._ingestion.store(group)
            except RookeryError as exc:
                seen = for_sender(exc) if may_pass(exc) else exc
                outcomes = [seen for _ in group]
            _count(group, outcomes)
            results |= {id(a): o for a, o in zip(group, outcomes, strict=True)}
        return [results[id(a)] for a in appends]

    def _answer(self, append: Append, outcome: Outcome | RookeryError) -> None:
        if append.key:
            with self._lock:
                self._flying.pop(key_of(append), None)
        if isinstance(outcome, RookeryError):
            append.answer.set_exception(outcome)
        else:
            append.answer.set_result(outcome)


def _may_join(append: Append) -> bool:
    """Whether an append may be stored together with others."""
    return append.format is Input.NDJSON and append.into is None


def _is_small(append: Append) -> bool:
    return _may_join(append) and len(append.body) <= TOGETHER


def _as_repeated(first: Future[Outcome]) -> Future[Outcome]:
    """The answer of a try that came while the first one was under way."""
    answer = Future[Outcome]()
    answer.set_running_or_notify_cancel()

    def pass_on(done: Future[Outcome]) -> None:
        if (exc := done.exception()) is not None:
            answer.set_exception(exc)
        else:
            answer.set_result(replace(done.result(), repeated=True))

    first.add_done_callback(pass_on)
    return answer


def _receipt_of(append: Append) -> Receipt:
    return Receipt(key_of(append), append.digest, "", 0, 0)


def _repeated(receipt: Receipt, append: Append) -> Outcome | RookeryError:
    try:
        same_body(receipt, append.digest)
    except RookeryError as exc:
        return exc
    return Outcome(receipt.batch, receipt.rows, receipt.quarantined, receipt.tenants, None, repeated=True)


def _count(appends: Sequence[Append], outcomes: Sequence[Outcome | RookeryError]) -> None:
    stored = [(a, o) for a, o in zip(appends, outcomes, strict=True) if isinstance(o, Outcome)]
    if stored:
        name = appends[0].datasource
        observe.count("ingest_batches", datasource=name)
        observe.count("ingest_requests", len(stored), datasource=name)
        observe.count("ingested_rows", sum(o.rows for _, o in stored), datasource=name)
        observe.count("ingested_bytes", sum(len(a.body) for a, o in stored if o.rows), datasource=name)
        observe.count("quarantined_rows", sum(o.quarantined for _, o in stored), datasource=name)


def _bug(exc: BaseException) -> RookeryError:
    log.error("a batch could not be stored", exc_info=exc)
    return RookeryError(
        INTERNAL, "the batch could not be stored", hint="the server's log tells more", detail=str(exc)
    )
