"""What Prometheus reads: counters of this process, and how the workspace stands at this moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from engine import observe
from engine.control.fanout_status import lag_by_datasource
from engine.fanout.suspended_views import suspended
from engine.workspace.workspace import Workspace


def exposition(workspace: Workspace, waiting_bytes: int) -> bytes:
    """All observations in Prometheus' text format."""
    return observe.exposition(_gauges(workspace, waiting_bytes))


def _gauges(workspace: Workspace, waiting_bytes: int) -> Iterator[tuple[str, float, Mapping[str, str]]]:
    yield "waiting_bytes", waiting_bytes, {}
    yield "suspended_views", len(suspended(workspace)), {}
    for name, lag, lagging in lag_by_datasource(workspace):
        label = {"datasource": name}
        yield "fanout_lag_rows", lag.rows, label
        yield "fanout_lag_seconds", lag.seconds, label
        yield "fanout_strays", lagging, label
