"""Accepts appends, combines those that wait at the same time into batches, and returns a future for each.

Appends that arrive while a batch of their datasource is stored form the next batch, so many small requests become few
INSERTs, and a single request does not wait. Writers take turns. Bad rows are searched for on separate threads, so
that they delay only the writer that sent them. The memory for waiting bodies is limited.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import structlog

from engine.errors import BAD_TOKEN, CLOSED, RookeryError
from engine.ingest.batch import Append, AppendResult, writer_id
from engine.ingest.grouping import Grouping
from engine.ingest.idempotency.keys import Key, key_of, require_same_body
from engine.ingest.idempotency.receipts import Receipts
from engine.ingest.insert_memory import InsertMemory, max_insert_bytes
from engine.ingest.memory_budget import BodyMemory, MemoryBudget
from engine.ingest.stage_schemas import schema_for
from engine.ingest.staging_pool import StagingPool
from engine.ingest.unexpected_errors import unexpected_error
from engine.ingest.writer import Attempt, BatchWriter, Results
from engine.ingest.writer_queues import AppendGroup, IngestQueue
from engine.observe import metrics
from engine.warehouse.port import Input
from engine.workspace.disk import require_space
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.ingest")

MAX_SEARCHES = 2
"""Number of threads that search for bad rows, for all datasources together."""


class Gateway:
    """Queues appends by datasource and writer, and stores them on the `ingest` and `search` threads."""

    def __init__(self, workspace: Workspace, stages: StagingPool) -> None:
        self._workspace = workspace
        self.receipts = Receipts(workspace)
        self.replay_lock = threading.Lock()
        """Held during a replay of quarantined rows: two replays of one row would both read it before either removes
        it."""
        self._writer = BatchWriter(workspace, stages, self.receipts)
        self._grouping = Grouping(workspace, self.receipts, self._writer)
        # Protects the queues and the counts below. No other lock of rookery's is taken while it is held.
        self._lock = threading.Lock()
        self._queues: dict[str, IngestQueue] = {}
        """By datasource."""
        self._keyed_appends: dict[Key, Append] = {}
        """Appends with an idempotency key that wait or are being stored."""
        self._is_closed = False
        self._submitted_batches = 0
        """Batches that wait for an `ingest` thread."""
        self._active_tasks = 0
        """Series of batches and searches that are not complete; `close` waits for them."""
        self._idle = threading.Condition(self._lock)
        self._bodies = BodyMemory(workspace.settings.max_waiting)
        self._insert_memory = InsertMemory(workspace.settings.total_insert_memory)
        # The number of the database's connections for inserts: additional threads would wait for a connection while
        # they hold a batch.
        self._threads = ThreadPoolExecutor(workspace.settings.writers, thread_name_prefix="ingest")
        self._searches = ThreadPoolExecutor(MAX_SEARCHES, thread_name_prefix="search")

    @property
    def waiting_bytes(self) -> int:
        """Bytes of bodies in memory."""
        return self._bodies.reserved

    @property
    def waiting_appends(self) -> int:
        """Appends in queues, whose batch has not started."""
        with self._lock:
            return sum(queue.waiting for queue in self._queues.values())

    def memory_budget(self, bound_tenant: str | None = None, token: str = "") -> MemoryBudget:
        """The memory budget of a request, counted to the writer that the token belongs to."""
        return self._bodies.budget(writer_id(bound_tenant, token))

    def require_writable(self, datasource: str, format: Input) -> None:
        """Raise RK5005 if the datasource does not exist, and RK5006 if its rows come from a pipe."""
        schema_for(self._workspace.current, datasource, format)

    def append(
        self, datasource: str, body: bytes, format: Input, bound_tenant: str | None = None, key: str | None = None
    ) -> Future[AppendResult]:
        """Store the rows of a body; see `submit`."""
        return self.submit(Append(datasource, body, format, bound_tenant, key))

    def submit(self, append: Append) -> Future[AppendResult]:
        """Store an append's rows: good ones in the datasource (or `target`), bad ones in quarantine.

        Queues the append and returns: the event loop calls this, and threads that send uploads or replay rows. The
        future is completed by an `ingest` or `search` thread, in which its callbacks run. Appends of one writer are
        stored in order. The future raises RK5003 for another tenant's row, RK5008 for a key that was used for another
        body, RK5011 for a failing view, and RK5013 while an earlier batch is uncertain.

        Raises RK5005 and RK5006 immediately if rows cannot be appended, RK5008 if an append with the same key and
        another body is being stored, RK4002 if the tenant no longer exists, and RK6007 while the server stops.
        """
        self.require_writable(append.datasource, append.format)
        pending = self._workspace.pending_appends
        pending.add(append.future)
        try:
            # After the line above: an erasure either waits for this append, or has removed the tenant by now.
            self._require_tenant(append.bound_tenant)
            future = self._enqueue(append)
        except BaseException:
            pending.discard(append.future)
            raise
        if future is not append.future:
            pending.discard(append.future)
        return future

    def _require_tenant(self, bound_tenant: str | None) -> None:
        """Raise RK4002 if a tenant was removed since its token was checked."""
        if bound_tenant is not None:
            record = self._workspace.current.tenants.get(bound_tenant)
            if record is None or record.state == "removing":
                raise RookeryError(BAD_TOKEN, "the token's tenant does not exist")

    def _enqueue(self, append: Append) -> Future[AppendResult]:
        """Add an append to its queue. Returns its future, or that of an append with the same key."""
        # The rows are stored even if the caller disconnects, so the future must not be cancellable.
        append.future.set_running_or_notify_cancel()
        if not append.body.strip() and not append.key:
            append.future.set_result(AppendResult("", 0))
            return append.future
        if append.key:
            append.digest = hashlib.sha256(append.body).hexdigest()
        with self._lock:
            if self._is_closed:
                raise RookeryError(CLOSED, "the server is stopping", headers={"Retry-After": "1"})
            if append.key:
                first = self._keyed_appends.setdefault(key_of(append), append)
                if first is not append:
                    require_same_body(first.digest, append.digest)
                    return _future_of_retry(first.future)
            # Done with the same lock as the check above, so that `close` waits for every accepted append.
            queue = self._queues.get(append.datasource)
            if queue is None:
                queue = self._queues[append.datasource] = IngestQueue()
            queue.add(append)
            if queue.may_start(append):
                self._start_batch(queue)
        return append.future

    def close(self) -> None:
        """Store all waiting appends, and do not accept new ones."""
        with self._lock:
            self._is_closed = True
            self._idle.wait_for(lambda: not self._active_tasks)
        self._threads.shutdown(wait=True)
        self._searches.shutdown(wait=True)
        self.receipts.flush()

    def _start_batch(self, queue: IngestQueue) -> None:
        """Submit a queue's next batch, if there is one. Called with the lock held."""
        if appends := queue.next_batch():
            queue.running[appends[0].sharing] += 1
            self._active_tasks += 1
            self._submit_batch(queue, appends)

    def _run_batches(self, queue: IngestQueue, appends: list[Append]) -> None:
        """Store a queue's batches one after the other, until another queue waits for a thread.

        Runs on an `ingest` thread, and counts as one active task until it has no next batch.
        """
        with self._lock:
            self._submitted_batches -= 1
        while appends:
            sharing = appends[0].sharing
            results, failed = self._store(queue, appends)
            # Counted before the responses: afterwards the callers' next appends would be counted too.
            with self._lock:
                callers = len(appends) + queue.waiting_for(sharing)
            # Done before the responses: the writer's queue must be held before its next appends arrive.
            self._search_later(queue, failed)
            self._answer_all(appends, results)
            if not failed:
                self._coalesce(queue, callers, sharing)
            with self._lock:
                queue.batch_ended(sharing)
                appends = queue.next_batch()
                if not appends:
                    self._task_ended()
                    return
                queue.running[appends[0].sharing] += 1
                # Another queue's batch waits for a thread, so release this thread and go to the end of the pool's
                # queue.
                if self._submitted_batches and not self._is_closed:
                    self._submit_batch(queue, appends)
                    return

    def _task_ended(self) -> None:
        """Count the end of an active task, for which `close` waits. Called with the lock held."""
        self._active_tasks -= 1
        if not self._active_tasks:
            self._idle.notify_all()

    def _submit_batch(self, queue: IngestQueue, appends: list[Append]) -> None:
        """Pass a batch to the `ingest` threads. Called with the lock held."""
        self._submitted_batches += 1
        self._threads.submit(self._run_batches, queue, appends)

    def _coalesce(self, queue: IngestQueue, callers: int, sharing: str | None) -> None:
        """Delay the next batch for the callers that just got responses, unless appends wait that cannot join it."""
        with self._lock:
            others_wait = queue.waiting > queue.waiting_for(sharing)
        if not others_wait:
            queue.delay.wait(callers, sharing, queue.load, lambda: self._is_closed)

    def _search_later(self, queue: IngestQueue, failed: Sequence[AppendGroup]) -> None:
        """Pass groups whose bad rows must be found to the search threads, one task per writer."""
        with self._lock:
            for writer in queue.hold(failed):
                self._active_tasks += 1
                self._searches.submit(self._search, queue, writer)

    def _search(self, queue: IngestQueue, writer: str) -> None:
        """Do one step for a held writer's failed groups, then give other writers a turn (`search` thread)."""
        with self._lock:
            group = queue.held[writer].popleft()
        attempt = self._attempt(group)
        self._answer_all(group.appends, attempt.results)
        with self._lock:
            # Put in front of the writer's other groups, so that its rows stay in order.
            queue.held[writer].extendleft(reversed(attempt.remaining))
            if queue.held[writer]:
                self._searches.submit(self._search, queue, writer)
                return
            next_append = queue.release(writer)
            if next_append is not None and queue.may_start(next_append):
                self._start_batch(queue)
            self._task_ended()

    def _store(self, queue: IngestQueue, appends: Sequence[Append]) -> tuple[Results, list[AppendGroup]]:
        """Store the groups of a batch without bad rows, on an `ingest` thread. Never raises.

        Returns results, and the groups whose bad rows must be searched for.
        """
        results: Results = {}
        try:
            groups = deque(self._grouping.groups_of(appends, queue.probation.writers, results))
        except BaseException as exc:
            # Every append must get a result; otherwise its caller would wait forever.
            error = exc if isinstance(exc, RookeryError) else unexpected_error(exc)
            return {id(a): error for a in appends}, []
        failed: list[AppendGroup] = []
        failed_writers: set[str] = set()
        while groups:
            group = groups.popleft()
            writers = {a.writer for a in group.appends}
            if len(writers) == 1 and (group.failed or writers & failed_writers):
                # Rows that a writer sent after its bad rows are stored after them.
                failed.append(group)
                failed_writers |= writers
            elif writers & failed_writers:
                groups.extendleft(reversed(group.halves()))
            else:
                attempt = self._attempt(group)
                results |= attempt.results
                groups.extendleft(reversed(attempt.remaining))
                if attempt.results and queue.probation:
                    with self._lock:
                        queue.probation.succeed(writers)
        return results, failed

    def _attempt(self, group: AppendGroup) -> Attempt:
        """Do one step of storing a group, within the memory limit for INSERTs, and count it. Never raises."""
        try:
            require_space(self._workspace, sum(len(a.body) for a in group.appends))
            with self._insert_memory.reserved(self._max_insert_bytes(group)):
                attempt = self._writer.attempt(group)
        except BaseException as exc:
            error = exc if isinstance(exc, RookeryError) else unexpected_error(exc)
            attempt = Attempt({id(a): error for a in group.appends})
        _count(group.appends, attempt.results)
        return attempt

    def _max_insert_bytes(self, group: AppendGroup) -> int:
        """The most memory that the engine may take to read a group's rows."""
        first = group.appends[0]
        columns = len(self._workspace.current.build.datasources[first.datasource].columns)
        size = sum(len(a.body) for a in group.appends)
        return max_insert_bytes(size, columns, first.format, self._workspace.settings.insert_memory)

    def _answer_all(self, appends: Iterable[Append], results: Results) -> None:
        """Complete the futures of the appends that have results."""
        for append in appends:
            if id(append) in results:
                self._answer(append, results[id(append)])

    def _answer(self, append: Append, result: AppendResult | RookeryError) -> None:
        """Complete the future of an append. Its `done` callbacks run in this thread."""
        if append.key:
            # Done before the future completes: a retry that arrives from now on finds the receipt instead.
            with self._lock:
                self._keyed_appends.pop(key_of(append), None)
        if isinstance(result, RookeryError):
            append.future.set_exception(result)
        else:
            append.future.set_result(result)


