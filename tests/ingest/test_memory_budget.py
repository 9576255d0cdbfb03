"""The memory for bodies: what one writer may take, and that all of it comes back."""

from __future__ import annotations

import pytest

from engine.errors import QUEUE_FULL, RookeryError
from engine.ingest.memory_budget import MAX_WRITER_SHARE, BodyMemory

LIMIT = 1000


def test_a_writer_leaves_memory_to_others() -> None:
    memory = BodyMemory(LIMIT)
    share = LIMIT * MAX_WRITER_SHARE // (MAX_WRITER_SHARE + 1)
    with memory.budget("a") as first:
        first.reserve(share)
        with pytest.raises(RookeryError) as refused, memory.budget("a") as second:
            second.reserve(1)
        assert refused.value.code is QUEUE_FULL
        with memory.budget("b") as other:
            other.reserve(1)
    assert memory.reserved == 0


def test_a_budget_releases_what_it_holds() -> None:
    memory = BodyMemory(LIMIT)
    with memory.budget("a") as budget:
        budget.reserve(100)
        budget.resize(40)
        assert memory.reserved == 40
        budget.release(10)
        assert memory.reserved == 30
    assert memory.reserved == 0
