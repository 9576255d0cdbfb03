"""Watches the files of a project."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

from watchfiles import watch

from engine.project.files import FOLDERS
from engine.project.suites import FOLDER as TESTS

QUIET_MS = 50
"""Milliseconds without a change after which changes are reported: editors write a file in several steps."""
LONGEST_MS = 500
"""Milliseconds after which changes are reported even if more keep arriving."""
TICK_MS = 250
"""Milliseconds between two checks of single files, and of whether a folder was replaced."""


class Event(Protocol):
    """An event, such as the end of a program."""

    def is_set(self) -> bool: ...


def watched_changes(root: Path, files: Callable[[], Iterable[Path]], stop: Event) -> Iterator[None]:
    """Yield once at the start, and then whenever something in the project's folders, or one of the files, may have
    changed, until the event is set. Changes during a yield are reported by the next one.
    """
    poll = None
    while not stop.is_set():
        folders = [root / name for name in (*FOLDERS, TESTS) if (root / name).is_dir()]
        try:
            yield from _while_same(folders, partial(_identities, root, files), stop, poll)
        except FileNotFoundError:
            # A folder was removed before it was watched.
            time.sleep(TICK_MS / 1000)
        except (OSError, RuntimeError):
            if poll:
                raise
            # The system's limit of watched folders is reached.
            poll = True


def _while_same(
    folders: list[Path], identities: Callable[[], object], stop: Event, poll: bool | None
) -> Iterator[None]:
    """Yield at the start and at changes in folders, until the identities change.

    The watch begins before the first yield, so that no change is missed.
    """
    before = identities()
    if not folders:
        yield
        while identities() == before and not stop.is_set():
            time.sleep(TICK_MS / 1000)
        return
    is_first = True
    for changes in watch(
        *folders,
        # No filter: a round compares contents, so a needless report costs one reading of the files.
        watch_filter=None,
        debounce=LONGEST_MS,
        step=QUIET_MS,
        stop_event=stop,
        rust_timeout=TICK_MS,
        # At each time-out, the identities are compared: the watch does not see that its folder was replaced.
        yield_on_timeout=True,
        raise_interrupt=False,
        force_polling=poll,
    ):
        if changes or is_first:
            yield
        is_first = False
        if identities() != before:
            return


def _identities(root: Path, files: Callable[[], Iterable[Path]]) -> list[tuple[int, ...] | None]:
    """What changes when a folder of the project is replaced, or when one of the files is written."""
    folders = [_stat(root / name) for name in (*FOLDERS, TESTS)]
    return [*(s and s[:2] for s in folders), *map(_stat, sorted(files()))]


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size
