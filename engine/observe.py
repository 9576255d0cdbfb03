"""Logging and metrics.

Log lines are structured and never contain tokens. Only lines at level debug contain values of rows.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from engine.errors import RookeryError


@dataclass(slots=True)
class Timer:
    """Milliseconds that each stage of a request took, for the header `Server-Timing`."""

    started: float = field(default_factory=time.perf_counter)
    stages: list[tuple[str, float]] = field(default_factory=list)

    def stage(self, name: str) -> None:
        """End a stage; the next one starts now."""
        now = time.perf_counter()
        self.stages.append((name, (now - self.started) * 1000))
        self.started = now

    def header(self) -> str:
        return ", ".join(f"{n};dur={ms:.2f}" for n, ms in self.stages)


_IN_QUERY = re.compile(r"token=[^&\s]++", re.IGNORECASE)
_DOTTED = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]++(?:\.[A-Za-z0-9_-]*+)++")
_TOKEN_PART = re.compile(r"\bey[A-Za-z0-9_-]{8}")


def redact(text: str) -> str:
    """Replace everything in a string that looks like a token."""
    return _DOTTED.sub(_redacted_match, _IN_QUERY.sub("[token]", text))


def _redacted_match(match: re.Match[str]) -> str:
    """Replace the token in a run of parts joined by dots, or return the run unchanged if it contains none.

    A JWT has a part that begins with `ey`; a static token has the part `p` and a payload after it.
    """
    text = match[0]
    position = 0
    *parts, _ = text.split(".")
    for n, part in enumerate(parts):
        jwt_start = _TOKEN_PART.search(part)
        if jwt_start is not None:
            return text[: position + jwt_start.start()] + "[token]"
        static = part == "p" or part.endswith("-p")
        if static and n + 1 < len(parts) and len(parts[n + 1]) >= 8:
            return text[: position + len(part) - 1] + "[token]"
        position += len(part) + 1
    return text


def _redacted(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {k: redact(v) if isinstance(v, str) else v for k, v in event.items()}


_CAUSES = ("error", "detail", "exc_info")
"""Keys of an event whose values may quote rows, as the engine's messages do."""
_ENGINE_CODE = re.compile(r"Code: (\d{1,9})\.")
_QUOTED = re.compile(r"'[^']*+'?|\"[^\"]*+\"?")


def _safe_summary(error: object) -> str:
    """The code or type of an exception, or of a string about one, without its message, which may quote values."""
    if isinstance(error, RookeryError):
        number = getattr(error, "engine_code", None)
        return f"{error.code.id} {error.code.title}" + (f" (engine code {number})" if number else "")
    if isinstance(error, BaseException):
        return type(error).__name__
    text = str(error)
    engine = _ENGINE_CODE.search(text)
    return f"engine code {engine[1]}" if engine else "see level debug"


def _stack(exc: BaseException) -> str:
    """The frames of an exception and of its causes, without their messages."""
    chain: list[BaseException] = []
    current: BaseException | None = exc
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    parts = ["".join(traceback.format_tb(e.__traceback__)) + _safe_summary(e) for e in reversed(chain)]
    return "\nwhich led to\n".join(parts)


def _exception_of(exc_info: object) -> BaseException | None:
    """The exception in a log call's `exc_info`: an exception, a tuple, or true for the one being handled."""
    if isinstance(exc_info, BaseException):
        return exc_info
    current = exc_info if isinstance(exc_info, tuple) else sys.exc_info()
    return current[1] if isinstance(current[1], BaseException) else None


