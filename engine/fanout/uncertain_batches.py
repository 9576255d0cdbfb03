"""Uncertain batches: an INSERT into a datasource failed, or its process was killed, so some views may miss its rows.

An uncertain batch is inserted again with its own token: from landing, or from a copy of its rows if it cannot be read
there (`kept_rows.py`). Tables that have the batch recognize the token; the others store it. Until then, nothing else
is stored in the datasource, because targets remember the tokens of only a limited number of inserts. Uncertain
batches are recorded in the registry, or saved with their rows. After a start, the newest batch of every landing
datasource counts as uncertain, and so does every batch with a copy of its rows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from engine.errors import DISK_FULL, IN_DOUBT, RookeryError
from engine.fanout.batch_completion import (
    NEWEST_BATCH,
    UNCERTAIN_KIND,
    BatchCompletion,
    UncertainBatch,
    record_repeated_insert,
)
from engine.fanout.insert_failures import InsertFailures
from engine.fanout.kept_rows import KeptBatch, saved_batches
from engine.warehouse.errors import for_sender, is_transient
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.fanout")

MIN_RETRY_SECONDS = 0.1
"""Pause between two attempts for one datasource, even if many requests ask for it."""
MAX_PAUSE_SECONDS = 30.0
"""Longest pause between attempts of the background thread."""


class UncertainBatches:
    """The uncertain batches of one workspace.

    Ingest threads add and complete batches, changes to views complete all of them, and a background thread retries
    when no request does. The thread that completes a batch holds the insert lock exclusively.
    """

    def __init__(self, workspace: Workspace, now: Callable[[], float] = time.monotonic) -> None:
        self._workspace = workspace
        self._now = now
        self._batches: dict[str, list[UncertainBatch]] = {}
        """By datasource, oldest first."""
        self._last_errors: dict[str, tuple[float, RookeryError]] = {}
        """By datasource: when completing its batch last failed, and the error."""
        self.failures = InsertFailures(now)
        self._completion = BatchCompletion(workspace, self.failures)
        self._repeated: set[str] = set()
        """Datasources whose repeated INSERTs have used up block numbers."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._is_retrying = False
        """Whether the thread will look for uncertain batches again. Protected by the lock."""
        workspace.view_lock.attach_completion(self)

    def add(self, datasource: str, batch: str, error: str, kept: KeptBatch | None = None) -> None:
        """Remember an uncertain batch. Never raises, since the disk may be full."""
        uncertain = UncertainBatch(datasource, batch, time.time(), error[:1000], kept=kept)
        log.error("a batch is uncertain", datasource=datasource, batch=batch, error=error)
        # Before the database is called: the next commit of the datasource must find the batch.
        self._remember(uncertain)
        self.failures.count(datasource)
        if kept is not None:
            self._save(kept)
        if kept is None or kept.removed:
            self._record(uncertain)
        self._start_thread()

    def _save(self, kept: KeptBatch) -> None:
        """Copy the rows of a batch, if the disk allows it. Never raises."""
        try:
            kept.save(self._workspace)
        except RookeryError as exc:
            log.warning("rows of an uncertain batch could not be saved", batch=kept.batch, error=exc)

    def recover(self) -> None:
        """At startup: load the recorded batches, add the newest batch of every landing datasource, and complete them.

        A batch that cannot be completed stays uncertain, and its datasource stores nothing until it is complete.
        """
        kept_by_batch = {kept.batch: kept for kept in saved_batches(self._workspace)}
        for batch, body in self._workspace.registry.read(UNCERTAIN_KIND).items():
            kept = kept_by_batch.pop(batch, None)
            if kept is not None:
                # Only a batch with a damaged part that was removed has both a record and a copy.
                kept.removed = True
            since = float(body["since"])
            self._remember(UncertainBatch(body["datasource"], batch, since, body["error"], recorded=True, kept=kept))
        for batch, kept in kept_by_batch.items():
            error = "the server was stopped"
            self._remember(UncertainBatch(kept.datasource, batch, time.time(), error, kept=kept))
        # A kill, or a full disk, leaves no record of the batch that was being stored.
        for name, relation in self._workspace.current.build.relations.items():
            if relation.kind == "landing":
                self._remember(UncertainBatch(name, NEWEST_BATCH, time.time()))
        for datasource in list(self._batches):
            try:
                self.complete(datasource, now=True)
            except RookeryError:
                self._start_thread()

    def _remember(self, uncertain: UncertainBatch) -> None:
        """Add a batch in the order of age, unless it is known."""
        with self._lock:
            batches = self._batches.setdefault(uncertain.datasource, [])
            if all(b.batch != uncertain.batch for b in batches):
                batches.append(uncertain)
                batches.sort(key=lambda b: b.since)

    def outstanding(self) -> list[UncertainBatch]:
        """All uncertain batches, oldest first."""
        with self._lock:
            return sorted((b for batches in self._batches.values() for b in batches), key=lambda b: b.since)

    def contains(self, datasource: str, batch: str | None = None) -> bool:
        """Whether a batch of a datasource is uncertain; without a batch, whether any is."""
        with self._lock:
            batches = self._batches.get(datasource, ())
            return any(batch is None or b.batch in (NEWEST_BATCH, batch) for b in batches)

    def batch_stored(self, datasource: str) -> None:
        """Forget earlier failures of a datasource: a batch has reached every table."""
        self.failures.forget(datasource)
        if datasource in self._repeated:
            self._repeated.discard(datasource)
            record_repeated_insert(self._workspace, datasource)

    def complete(self, datasource: str, *, now: bool = False) -> None:
        """Complete the uncertain batches of a datasource.

        Raises the error that prevents it, in the form that a sender may see. Without `now`, raises the last error
        again if the last attempt was less than MIN_RETRY_SECONDS ago.
        """
        with self._lock:
            if datasource not in self._batches:
                return
            last = self._last_errors.get(datasource)
            if last is not None and not now and self._now() - last[0] < MIN_RETRY_SECONDS:
                raise last[1]
        # No insert may run between the check of landing and the repeated INSERT.
        with self._workspace.insert_lock.exclusive():
            with self._lock:
                batches = list(self._batches.get(datasource, ()))
            for uncertain in batches:
                try:
                    self._completion.complete(uncertain)
                except RookeryError as exc:
                    raise self._record_failure(uncertain, exc) from exc
                self._remove(uncertain)

    def complete_all(self) -> None:
        """Complete all uncertain batches. Raises the error of the first one that cannot be completed."""
        for datasource in list(self._batches):
            self.complete(datasource, now=True)

    def close(self) -> None:
        """Stop the background thread. Records stay for the next start."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(30)

    def _record_failure(self, uncertain: UncertainBatch, exc: RookeryError) -> RookeryError:
        """Record that a batch could not be completed. Returns the error for the sender."""
        uncertain.tries += 1
        self.failures.count(uncertain.datasource)
        if uncertain.kept is not None:
            self._save(uncertain.kept)
        uncertain.error = (exc.detail or exc.message)[:1000]
        error = exc if exc.code is DISK_FULL else _blocked(uncertain.datasource, exc)
        with self._lock:
            self._last_errors[uncertain.datasource] = (self._now(), error)
        datasource, batch = uncertain.datasource, uncertain.batch
        log.error("a batch is still uncertain", datasource=datasource, batch=batch, error=uncertain.error)
        return error

    def _remove(self, uncertain: UncertainBatch) -> None:
        """Forget a batch that is complete, with its record and its rows."""
        datasource, batch = uncertain.datasource, uncertain.batch
        with self._lock:
            remaining = [b for b in self._batches.get(datasource, ()) if b is not uncertain]
            if remaining:
                self._batches[datasource] = remaining
            else:
                self._batches.pop(datasource, None)
                self._last_errors.pop(datasource, None)
        if uncertain.recorded or (uncertain.kept is not None and uncertain.kept.removed):
            try:
                self._workspace.registry.remove(UNCERTAIN_KIND, [batch])
            except RookeryError as exc:
                # The next start completes it again, which does not change anything.
                log.warning("the record of a batch could not be deleted", batch=batch, error=exc)
        if uncertain.tries or uncertain.kept is not None:
            # The block numbers that the attempts used up are only known when the next batch has a number.
            self._repeated.add(datasource)
        if batch or uncertain.tries:
            log.info("an uncertain batch is complete", datasource=datasource, batch=batch)

    def _record(self, uncertain: UncertainBatch) -> None:
        """Record a batch in the registry, if the disk allows it. Never raises."""
        try:
            self._workspace.registry.write(UNCERTAIN_KIND, {uncertain.batch: uncertain.as_dict()})
            uncertain.recorded = True
        except RookeryError as exc:
            # After a restart it counts as uncertain in any case, because it is the datasource's newest batch.
            log.warning("an uncertain batch could not be recorded", batch=uncertain.batch, error=exc)

    def _start_thread(self) -> None:
        """Start the background thread, unless it runs."""
        with self._lock:
            if self._closed or self._is_retrying:
                return
            self._is_retrying = True
            self._thread = threading.Thread(target=self._retry, name="uncertain batches", daemon=True)
            self._thread.start()

    def _retry(self) -> None:
        """Retry with growing pauses until no batch is uncertain. Runs in the background thread."""
        pause = 1.0
        while self._must_retry():
            self._wake.wait(pause)
            pause = min(pause * 2, MAX_PAUSE_SECONDS)
            for datasource in list(self._batches):
                if self._closed:
                    return
                try:
                    self.complete(datasource)
                except RookeryError:
                    continue
                except Exception:
                    log.exception("an uncertain batch could not be completed", datasource=datasource)

    def _must_retry(self) -> bool:
        """Whether the background thread continues. Otherwise it ends, and the next uncertain batch starts another."""
        with self._lock:
            # Decided with the lock held: a batch that is added now must not count on a thread that has just ended.
            self._is_retrying = bool(self._batches) and not self._closed
            return self._is_retrying


def _blocked(datasource: str, exc: RookeryError) -> RookeryError:
    """The error for senders while an uncertain batch blocks its datasource."""
    reason = for_sender(exc) if is_transient(exc) else exc
    blocked = f"`{datasource}` stores no rows until an earlier batch has reached every table: "
    return RookeryError(
        IN_DOUBT,
        blocked + reason.message,
        hint="send the rows again after the time in Retry-After; `rookery doctor` shows the batch",
        detail=exc.detail or exc.message,
        headers={"Retry-After": exc.headers.get("Retry-After", "2")},
        public=blocked + reason.public,
    )


def uncertain_batches_of(workspace: Workspace) -> UncertainBatches:
    """The workspace's uncertain batches, created on first use and closed with the workspace."""
    return workspace.service("uncertain batches", lambda: UncertainBatches(workspace))
