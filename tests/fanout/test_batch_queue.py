"""The queue of a fan-out worker: which batches are delivered together, and who gives their stages back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from engine.fanout.batch_queue import MAX_DELIVERY_ROWS, MAX_STAGED_BYTES, BatchQueue
from engine.fanout.handover import NOWHERE, CommittedBatch, Reach


@pytest.fixture
def released() -> list[str]:
    """Ids of the batches whose stages were given back."""
    return []


@pytest.fixture
def queue() -> BatchQueue:
    return BatchQueue(threading.Condition())


@pytest.fixture
def batch(released: list[str]) -> Callable[..., CommittedBatch]:
    def make(name: str, rows: int = 1, size: int = 1) -> CommittedBatch:
        reach = Future[Reach]()
        stage = ("stage", "v", "t", "1", ("v",), ((0, rows),))
        return CommittedBatch(name, "events", *stage, rows, size, 1.0, lambda: released.append(name), reach)

    return make


def names(batches: list[CommittedBatch]) -> list[str]:
    return [b.batch for b in batches]


def test_batches_are_uncommitted_from_their_announcement_to_their_delivery(
    queue: BatchQueue, batch: Callable[..., CommittedBatch], released: list[str]
) -> None:
    queue.announce("a")
    queue.announce("b")
    queue.retract("b")
    assert queue.uncommitted() == {"a"}
    queue.put(batch("a"))
    assert queue.uncommitted() == {"a"}
    assert names(queue.take()) == ["a"]
    assert queue.uncommitted() == {"a"}
    queue.acknowledge()
    assert queue.uncommitted() == set()
    assert released == ["a"]


def test_a_failed_delivery_is_repeated_with_the_same_batches(
    queue: BatchQueue, batch: Callable[..., CommittedBatch]
) -> None:
    queue.put(batch("a"))
    assert names(queue.take()) == ["a"]
    queue.put(batch("b"))
    assert names(queue.take()) == ["a"]
    queue.acknowledge()
    assert names(queue.take()) == ["b"]


def test_a_delivery_has_a_limit_of_rows_and_at_least_one_batch(
    queue: BatchQueue, batch: Callable[..., CommittedBatch]
) -> None:
    for name, rows in (("a", MAX_DELIVERY_ROWS + 1), ("b", MAX_DELIVERY_ROWS - 1), ("c", 1), ("d", 1)):
        queue.put(batch(name, rows))
    taken = []
    while batches := queue.take():
        taken.append(names(batches))
        queue.acknowledge()
    assert taken == [["a"], ["b", "c"], ["d"]]


def test_stages_beyond_the_limit_are_given_back_at_once(
    queue: BatchQueue, batch: Callable[..., CommittedBatch], released: list[str]
) -> None:
    queue.put(batch("a", size=MAX_STAGED_BYTES))
    queue.put(batch("b"))
    assert released == ["b"]
    assert [b.table for b in queue.take()] == ["stage", ""]
    queue.acknowledge()
    assert released == ["b", "a"]
    queue.put(batch("c", size=MAX_STAGED_BYTES))
    assert released == ["b", "a"]


def test_closing_gives_all_stages_back_and_answers_the_callers(
    queue: BatchQueue, batch: Callable[..., CommittedBatch], released: list[str]
) -> None:
    queue.put(batch("a"))
    queue.take()
    queue.put(batch("b"))
    waiting = [queue.in_flight[0]]
    queue.abandon()
    assert released == ["a", "b"]
    assert waiting[0].reach.result(0) == NOWHERE


def test_the_backlog_counts_rows_that_are_queued_or_in_flight(
    queue: BatchQueue, batch: Callable[..., CommittedBatch]
) -> None:
    assert queue.backlog() == (0, 0.0)
    queue.put(batch("a", rows=2))
    queue.take()
    queue.put(batch("b", rows=3))
    rows, seconds = queue.backlog()
    assert rows == 5
    assert seconds > 0
