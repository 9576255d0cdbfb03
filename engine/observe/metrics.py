"""Metrics for Prometheus. Labels only have values from lists that the operator controls or this program contains:
deployed resources, routes, methods, statuses and error codes. Tenants and tokens are never labels.
"""

from __future__ import annotations

import time
from collections.abc import Container
from dataclasses import dataclass

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from engine.observe.requests import RequestRecord

REGISTRY = CollectorRegistry()
"""The metrics of this process."""
EXPOSITION = CONTENT_TYPE_LATEST
"""The media type of what `exposition` returns."""
_BY_DATASOURCE = ("datasource",)
_BY_ENDPOINT = ("route", "endpoint")
"""The route as in `docs/http.md`, and the deployed endpoint that was called."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_STARTED = time.monotonic()


def _counter(name: str, help: str, labels: tuple[str, ...] = _BY_DATASOURCE) -> Counter:
    return Counter(f"rookery_{name}", help, labels, registry=REGISTRY)


def _gauge(name: str, help: str, labels: tuple[str, ...] = _BY_DATASOURCE) -> Gauge:
    return Gauge(f"rookery_{name}", help, labels, registry=REGISTRY)


INGESTED_ROWS = _counter("ingested_rows", "Rows stored.")
INGESTED_BYTES = _counter("ingested_bytes", "Size of the request bodies whose rows were stored, in bytes.")
QUARANTINED_ROWS = _counter("quarantined_rows", "Rows put into quarantine.")
QUARANTINED_BYTES = _counter("quarantined_bytes", "Size of the rows put into quarantine, in bytes.")
REFUSED_ROWS = _counter("refused_rows", "Bad rows that were dropped because their writer's quarantine was full.")
INGEST_REQUESTS = _counter("ingest_requests", "Append requests stored. A batch can hold several requests.")
INGEST_BATCHES = _counter("ingest_batches", "Batches stored.")
REQUESTS = _counter(
    "requests", "Requests, by the status that the client received.", (*_BY_ENDPOINT, "method", "status")
)
REQUEST_SECONDS = Histogram(
    "rookery_request_seconds",
    "Duration of requests until the response was complete; the status is 2xx, 4xx and so on.",
    (*_BY_ENDPOINT, "status"),
    registry=REGISTRY,
    buckets=_BUCKETS,
)
RETURNED_ROWS = _counter("returned_rows", "Rows in the results of queries.", _BY_ENDPOINT)
READ_ROWS = _counter("read_rows", "Rows that the database read for queries.", _BY_ENDPOINT)
READ_BYTES = _counter("read_bytes", "Bytes that the database read for queries.", _BY_ENDPOINT)
RESPONSE_BYTES = _counter("response_bytes", "Size of the bodies of responses, in bytes.", _BY_ENDPOINT)
ERRORS = _counter("errors", "Responses with an error, by its code.", ("code",))
LOG_LINES_DROPPED = _counter("log_lines_dropped", "Log lines that could not be written.", ())
FANOUT_FLUSH_SECONDS = Histogram(
    "rookery_fanout_flush_seconds",
    "Duration of a delivery from landing to the nests.",
    _BY_DATASOURCE,
    registry=REGISTRY,
    buckets=_BUCKETS,
)
# The gauges below are only set when they are scraped, by `control/scrape.exposition`.
FANOUT_LAG_ROWS = _gauge("fanout_lag_rows", "Rows in landing that the main group has not received yet.")
FANOUT_LAG_SECONDS = _gauge("fanout_lag_seconds", "Age of the oldest of these rows.")
FANOUT_STRAYS = _gauge(
    "fanout_strays", "Tenants in lagging groups: new tenants, or tenants whose tables refuse rows."
)
SUSPENDED_VIEWS = _gauge("suspended_views", "Views that failed and are suspended, or exclude some tenants.", ())
WAITING_BYTES = _gauge("waiting_bytes", "Size of the request bodies waiting to be stored, in bytes.", ())
WAITING_APPENDS = _gauge("waiting_appends", "Append requests waiting to be stored.", ())
QUARANTINE_ROWS = _gauge("quarantine_rows", "Rows that are in quarantine now.")
READERS = _gauge("readers", "Database handles for queries, by state: `in_use` or `free`.", ("state",))
READERS_WAITING = _gauge("readers_waiting", "Queries waiting for a reader.", ())
WRITERS = _gauge("writers", "Database handles for inserts and DDL, by state: `in_use` or `free`.", ("state",))
WRITERS_WAITING = _gauge("writers_waiting", "Threads waiting for a writer.", ())
STUCK_QUERIES = _gauge("stuck_queries", "Queries that did not stop at their time limit.", ())
DISK_FREE_BYTES = _gauge("disk_free_bytes", "Free space on the disk of the data directory.", ())
DISK_BYTES = _gauge("disk_bytes", "Size of the disk of the data directory.", ())
PARTS = _gauge("parts", "Active parts of all tables.", ())
TENANTS = _gauge("tenants", "Tenants.", ())
IN_FLIGHT = _gauge("requests_in_flight", "Requests that are being answered.", ())
BUILD_INFO = _gauge("build_info", "Always 1; the labels are the versions.", ("version", "engine"))
_gauge("uptime_seconds", "Time since the process started.", ()).set_function(lambda: time.monotonic() - _STARTED)


ProcessCollector(registry=REGISTRY)


@dataclass(slots=True)
class _Series:
    """The time series of requests of one kind."""

    requests: Counter
    seconds: Histogram
    response_bytes: Counter
    rows: tuple[Counter, Counter, Counter] | None = None
    """Rows returned, rows read and bytes read; None until a query returns or reads some."""


class RequestMetrics:
    """Counts requests. Used on the event loop."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, str, int], _Series] = {}

    def count(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        method = record.method if record.method in _METHODS else "other"
        key = (record.route or "none", record.endpoint, method, record.status)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _series(*key)
        series.requests.inc()
        series.seconds.observe(record.ms / 1000)
        series.response_bytes.inc(record.bytes)
        # The rows of an append are in INGESTED_ROWS.
        if (record.rows_read or record.rows) and not record.datasource:
            rows = series.rows = series.rows or _row_series(key)
            for counter, number in zip(rows, (record.rows, record.rows_read, record.bytes_read), strict=True):
                counter.inc(number)
        if record.code:
            ERRORS.labels(record.code).inc()

    def keep(self, endpoints: Container[str]) -> None:
        """Remove the series of endpoints that are no longer deployed."""
        for key in list(self._series):
            route, endpoint, method, status = key
            if endpoint and endpoint not in endpoints:
                self._series.pop(key, None)
                REQUESTS.remove(route, endpoint, method, str(status))
                REQUEST_SECONDS.remove(route, endpoint, _status_class(status))
                for metric in (RETURNED_ROWS, READ_ROWS, READ_BYTES, RESPONSE_BYTES):
                    metric.remove(route, endpoint)


def _series(route: str, endpoint: str, method: str, status: int) -> _Series:
    return _Series(
        REQUESTS.labels(route, endpoint, method, str(status)),
        REQUEST_SECONDS.labels(route, endpoint, _status_class(status)),
        RESPONSE_BYTES.labels(route, endpoint),
    )


def _row_series(key: tuple[str, str, str, int]) -> tuple[Counter, Counter, Counter]:
    route, endpoint, _, _ = key
    return (
        RETURNED_ROWS.labels(route, endpoint),
        READ_ROWS.labels(route, endpoint),
        READ_BYTES.labels(route, endpoint),
    )


def _status_class(status: int) -> str:
    return f"{status // 100}xx"


def exposition() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
