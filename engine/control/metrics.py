"""The response to Prometheus: the counters of this process and the current state of the workspace."""

from __future__ import annotations

import threading

from engine import observe
from engine.control.fanout_status import lag_by_datasource
from engine.fanout.suspension_records import suspended
from engine.workspace.workspace import Workspace

# Concurrent scrapes run in different threads but set the same gauges.
_scraping = threading.Lock()


def exposition(workspace: Workspace, waiting_bytes: int) -> bytes:
    """All metrics in Prometheus' text format. `waiting_bytes` is the size of the bodies waiting to be stored."""
    suspended_views = len(suspended(workspace))
    lags = list(lag_by_datasource(workspace))
    with _scraping:
        observe.WAITING_BYTES.set(waiting_bytes)
        observe.SUSPENDED_VIEWS.set(suspended_views)
        # Otherwise datasources that no longer exist would keep their last values.
        for gauge in (observe.FANOUT_LAG_ROWS, observe.FANOUT_LAG_SECONDS, observe.FANOUT_STRAYS):
            gauge.clear()
        for datasource, lag, lagging_tenants in lags:
            observe.FANOUT_LAG_ROWS.labels(datasource).set(lag.rows)
            observe.FANOUT_LAG_SECONDS.labels(datasource).set(lag.seconds)
            observe.FANOUT_STRAYS.labels(datasource).set(lagging_tenants)
        return observe.exposition()
