"""Log lines: structured, to standard error, and never with a token in them."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_TOKENISH = re.compile(r"(?:\bp\.|\bey)[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,2}|(?i:token=)[^&\s]+")


def redact(text: str) -> str:
    """A text with anything that looks like a token blotted out."""
    return _TOKENISH.sub("[token]", text)


def _redacted(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {k: redact(v) if isinstance(v, str) else v for k, v in event.items()}


def configure(level: str = "info", *, as_json: bool = False) -> None:
    """Set up logging for a process."""
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redacted,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
