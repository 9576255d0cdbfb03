"""The response to Prometheus: the counters of this process and the current state of the workspace."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from engine.compiler.storage import QUARANTINE_SUFFIX
from engine.control.fanout_status import lag_by_datasource
from engine.fanout.suspension_records import suspended
from engine.observe import metrics
from engine.version import version
from engine.warehouse.port import Usage
from engine.workspace.disk import OWN_DATABASES
from engine.workspace.workspace import Workspace

# Concurrent scrapes run in different threads but set the same gauges.
_scraping = threading.Lock()


@dataclass(frozen=True, slots=True)
class Load:
    """What the server is doing at the moment of a scrape."""

    readers: Usage
    waiting_bytes: int = 0
    """Size of the bodies waiting to be stored."""
    waiting_appends: int = 0
    stuck_queries: int = 0


def exposition(workspace: Workspace, load: Load) -> bytes:
    """All metrics in Prometheus' text format."""
    suspended_views = len(suspended(workspace))
    lags = list(lag_by_datasource(workspace))
    quarantined, parts = _quarantine_rows(workspace), _parts(workspace)
    space, writers = workspace.warehouse.disk_space(), workspace.warehouse.writers()
    with _scraping:
        metrics.SUSPENDED_VIEWS.set(suspended_views)
        _set_load(load, writers)
        metrics.DISK_FREE_BYTES.set(math.nan if space is None else space.free)
        metrics.DISK_BYTES.set(math.nan if space is None else space.total)
        metrics.PARTS.set(parts)
        metrics.TENANTS.set(len(workspace.current.tenants))
        metrics.BUILD_INFO.labels(version(), workspace.warehouse.capabilities.version).set(1)
        # Otherwise datasources that no longer exist would keep their last values.
        for gauge in (
            metrics.FANOUT_LAG_ROWS,
            metrics.FANOUT_LAG_SECONDS,
            metrics.FANOUT_STRAYS,
            metrics.QUARANTINE_ROWS,
        ):
            gauge.clear()
        for datasource, lag, lagging_tenants in lags:
            metrics.FANOUT_LAG_ROWS.labels(datasource).set(lag.rows)
            metrics.FANOUT_LAG_SECONDS.labels(datasource).set(lag.seconds)
            metrics.FANOUT_STRAYS.labels(datasource).set(lagging_tenants)
        for datasource, rows in quarantined.items():
            metrics.QUARANTINE_ROWS.labels(datasource).set(rows)
        return metrics.exposition()


def _set_load(load: Load, writers: Usage | None) -> None:
    metrics.WAITING_BYTES.set(load.waiting_bytes)
    metrics.WAITING_APPENDS.set(load.waiting_appends)
    metrics.STUCK_QUERIES.set(load.stuck_queries)
    for usage, handles, waiting in (
        (load.readers, metrics.READERS, metrics.READERS_WAITING),
        (writers, metrics.WRITERS, metrics.WRITERS_WAITING),
    ):
        if usage is not None:
            handles.labels("in_use").set(usage.in_use)
            handles.labels("free").set(usage.size - usage.in_use)
            waiting.set(usage.waiting)


def _quarantine_rows(workspace: Workspace) -> dict[str, int]:
    """Rows in the quarantine of each datasource."""
    sizes = workspace.warehouse.query(
        "SELECT name, ifNull(total_rows, 0) FROM system.tables "
        "WHERE database = {w:String} AND endsWith(name, {q:String})",
        {"w": workspace.name, "q": QUARANTINE_SUFFIX},
    )
    rows = {str(name).removesuffix(QUARANTINE_SUFFIX): int(n) for name, n in sizes.rows}
    build = workspace.current.build
    return {name: rows.get(name, 0) for name in build.datasources if build.takes(name)}


def _parts(workspace: Workspace) -> int:
    """Active parts of all tables that are loaded."""
    counted = workspace.warehouse.query(
        f"SELECT count() FROM system.parts WHERE active AND {OWN_DATABASES}", {"w": workspace.name}
    )
    return int(counted.rows[0][0])
