"""Errors that only a bug, or a failing file, can cause."""

from __future__ import annotations

import structlog

from engine.errors import INTERNAL, RookeryError
from engine.warehouse.errors import file_error, for_sender, is_file_error

log = structlog.get_logger("rookery.ingest")


def unexpected_error(exc: BaseException) -> RookeryError:
    """Log an unexpected error. Returns RK6008 or RK6009 if a file failed, otherwise RK7006."""
    log.error("cannot store a batch", exc_info=exc)
    if is_file_error(exc):
        return for_sender(file_error(exc))
    return RookeryError(
        INTERNAL, "the batch could not be stored", hint="the server's log has the details", detail=str(exc)
    )
