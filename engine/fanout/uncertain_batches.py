"""Batches in doubt: an INSERT into a datasource failed, or its process was killed, and some views may lack its rows.

A batch in doubt is inserted once more under its own token, from landing, or from where its rows are held if the
datasource is not a landing one: every table that has it recognizes it, the others take it. Nothing else is stored in
its datasource before that, since targets remember only so many later parts. What is in doubt is noted in the
registry, or saved with its rows, where the disk allows it, and the newest batch of every landing datasource is in
doubt after a start in any case.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import structlog

from engine.errors import DISK_FULL, IN_DOUBT, RookeryError
from engine.fanout.failing_tenants import BlockRange
from engine.fanout.kept_rows import Held, saved
from engine.fanout.landing_log import GATEWAY_BATCH_PREFIX, LandingLog
from engine.fanout.landing_log import Block as LandedBlock
from engine.fanout.missing_rows import repeated
from engine.fanout.suspended_views import insert_to_all
from engine.schema import quote
from engine.warehouse import ddl
from engine.warehouse.errors import for_sender, is_transient
from engine.workspace.workspace import Workspace

log = structlog.get_logger("rookery.fanout")

UNCERTAIN_KIND = "doubt"
MIN_RETRY_SECONDS = 0.1
"""Seconds in which one datasource's batch is tried once, however many requests ask for it."""
MAX_TRIES, RETRY_TIMEOUT_SECONDS = 5, 10.0
"""Tries, and seconds from the first failure, after which a view that the error names is taken down for it."""
MAX_PAUSE_SECONDS = 30.0
"""Most seconds between tries while no request asks."""
NEWEST_BATCH = ""
"""Stands for the newest batch of a datasource, which a process that was killed may have been storing."""
LOOK_BACK_BLOCKS = 16
"""Blocks among which the newest batch of ours is looked for. Others may insert meanwhile, but targets remember only
so many parts, and what they have forgotten they would take again."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The insert of a batch from its stage, which is kept until it is `released`."""

    insert: str
    release: Callable[[], None]


@dataclass(slots=True)
class UncertainBatch:
    """One batch in doubt. `since` is when it was sent, in seconds since 1970; `error` what failed last.

    `held` are its rows, for a datasource that cannot tell them from others. `stored` is there if its rows have been
    taken out of landing, while views may have them.
    """

    datasource: str
    batch: str
    since: float
    error: str = ""
    tries: int = 0
    noted: bool = False
    held: Held | None = None
    stored: Stored | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"datasource": self.datasource, "batch": self.batch, "since": self.since, "error": self.error}