def _future_of_retry(first: Future[AppendResult]) -> Future[AppendResult]:
    """The future of a retry that arrived while the first append with its key was being stored."""
    retry = Future[AppendResult]()
    retry.set_running_or_notify_cancel()

    def copy_result(done: Future[AppendResult]) -> None:
        if (exc := done.exception()) is not None:
            retry.set_exception(exc)
        else:
            retry.set_result(replace(done.result(), repeated=True))

    first.add_done_callback(copy_result)
    return retry


def _count(appends: Sequence[Append], results: Results) -> None:
    """Count a stored batch in the metrics."""
    stored = [(a, r) for a in appends if isinstance(r := results.get(id(a)), AppendResult)]
    if stored:
        name = appends[0].datasource
        metrics.INGEST_BATCHES.labels(name).inc()
        metrics.INGEST_REQUESTS.labels(name).inc(len(stored))
        metrics.INGESTED_ROWS.labels(name).inc(sum(r.rows for _, r in stored))
        metrics.INGESTED_BYTES.labels(name).inc(sum(len(a.body) for a, r in stored if r.rows))
        metrics.QUARANTINED_ROWS.labels(name).inc(sum(r.quarantined for _, r in stored))
        metrics.REFUSED_ROWS.labels(name).inc(sum(r.refused for _, r in stored))
