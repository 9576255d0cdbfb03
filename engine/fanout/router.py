"""The routed fan-outs of a workspace: one lane per routed landing datasource, working hands shared by all."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import cast

from engine.fanout.handover import CommittedBatch
from engine.fanout.offsets import OffsetJournal
from engine.fanout.worker import FanoutWorker, Position
from engine.plan.backfill import Progress, silent
from engine.plan.view_lock import ConsumedUpTo
from engine.schema import Mark, Name
from engine.workspace.workspace import Workspace

POOL_THREADS = 4
CATCH_UP_TIMEOUT_SECONDS = 3600.0
"""Seconds that a command waits for tenants to catch up."""


class Router:
    """Takes batches on from landing to the nests."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._hands = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="fan-out")
        self._lanes: dict[str, FanoutWorker] = {}
        self._lock = threading.Lock()
        self._delivering: list[FanoutWorker] = []
        """Workers whose thread may still deliver: those in `_lanes`, and one that is being shut down."""
        self.settled: dict[str, str] = {}
        """The modes that everything has been brought into."""
        self.journal = OffsetJournal(workspace.warehouse, workspace.name)
        workspace.view_lock.attach_deliveries(self)

    def start(self) -> None:
        """Take up every routed datasource where the last process left it."""
        for name, mode in self._workspace.current.modes.items():
            if mode == "routed" and name in self._workspace.current.build.relations:
                self.open(name)

    def open(self, datasource: str) -> FanoutWorker:
        """The lane of a datasource, begun if need be."""
        with self._lock:
            lane = self._lanes.get(datasource)
            if lane is None:
                lane = FanoutWorker(self._workspace, datasource, self.journal, self._hands)
                with self._workspace.view_lock.changing():
                    lane.recover()
                    self._delivering.append(lane)
                    self._lanes[datasource] = lane
                lane.start()
            return lane

    def shut(self, datasource: str) -> None:
        """End a datasource's lane; its cursors are forgotten."""
        with self._lock:
            lane = self._lanes.pop(datasource, None)
        if lane is not None:
            lane.close()
            lane.join(30)
            self._delivering.remove(lane)
        self.journal.strike_all(datasource)

    def lane(self, datasource: str) -> FanoutWorker | None:
        return self._lanes.get(datasource)

    def announce(self, datasource: str, batch: str) -> bool:
        """Tell that a batch is about to land. Returns whether it is wanted afterwards."""
        lane = self._lanes.get(datasource)
        if lane is not None:
            lane.announce(batch)
        return lane is not None

    def landed(self, batch: CommittedBatch) -> None:
        """Take a batch over, and its stage with it."""
        lane = self._lanes.get(batch.datasource)
        if lane is not None:
            lane.landed(batch)
        else:
            batch.visible.set_result(True)
            batch.release()

    def withdraw(self, datasource: str, batch: str) -> None:
        """Tell that an announced batch did not land."""
        lane = self._lanes.get(datasource)
        if lane is not None:
            lane.withdraw(batch)

    def start_readers(self, readers: Mapping[str, Sequence[str]]) -> None:
        """Let tenants' empty copies be filled from the beginning of the log, by datasource."""
        for datasource, tenants in readers.items():
            self.open(datasource).start_reader(tenants)

    def forget(self, tenants: Sequence[str]) -> None:
        """Deliver nothing more to tenants."""
        for lane in list(self._lanes.values()):
            lane.forget(tenants)

    def wait_for(self, tenants: Iterable[str], progress: Progress = silent) -> None:
        """Wait until tenants have caught up. Raises RK3010 when the tables of one do not take its rows."""
        wanted = set(tenants)
        for name, lane in list(self._lanes.items()):
            with lane.held:
                lagging = {t for c in lane.lagging for t in c.members} & wanted
            if lagging:
                lane.wait_for(lagging, CATCH_UP_TIMEOUT_SECONDS, partial(progress, f"history of {name}"))

    def retry_now(self) -> None:
        """Try again at once what is waiting for its next try."""
        for lane in list(self._lanes.values()):
            lane.retry_now()

    def positions(self) -> dict[str, Position]:
        """Where the readers of each routed datasource stand."""
        return {name: lane.position() for name, lane in sorted(self._lanes.items())}

    def failing(self) -> set[str]:
        """Tenants whose tables do not take their rows at present."""
        found = [c for lane in list(self._lanes.values()) for c in lane.position().lagging if c.error]
        return set[str]().union(*(c.members for c in found))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hold every worker between two deliveries, in the order in which they were opened."""
        with ExitStack() as held:
            for worker in list(self._delivering):
                held.enter_context(worker.held)
            yield

    def pending_tokens(self, source: Name, mark: Mark | None) -> set[str] | None:
        """Tokens of what will be delivered again into a nest's copy. The fence must be held.

        None for what stands behind a copy that has something in doubt: its rows do not tell their tokens.
        """
        tenant = mark.tenant if mark else None
        if tenant is None:
            return set()
        lane = self._lanes.get(source.name)
        if lane is not None:
            return lane.in_doubt(tenant)
        behind = self._workspace.current.build.landings_of(source.name)
        lanes = [lane for name, lane in self._lanes.items() if name in behind]
        return None if any(lane.in_doubt(tenant) for lane in lanes) else set()

    def consumed(self, sources: Mapping[Name, Mark | None]) -> dict[Name, ConsumedUpTo]:
        """What has passed through inlets that are fed here. The fence must be held."""
        found: dict[Name, ConsumedUpTo] = {}
        for name, lane in self._lanes.items():
            inlets = {m.tenant: s for s, m in sources.items() if s.name == name and m is not None and m.tenant}
            found |= {inlets[t]: reach for t, reach in (lane.passed(inlets) if inlets else {}).items()}
        return found

    def close(self) -> None:
        """Stop delivering; what is left is taken up at the next start."""
        for lane in self._lanes.values():
            lane.close()
        for lane in self._lanes.values():
            if lane.is_alive():
                lane.join(30)
        self._hands.shutdown(wait=True, cancel_futures=True)


def router_of(workspace: Workspace) -> Router:
    """The workspace's router, begun when it is first asked for and ended with the workspace."""
    # Whoever only looks must not wait for a change that is under way.
    found = workspace.attached.get("router")
    if found is None:
        with workspace.changes:
            found = workspace.attached.get("router")
            if found is None:
                found = workspace.attached["router"] = Router(workspace)
                found.start()
    return cast(Router, found)