class UncertainBatches:
    """The batches in doubt of one workspace."""

    def __init__(self, workspace: Workspace, now: Callable[[], float] = time.monotonic) -> None:
        self._workspace = workspace
        self._now = now
        self._doubts: dict[str, list[UncertainBatch]] = {}
        self._failed: dict[str, tuple[float, RookeryError]] = {}
        self._failures: dict[str, tuple[float, int]] = {}
        self._repeated: set[str] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        workspace.view_lock.attach_completion(self)

    def add(
        self, datasource: str, batch: str, why: str, held: Held | None = None, stored: Stored | None = None
    ) -> None:
        """Remember that a batch is in doubt. Never raises: the disk may be full."""
        doubt = UncertainBatch(datasource, batch, time.time(), why[:1000], held=held, stored=stored)
        log.error("a batch is in doubt", datasource=datasource, batch=batch, error=why)
        self._remember(doubt)
        self._count(datasource)
        if held is not None:
            held.save(self._workspace)
        else:
            self._note(doubt)
        self._watch()

    def take_up(self) -> None:
        """After a start: what was noted is in doubt, and every datasource's newest batch; complete all that can be.

        What cannot be completed stays in doubt, and its datasource takes no rows until it can.
        """
        for batch, body in self._workspace.registry.read(UNCERTAIN_KIND).items():
            self._remember(UncertainBatch(body["datasource"], batch, float(body["since"]), body["error"], noted=True))
        for held in saved(self._workspace):
            self._remember(
                UncertainBatch(held.datasource, held.batch, time.time(), "the server was stopped", held=held)
            )
        for name, relation in self._workspace.current.build.relations.items():
            if relation.kind == "landing":
                self._remember(UncertainBatch(name, NEWEST_BATCH, time.time()))
        for datasource in list(self._doubts):
            try:
                self.settle(datasource, now=True)
            except RookeryError:
                self._watch()

    def _remember(self, doubt: UncertainBatch) -> None:
        with self._lock:
            known = self._doubts.setdefault(doubt.datasource, [])
            if all(d.batch != doubt.batch for d in known):
                known.append(doubt)
                known.sort(key=lambda d: d.since)

    def outstanding(self) -> list[UncertainBatch]:
        """All batches in doubt, oldest first."""
        with self._lock:
            return sorted((d for some in self._doubts.values() for d in some), key=lambda d: d.since)

    def holds(self, datasource: str, batch: str | None = None) -> bool:
        """Whether a datasource has a batch in doubt, or this one is."""
        with self._lock:
            return any(batch is None or d.batch in (NEWEST_BATCH, batch) for d in self._doubts.get(datasource, ()))

    def patient(self, datasource: str) -> bool:
        """Whether a view that an INSERT fails on may still be spared: it has not failed often and for long enough."""
        with self._lock:
            first, failures = self._failures.get(datasource, (self._now(), 0))
            return failures < MAX_TRIES or self._now() - first < RETRY_TIMEOUT_SECONDS

    def landed(self, datasource: str) -> None:
        """Tell that a batch is stored in every table; earlier failures have passed."""
        self._passed(datasource)
        if datasource in self._repeated:
            self._repeated.discard(datasource)
            repeated(self._workspace, datasource)

    def _passed(self, datasource: str) -> None:
        if self._failures:
            with self._lock:
                self._failures.pop(datasource, None)

    def _count(self, datasource: str) -> None:
        with self._lock:
            first, failures = self._failures.get(datasource, (self._now(), 0))
            self._failures[datasource] = (first, failures + 1)

    def settle(self, datasource: str, *, now: bool = False) -> None:
        """Complete what is in doubt in a datasource; nothing lands in it before.

        Raises what keeps a batch from being completed, as its sender may see it. Unless it must be tried `now`, a
        failure of a moment ago is raised again.
        """
        with self._lock:
            if datasource not in self._doubts:
                return
            last = self._failed.get(datasource)
            if last is not None and not now and self._now() - last[0] < MIN_RETRY_SECONDS:
                raise last[1]
        with self._workspace.insert_lock.exclusive():
            with self._lock:
                doubts = list(self._doubts.get(datasource, ()))
            for doubt in doubts:
                try:
                    self._complete(doubt)
                except RookeryError as exc:
                    raise self._still(doubt, exc) from exc
                self._strike(doubt)

    def settle_all(self) -> None:
        """Complete everything that is in doubt. Raises for the first batch that cannot be completed."""
        for datasource in list(self._doubts):
            self.settle(datasource, now=True)

    def close(self) -> None:
        """End the thread that tries again; notes stay for the next start."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(30)

    def _complete(self, doubt: UncertainBatch) -> None:
        workspace = self._workspace
        if doubt.held is not None:
            self._complete_held(doubt.held)
            return
        relation = workspace.current.build.relations.get(doubt.datasource)
        if relation is None or relation.kind != "landing":
            return
        landing = LandingLog(workspace.warehouse, workspace.name, relation)
        if workspace.warehouse.is_running(doubt.batch or f"INSERT INTO {landing.table.sql()} "):
            raise RookeryError(IN_DOUBT, "the database is still storing it", headers={"Retry-After": "1"})
        workspace.warehouse.forget_unstored_tokens()
        block = landing.block_of(doubt.batch, doubt.since) if doubt.batch else self._newest(landing)
        if block is None:
            # Views are filled from what landing has stored, so no table has any of it, unless it was taken out.
            if doubt.stored is not None:
                self._insert(doubt.stored.insert, BlockRange(doubt.datasource, doubt.batch))
            return
        rows = (
            f"SELECT {', '.join(map(quote, relation.columns))} FROM {landing.table.sql()} "
            f"WHERE _block_number = {block.number}"
        )
        insert = ddl.insert_block(landing.table.sql(), relation.columns, block.batch, rows)
        self._insert(insert, BlockRange(doubt.datasource, block.batch))

    def _insert(self, insert: str, block: BlockRange) -> None:
        insert_to_all(self._workspace, insert, block, patient=self.patient(block.datasource))
        self._passed(block.datasource)

    def _complete_held(self, held: Held) -> None:
        workspace = self._workspace
        if held.wanted(workspace):
            if workspace.warehouse.is_running(held.batch):
                raise RookeryError(IN_DOUBT, "the database is still storing it", headers={"Retry-After": "1"})
            workspace.warehouse.forget_unstored_tokens()
            if held.begun(workspace):
                self._insert(held.insert(workspace), BlockRange(held.datasource, held.batch, after=held.after))
        held.forget(workspace)

    def _newest(self, landing: LandingLog) -> LandedBlock | None:
        """The newest batch of ours. What landed before a view was made, that view has as its history."""
        settled = int(self._workspace.registry.read("settled").get("blocks", {}).get(landing.relation.name, 0))
        found = landing.blocks(max(settled, landing.head() - LOOK_BACK_BLOCKS))
        return next((b for b in reversed(found) if b.batch.startswith(GATEWAY_BATCH_PREFIX)), None)

    def _still(self, doubt: UncertainBatch, exc: RookeryError) -> RookeryError:
        doubt.tries += 1
        self._count(doubt.datasource)
        if doubt.held is not None:
            doubt.held.save(self._workspace)
        doubt.error = (exc.detail or exc.message)[:1000]
        if exc.code is DISK_FULL:
            found = exc
        else:
            found = RookeryError(
                IN_DOUBT,
                f"`{doubt.datasource}` takes no rows until a batch that is stored has reached every table: "
                f"{for_sender(exc).message if is_transient(exc) else exc.message}",
                hint="send the rows again after the time in Retry-After; `rookery doctor` shows the batch",
                detail=exc.detail or exc.message,
                headers={"Retry-After": exc.headers.get("Retry-After", "2")},
            )
        with self._lock:
            self._failed[doubt.datasource] = (self._now(), found)
        log.error("a batch is still in doubt", datasource=doubt.datasource, batch=doubt.batch, error=doubt.error)
        return found

    def _strike(self, doubt: UncertainBatch) -> None:
        with self._lock:
            left = [d for d in self._doubts.get(doubt.datasource, ()) if d is not doubt]
            if left:
                self._doubts[doubt.datasource] = left
            else:
                self._doubts.pop(doubt.datasource, None)
                self._failed.pop(doubt.datasource, None)
        if doubt.noted:
            try:
                self._workspace.registry.remove(UNCERTAIN_KIND, [doubt.batch])
            except RookeryError as exc:
                # It is completed once more after the next start, which changes nothing.
                log.warning("the note of a batch could not be removed", batch=doubt.batch, error=exc)
        if doubt.stored is not None:
            doubt.stored.release()
        if doubt.tries or doubt.held is not None:
            # Block numbers that the tries have used up show when the next batch has one.
            self._repeated.add(doubt.datasource)
        if doubt.batch or doubt.tries:
            log.info("a batch that was in doubt is complete", datasource=doubt.datasource, batch=doubt.batch)

    def _note(self, doubt: UncertainBatch) -> None:
        try:
            self._workspace.registry.write(UNCERTAIN_KIND, {doubt.batch: doubt.as_dict()})
            doubt.noted = True
        except RookeryError as exc:
            # After a restart it is found as the datasource's newest batch.
            log.warning("a batch in doubt could not be noted", batch=doubt.batch, error=exc)

    def _watch(self) -> None:
        with self._lock:
            if self._closed or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._try_again, name="doubts", daemon=True)
            self._thread.start()

    def _try_again(self) -> None:
        pause = 1.0
        while self._doubts and not self._closed:
            self._wake.wait(pause)
            pause = min(pause * 2, MAX_PAUSE_SECONDS)
            for datasource in list(self._doubts):
                if self._closed:
                    return
                try:
                    self.settle(datasource)
                except RookeryError:
                    continue
                except Exception:
                    log.exception("a batch in doubt could not be completed", datasource=datasource)


def uncertain_batches_of(workspace: Workspace) -> UncertainBatches:
    """The workspace's batches in doubt; ended with the workspace."""
    found = workspace.attached.get("doubts")
    if found is None:
        with workspace.changes:
            found = workspace.attached.get("doubts")
            if found is None:
                found = workspace.attached["doubts"] = UncertainBatches(workspace)
    return cast(UncertainBatches, found)
