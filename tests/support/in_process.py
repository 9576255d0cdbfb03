"""Rookery in this process, without HTTP, for tests that reach behind the server."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.control import push, tenants
from engine.fanout.offsets import ConsumerGroup
from engine.fanout.router import Router, router_of
from engine.ingest.batch import AppendResult
from engine.ingest.gateway import Gateway
from engine.ingest.staging_pool import StagingPool
from engine.schema import nest_database
from engine.settings import Settings
from engine.warehouse.port import Input
from engine.workspace.opening import open_workspace
from engine.workspace.snapshot import DeployedFile
from engine.workspace.workspace import Workspace

PATIENCE = 30.0
CHECKSUM = "count(), sum(n), groupBitXor(cityHash64(id, n))"


@dataclass
class Rookery:
    """A workspace with its router and its gateway."""

    workspace: Workspace
    router: Router
    gateway: Gateway
    copies: bool = True
    """Whether nests keep copies of landing's rows."""

    def push(self, files: Mapping[str, str]) -> None:
        push.push(self.workspace, {Path(f).stem: DeployedFile(text, f) for f, text in files.items()})

    def add(self, *ids: str, placement: str = "tables") -> None:
        tenants.add(self.workspace, ids, placement)

    def append(self, rows: Iterable[Mapping[str, Any]], **more: Any) -> AppendResult:
        """Store rows and wait for the answer."""
        body = "\n".join(map(json.dumps, rows)).encode()
        return self.gateway.append("events", body, Input.NDJSON, **more).result(PATIENCE)

    def deliver(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Store rows and wait until they are in their nests; whether they are."""
        outcome = self.append(rows)
        return outcome.visible is None or outcome.visible.result(PATIENCE)

    def run(self, sql: str) -> None:
        self.workspace.warehouse.execute(sql)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.workspace.warehouse.query(sql).rows]

    def nest(self, tenant: str) -> str:
        """The database of a tenant, as it stands in a statement."""
        return f"`{nest_database(self.workspace.name, tenant)}`"

    def lagging_group(self, tenant: str) -> ConsumerGroup | None:
        """The consumer group of a tenant that lags, if it does."""
        lagging = self.router.positions()["events"].lagging
        return next((s for s in lagging if tenant in s.members), None)

    def wait_until_caught_up(self) -> None:
        """Wait until no consumer of the log lags."""
        deadline = time.monotonic() + PATIENCE
        while True:
            position = self.router.positions().get("events")
            if position is None or (not position.rows and not position.lagging):
                return
            assert time.monotonic() < deadline, position
            time.sleep(0.02)

    def wait_until_read(self) -> None:
        """Wait until the log is read to its current end, including rows that other programs inserted."""
        ((end,),) = self.rows("SELECT max(_block_number) FROM main.events")
        deadline = time.monotonic() + PATIENCE
        lane = self.router.worker("events")
        while lane is not None and (lane.position().main.offset.at < end or lane.lagging):
            assert time.monotonic() < deadline, self.router.positions()
            time.sleep(0.05)
        self.wait_until_caught_up()

    def differences(self, own: Iterable[str], sums: Iterable[str] = ("sums",)) -> list[str]:
        """Where nests differ from a filter of landing."""
        differing = []
        for tenant in own:
            (row,) = self.rows(f"SELECT {CHECKSUM} FROM main.events WHERE tenant_id = {tenant}")
            (copy,) = self.rows(f"SELECT {CHECKSUM} FROM {self.nest(tenant)}.events")
            if copy != (row if self.copies else (0, 0, 0)):
                differing.append(f"tenant {tenant}: copy {copy}, landing {row}")
            (foreign,) = self.rows(f"SELECT count() FROM {self.nest(tenant)}.events WHERE tenant_id != {tenant}")
            if foreign != (0,):
                differing.append(f"tenant {tenant}: {foreign[0]} rows of others")
            for name in sums:
                (added,) = self.rows(f"SELECT sum(events), sum(total) FROM {self.nest(tenant)}.{name}")
                if added != row[:2]:
                    differing.append(f"tenant {tenant}: {name} {added}, landing {row[:2]}")
        return differing


@contextmanager
def open_rookery(directory: Path, **settings: Any) -> Iterator[Rookery]:
    """Rookery over a directory, which may be empty."""
    workspace = open_workspace(Settings(data=directory / "data", **{"readers": 2, "writers": 6, **settings}))
    stages = StagingPool(workspace)
    router = router_of(workspace)
    gateway = Gateway(workspace, stages)
    try:
        yield Rookery(workspace, router, gateway)
    finally:
        gateway.close()
        workspace.close()


@contextmanager
def open_copy(prepared: Path, directory: Path) -> Iterator[Rookery]:
    """Rookery over a copy of a prepared directory: reopening takes a fifth of the time of pushing again."""
    shutil.copytree(prepared, directory, symlinks=True, dirs_exist_ok=True)
    with open_rookery(directory) as opened:
        yield opened
