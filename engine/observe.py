"""What the running program reports: log lines and a closed list of observations for Prometheus.

Lines are structured, have no tokens in them, and above level debug no values of rows."""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal

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
    """A text with anything that looks like a token blotted out."""
    return _DOTTED.sub(_blotted, _IN_QUERY.sub("[token]", text))


def _blotted(found: re.Match[str]) -> str:
    """What stands for parts joined by dots: the token from its first part on, or the parts themselves."""
    text = found[0]
    at = 0
    *parts, _ = text.split(".")
    for n, part in enumerate(parts):
        begin = _TOKEN_PART.search(part)
        if begin is not None:
            return text[: at + begin.start()] + "[token]"
        static = part == "p" or part.endswith("-p")
        if static and n + 1 < len(parts) and len(parts[n + 1]) >= 8:
            return text[: at + len(part) - 1] + "[token]"
        at += len(part) + 1
    return text


def _redacted(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {k: redact(v) if isinstance(v, str) else v for k, v in event.items()}


_CAUSES = ("error", "detail", "exc_info")
"""Keys of an event whose texts may quote rows: the engine's messages do."""
_ENGINE_CODE = re.compile(r"Code: (\d{1,9})\.")
_QUOTED = re.compile(r"'[^']*+'?|\"[^\"]*+\"?")


def cause(found: object) -> str:
    """What may be logged of an exception, or of a text about one: its code, never a value that it quotes."""
    if isinstance(found, RookeryError):
        number = getattr(found, "engine_code", None)
        return f"{found.code.id} {found.code.title}" + (f" (engine code {number})" if number else "")
    if isinstance(found, BaseException):
        return type(found).__name__
    text = str(found)
    engine = _ENGINE_CODE.search(text)
    return f"engine code {engine[1]}" if engine else "in full at level debug"


def _stack(found: BaseException) -> str:
    """The frames of an exception and of those before it, without their messages."""
    chain: list[BaseException] = []
    at: BaseException | None = found
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    parts = ["".join(traceback.format_tb(e.__traceback__)) + cause(e) for e in reversed(chain)]
    return "\nwhich led to\n".join(parts)


def _exception_of(given: object) -> BaseException | None:
    if isinstance(given, BaseException):
        return given
    current = given if isinstance(given, tuple) else sys.exc_info()
    return current[1] if isinstance(current[1], BaseException) else None


def _without_values(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An event without values of rows. In full it is a line of level debug, where that is wanted."""
    if not any(event.get(key) for key in _CAUSES):
        return event
    raised = _exception_of(event.pop("exc_info")) if event.get("exc_info") else None
    full = {key: str(event[key]) for key in ("error", "detail") if event.get(key)}
    if raised is not None:
        full["exception"] = "".join(traceback.format_exception(raised))
    if method == "debug":
        return {**event, **full}
    structlog.get_logger("rookery.values").debug(event.get("event", ""), **full)
    safe = {key: cause(event[key]) for key in ("error", "detail") if event.get(key)}
    return {**event, **safe, **({"exception": _stack(raised)} if raised is not None else {})}


class _Forwarded(logging.Handler):
    """Lines of libraries, written like ours."""

    def emit(self, record: logging.LogRecord) -> None:
        raised = record.exc_info[1] if record.exc_info else None
        name = record.levelname.lower() if record.levelname.lower() in _LEVELS else "error"
        text = record.getMessage()
        getattr(structlog.get_logger(record.name), name)(
            text if name == "debug" else _QUOTED.sub("'…'", text), **({"exc_info": raised} if raised else {})
        )


_LEVELS = ("debug", "info", "warning", "error")


class _Lines:
    """Writes lines to standard error. One that cannot be written is left out.

    The log's disk may be full, or its reader gone; the work that reports something must not fail for that.
    """

    def msg(self, line: str) -> None:
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = fatal = failure = log = exception = warn = msg


def configure(level: str = "info", *, as_json: bool = False) -> None:
    """Set up logging for a process."""
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


@dataclass(frozen=True, slots=True)
class Observation:
    """Something that is counted, measured or looked up. Tenants are no labels: there may be any number of them."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    help: str
    labels: tuple[str, ...] = ("datasource",)


OBSERVATIONS = (
    Observation("ingested_rows", "counter", "Rows stored."),
    Observation("ingested_bytes", "counter", "Bytes of bodies whose rows were stored."),
    Observation("quarantined_rows", "counter", "Rows put into quarantine."),
    Observation("quarantined_bytes", "counter", "Bytes of rows put into quarantine."),
    Observation("refused_rows", "counter", "Bad rows that were not kept: their writer's quarantine was full."),
    Observation("ingest_requests", "counter", "Requests stored; by batches, how many went together."),
    Observation("ingest_batches", "counter", "Batches stored."),
    Observation("fanout_flush_seconds", "histogram", "Duration of a flush into the nests."),
    Observation("fanout_lag_rows", "gauge", "Rows in landing that tenants in step have not received yet."),
    Observation("fanout_lag_seconds", "gauge", "Age of the oldest of those rows."),
    Observation("fanout_strays", "gauge", "Tenants that are not in step: new, or failing."),
    Observation("suspended_views", "gauge", "Views that failed and are down, or go on without some tenants.", ()),
    Observation("waiting_bytes", "gauge", "Bytes of bodies that wait to be stored.", ()),
    Observation("uptime_seconds", "gauge", "Age of the process.", ()),
)
EXPOSITION = CONTENT_TYPE_LATEST
"""The media type of what `exposition` returns."""
STARTED = time.monotonic()
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_KNOWN = {o.name: o for o in OBSERVATIONS}
_lasting = CollectorRegistry()


def _full(observation: Observation) -> tuple[str, str, tuple[str, ...]]:
    return f"rookery_{observation.name}", observation.help, observation.labels


_counters = {o.name: Counter(*_full(o), registry=_lasting) for o in OBSERVATIONS if o.kind == "counter"}
_histograms = {
    o.name: Histogram(*_full(o), registry=_lasting, buckets=_BUCKETS) for o in OBSERVATIONS if o.kind == "histogram"
}


def count(name: str, n: int = 1, **labels: str) -> None:
    """Count what has happened."""
    _counters[name].labels(**labels).inc(n)


def record(name: str, seconds: float, **labels: str) -> None:
    """Take down how long something took."""
    _histograms[name].labels(**labels).observe(seconds)


def exposition(gauges: Iterable[tuple[str, float, Mapping[str, str]]]) -> bytes:
    """All observations in Prometheus' text format; gauges are given as they are at this moment."""
    passing = CollectorRegistry()
    found: dict[str, Gauge] = {}
    for name, value, labels in (*gauges, ("uptime_seconds", time.monotonic() - STARTED, {})):
        gauge = found.get(name) or found.setdefault(name, Gauge(*_full(_KNOWN[name]), registry=passing))
        (gauge.labels(**labels) if labels else gauge).set(value)
    return generate_latest(_lasting) + generate_latest(passing)