def _without_values(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Remove values of rows from an event, and log the complete event at level debug."""
    if not any(event.get(key) for key in _CAUSES):
        return event
    raised = _exception_of(event.pop("exc_info")) if event.get("exc_info") else None
    full = {key: str(event[key]) for key in ("error", "detail") if event.get(key)}
    if raised is not None:
        full["exception"] = "".join(traceback.format_exception(raised))
    if method == "debug":
        return {**event, **full}
    structlog.get_logger("rookery.values").debug(event.get("event", ""), **full)
    safe = {key: _safe_summary(event[key]) for key in ("error", "detail") if event.get(key)}
    return {**event, **safe, **({"exception": _stack(raised)} if raised is not None else {})}


class _Forwarded(logging.Handler):
    """Passes the log records of libraries to structlog, so that they have the same format as rookery's own."""

    def emit(self, record: logging.LogRecord) -> None:
        raised = record.exc_info[1] if record.exc_info else None
        name = record.levelname.lower() if record.levelname.lower() in _LEVELS else "error"
        text = record.getMessage()
        getattr(structlog.get_logger(record.name), name)(
            text if name == "debug" else _QUOTED.sub("'…'", text), **({"exc_info": raised} if raised else {})
        )


_LEVELS = ("debug", "info", "warning", "error")


class _Lines:
    """Writes log lines to standard error and ignores failures.

    The disk of the log may be full, or the process that reads it may have ended. Neither may fail the work that logs.
    """

    def msg(self, line: str) -> None:
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = fatal = failure = log = exception = warn = msg


def configure(level: str = "info", *, as_json: bool = False) -> None:
    """Set up logging for this process."""
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _without_values,
            _redacted,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: _Lines(),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [h for h in root.handlers if not isinstance(h, _Forwarded)]
    root.addHandler(_Forwarded(logging.WARNING))


REGISTRY = CollectorRegistry()
"""The metrics of this process."""
EXPOSITION = CONTENT_TYPE_LATEST
"""The media type of what `exposition` returns."""
_BY_DATASOURCE = ("datasource",)
"""Labels of most metrics. The tenant is never a label, because the number of tenants is not limited."""
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_STARTED = time.monotonic()


def _counter(name: str, help: str) -> Counter:
    return Counter(f"rookery_{name}", help, _BY_DATASOURCE, registry=REGISTRY)


def _gauge(name: str, help: str, labels: tuple[str, ...] = _BY_DATASOURCE) -> Gauge:
    return Gauge(f"rookery_{name}", help, labels, registry=REGISTRY)


INGESTED_ROWS = _counter("ingested_rows", "Rows stored.")
INGESTED_BYTES = _counter("ingested_bytes", "Size of the request bodies whose rows were stored, in bytes.")
QUARANTINED_ROWS = _counter("quarantined_rows", "Rows put into quarantine.")
QUARANTINED_BYTES = _counter("quarantined_bytes", "Size of the rows put into quarantine, in bytes.")
REFUSED_ROWS = _counter("refused_rows", "Bad rows that were dropped because their writer's quarantine was full.")
INGEST_REQUESTS = _counter("ingest_requests", "Append requests stored. A batch can hold several requests.")
INGEST_BATCHES = _counter("ingest_batches", "Batches stored.")
FANOUT_FLUSH_SECONDS = Histogram(
    "rookery_fanout_flush_seconds",
    "Duration of a delivery from landing to the nests.",
    _BY_DATASOURCE,
    registry=REGISTRY,
    buckets=_BUCKETS,
)
# The gauges below are only set when they are scraped, by `control/metrics.exposition`.
FANOUT_LAG_ROWS = _gauge("fanout_lag_rows", "Rows in landing that the main group has not received yet.")
FANOUT_LAG_SECONDS = _gauge("fanout_lag_seconds", "Age of the oldest of these rows.")
FANOUT_STRAYS = _gauge(
    "fanout_strays", "Tenants in lagging groups: new tenants, or tenants whose tables refuse rows."
)
SUSPENDED_VIEWS = _gauge("suspended_views", "Views that failed and are suspended, or exclude some tenants.", ())
WAITING_BYTES = _gauge("waiting_bytes", "Size of the request bodies waiting to be stored, in bytes.", ())
_gauge("uptime_seconds", "Time since the process started.", ()).set_function(lambda: time.monotonic() - _STARTED)


def exposition() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
