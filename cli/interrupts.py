"""Handles Ctrl-C: it ends the program at any moment, without a message, with exit code 130.

Until a command has something to clean up, the process ends immediately. An exception would not be sufficient: it can
be raised in the middle of an import, where Python may print or discard it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

EXIT_CODE = 130


def end_at_once() -> None:
    """End the process at Ctrl-C, unless the parent has set the signal to be ignored."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(EXIT_CODE)


def end_after_cleanup() -> NoReturn:
    """End the process when an interrupted command has cleaned up.

    Without the interpreter's own shutdown: there, an engine whose opening was interrupted crashes.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(EXIT_CODE)


@contextmanager
def raised() -> Iterator[None]:
    """While the context is active, Ctrl-C raises KeyboardInterrupt, so that a command can clean up."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ignore() -> None:
    """Ignore Ctrl-C until `raised` ends. Call it when a command has printed its result and only cleans up."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
