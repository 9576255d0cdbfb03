"""The routed fan-out of a workspace: one worker per routed landing datasource, and a thread pool that all share."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

from engine.fanout.handover import EVERYWHERE, CommittedBatch
from engine.fanout.offsets import OffsetJournal
from engine.fanout.worker import FanoutWorker, Position
from engine.plan.progress import Progress, silent
from engine.plan.view_lock import ConsumedUpTo
from engine.schema import Mark, Name
from engine.workspace.workspace import Workspace

POOL_THREADS = 4
CATCH_UP_TIMEOUT_SECONDS = 3600.0
"""How long a command waits for tenants to catch up."""


class Router:
    """Finds the worker of each datasource. Called by ingest threads, commands and changes to views."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="fan-out")
        self._workers: dict[str, FanoutWorker] = {}
        """By datasource. Changed only with the lock held; single lookups do not need it."""
        self._lock = threading.Lock()
        self._delivering: list[FanoutWorker] = []
        """Workers whose thread may still deliver: those in `_workers`, and one that is being shut down."""
        self.applied_modes: dict[str, str] = {}
        """Mode of each landing datasource, as last reconciled."""
        self.offsets = OffsetJournal(workspace.warehouse, workspace.name)
        workspace.view_lock.attach_deliveries(self)

    def start(self) -> None:
        """Resume every routed datasource where the last process stopped."""
        for name, mode in self._workspace.current.modes.items():
            if mode == "routed" and name in self._workspace.current.build.relations:
                self.open(name)

    def open(self, datasource: str) -> FanoutWorker:
        """The worker of a datasource, started if necessary."""
        with self._lock:
            worker = self._workers.get(datasource)
            if worker is None:
                worker = FanoutWorker(self._workspace, datasource, self.offsets, self._pool)
                # Inserts are blocked, so landing does not grow while the worker determines where to start.
                with self._workspace.view_lock.changing():
                    worker.recover()
                    self._delivering.append(worker)
                    self._workers[datasource] = worker
                worker.start()
            return worker

    def close_worker(self, datasource: str) -> None:
        """Stop a datasource's worker and delete its offsets."""
        with self._lock:
            worker = self._workers.pop(datasource, None)
        if worker is not None:
            worker.close()
            # Without the lock, since the thread completes a running delivery first.
            worker.join(30)
            self._delivering.remove(worker)
        self.offsets.delete_all(datasource)

    def worker(self, datasource: str) -> FanoutWorker | None:
        """The running worker of a datasource; None for a datasource that is not routed."""
        return self._workers.get(datasource)

    def begin_commit(self, datasource: str, batch: str) -> bool:
        """Announce a batch whose INSERT into landing starts now. Returns whether `committed` must be called later."""
        worker = self._workers.get(datasource)
        if worker is not None:
            worker.begin_commit(batch)
        return worker is not None

    def committed(self, batch: CommittedBatch) -> None:
        """Take over a batch that is in landing, together with its stage."""
        worker = self._workers.get(batch.datasource)
        if worker is not None:
            worker.committed(batch)
        else:
            # Direct since the announcement: the INSERT waited for the change to views, and the views have delivered
            # it.
            batch.reach.set_result(EVERYWHERE)
            batch.release()

    def abort_commit(self, datasource: str, batch: str) -> None:
        """Retract an announced batch whose INSERT failed."""
        worker = self._workers.get(datasource)
        if worker is not None:
            worker.abort_commit(batch)

    def start_readers(self, by_datasource: Mapping[str, Sequence[str]]) -> None:
        """The step `StartReaders` of a plan: deliver the whole log to tenants with empty copies, by datasource."""
        for datasource, tenants in by_datasource.items():
            self.open(datasource).add_tenants(tenants)

    def remove_tenants(self, tenants: Sequence[str]) -> None:
        """Stop delivering to tenants."""
        for worker in list(self._workers.values()):
            worker.remove_tenants(tenants)

    def wait_for(
        self,
        tenants: Iterable[str],
        progress: Progress = silent,
        timeout_seconds: float = CATCH_UP_TIMEOUT_SECONDS,
    ) -> None:
        """Wait until tenants have caught up. Raises RK3010 when a tenant's tables refuse its rows."""
        awaited = set(tenants)
        for name, worker in list(self._workers.items()):
            # Between two deliveries, no tenant is on its way from one group to another.
            with worker.delivery_lock:
                lagging = {t for c in worker.lagging for t in c.members} & awaited
            if lagging:
                worker.wait_for(lagging, timeout_seconds, partial(progress, f"backfill of {name}"))

    def drain(self) -> None:
        """Deliver everything in the landing logs to the main groups. The view lock must be held. Raises RK6003."""
        for worker in list(self._workers.values()):
            worker.drain()

    def retry_now(self) -> None:
        """Retry all lagging groups now."""
        for worker in list(self._workers.values()):
            worker.retry_now()

    def positions(self) -> dict[str, Position]:
        """The offsets of the consumers of each routed datasource."""
        return {name: worker.position() for name, worker in sorted(self._workers.items())}

    def failing_tenants(self) -> set[str]:
        """Tenants whose tables currently refuse their rows."""
        positions = [worker.position() for worker in list(self._workers.values())]
        return {tenant for p in positions for group in p.lagging if group.error for tenant in group.members}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hold every worker between two deliveries, in the order in which they were opened."""
        with ExitStack() as held:
            for worker in list(self._delivering):
                held.enter_context(worker.delivery_lock)
            yield

    def pending_tokens(self, source: Name, mark: Mark | None) -> set[str] | None:
        """Tokens of ranges that may be delivered to a nest copy again. The view lock must be held.

        None for a table derived from such a copy, whose rows do not contain tokens.
        """
        tenant = mark.tenant if mark else None
        if tenant is None:
            return set()
        worker = self._workers.get(source.name)
        if worker is not None:
            return worker.pending_tokens(tenant)
        feeding = self._workspace.current.build.landings_of(source.name)
        workers = [worker for name, worker in self._workers.items() if name in feeding]
        return None if any(worker.pending_tokens(tenant) for worker in workers) else set()

    def consumed(self, sources: Mapping[Name, Mark | None]) -> dict[Name, ConsumedUpTo]:
        """What has passed through Null tables that workers feed. The view lock must be held."""
        passed: dict[Name, ConsumedUpTo] = {}
        for name, worker in self._workers.items():
            tables = {m.tenant: s for s, m in sources.items() if s.name == name and m is not None and m.tenant}
            passed |= {tables[t]: upto for t, upto in (worker.consumed(tables) if tables else {}).items()}
        return passed

    def close(self) -> None:
        """Stop delivering. The next start resumes from the recorded offsets."""
        # All are asked before the first one is waited for, so that they end at the same time.
        for worker in self._workers.values():
            worker.close()
        for worker in self._workers.values():
            if worker.is_alive():
                worker.join(30)
        # The pool is last, because deliveries that are still running use it.
        self._pool.shutdown(wait=True, cancel_futures=True)


def router_of(workspace: Workspace) -> Router:
    """The workspace's router, started on first use and closed with the workspace."""
    return workspace.service("router", lambda: Router(workspace), Router.start)
