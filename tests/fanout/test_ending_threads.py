"""A background thread that has found no work must not count as running: work that arrives as it ends would wait."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from engine.control import deferred_views
from engine.control.deferred_views import Deferred
from engine.fanout.uncertain_batches import UncertainBatches
from tests.support.in_process import PATIENCE


class _Batches(dict[str, list[Any]]):
    """Uncertain batches to which one is added while the thread that retries them looks whether any remain."""

    def __init__(self, owner: UncertainBatches) -> None:
        super().__init__()
        self._owner = owner
        self.adding: threading.Thread | None = None

    def __bool__(self) -> bool:
        found = len(self) > 0
        if not found and self.adding is None and threading.current_thread().name == "uncertain batches":
            self.adding = threading.Thread(target=self._owner.add, args=("events", "g:2", "the disk is full"))
            self.adding.start()
            # It ends only now, or when this thread has released its lock.
            self.adding.join(0.2)
        return found


def _workspace() -> Any:
    """A workspace whose batches can be completed without a database."""
    return SimpleNamespace(
        view_lock=SimpleNamespace(attach_completion=lambda _: None),
        insert_lock=SimpleNamespace(exclusive=nullcontext),
        registry=SimpleNamespace(write=lambda *_: None, remove=lambda *_: None),
    )


def test_a_batch_that_is_added_as_the_thread_ends_is_retried() -> None:
    batches = UncertainBatches(_workspace())
    batches._completion = SimpleNamespace(complete=lambda _: None)  # type: ignore[assignment]
    batches._batches = own = _Batches(batches)
    # The pauses between attempts end at once.
    batches._wake.set()
    batches.add("events", "g:1", "the disk is full")
    first = batches._thread
    assert first is not None
    first.join(PATIENCE)
    assert own.adding is not None
    own.adding.join(PATIENCE)
    second = batches._thread
    assert second is not None and second is not first, "nothing retries the second batch"
    second.join(PATIENCE)
    assert batches.outstanding() == []


def test_a_view_that_is_deferred_as_the_thread_ends_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred_views, "FIRST_PAUSE_SECONDS", 0.0)
    reads = 0

    def read(_kind: str) -> dict[str, Any]:
        nonlocal reads
        reads += 1
        if reads == 1:
            # A push records a view that the thread has just not found, and asks for it.
            deferred.watch()
        return {}

    workspace: Any = SimpleNamespace(registry=SimpleNamespace(read=read))
    deferred = Deferred(workspace)
    deferred.watch()
    assert deferred._thread is not None
    deferred._thread.join(PATIENCE)
    assert reads == 2, "the thread has not looked again"
