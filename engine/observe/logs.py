"""Logging.

Log lines are structured and never contain tokens. Only lines at level debug contain values of rows.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

import structlog

from engine.errors import RookeryError
from engine.observe import log_lines, log_sink, requests
from engine.observe.log_file import LogFile
from engine.observe.log_sink import Sink
from engine.observe.redaction import redact


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
        name = record.levelname.lower() if record.levelname.lower() in log_lines.LEVELS else "error"
        text = record.getMessage()
        getattr(structlog.get_logger(record.name), name)(
            text if name == "debug" else _QUOTED.sub("'…'", text), **({"exc_info": raised} if raised else {})
        )


class _Lines:
    """Passes events from structlog to the sink. Every method is a level."""

    def msg(self, event: MutableMapping[str, Any]) -> None:
        _Destinations.sink.write(event)

    debug = info = warning = error = critical = fatal = failure = log = exception = warn = msg


class _Destinations:
    """Where the lines of this process go. `configure` replaces it."""

    sink = Sink(())


def _with_request(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the id of the request that is being worked for, and the name of its token."""
    record = requests.current()
    if record is not None:
        event.setdefault("request_id", record.id)
        if record.token is not None:
            event.setdefault("token", record.token)
    return event


def _finished(_logger: Any, method: str, event: MutableMapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The event as the only argument of `_Lines`."""
    level = method if method in log_lines.LEVELS else "error"
    return (log_lines.shortened({**event, "level": level}),), {}


def configure(
    level: str = "info", *, as_json: bool = False, file: LogFile | None = None, file_level: str | None = None
) -> None:
    """Set up logging for this process: standard error, and a log file, whose level may be another one."""
    destinations = [log_sink.standard_error(level, as_json=as_json)]
    if file is not None:
        destinations.append(log_sink.log_file(file_level or level, file))
    sink = _Destinations.sink = Sink(destinations)
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _with_request,
            _without_values,
            _redacted,
            _finished,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, sink.level.upper())),
        logger_factory=lambda *_: _Lines(),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [h for h in root.handlers if not isinstance(h, _Forwarded)]
    root.addHandler(_Forwarded(logging.WARNING))


def log_request(record: requests.RequestRecord) -> None:
    """Write the line of a request to the access log."""
    _Destinations.sink.request(record)


def flush() -> None:
    """Write the lines of the access log that wait, before the process ends."""
    _Destinations.sink.flush()
