"""What a consumer of the landing log reads next: pure decisions about blocks and offsets."""

from __future__ import annotations

import pytest

from engine.fanout.landing_log import Block
from engine.fanout.log_steps import (
    MAX_CATCH_UP_ROWS,
    MAX_REDELIVERED_BATCHES,
    advanced,
    catch_up_range,
    partly_delivered,
    range_of_batches,
    without_vanished,
)
from engine.fanout.offsets import LogRange, Offset


def blocks(*batches: str, first: int = 1, rows: int = 10) -> list[Block]:
    """One block for each batch, with consecutive numbers."""
    return [Block(number, batch, rows) for number, batch in enumerate(batches, first)]


def offset(at: int = 0, *acked: str) -> Offset:
    return Offset("e", at, frozenset(acked))


def test_the_token_of_one_batch_is_its_id() -> None:
    assert range_of_batches(offset(3), ["g:a"]) == LogRange("g:a", 3, batches=("g:a",))


def test_the_token_of_several_batches_names_their_number_and_the_history() -> None:
    both = range_of_batches(offset(3), ["g:a", "g:b"])
    assert both.batches == ("g:a", "g:b")
    assert both.token not in {"g:a", range_of_batches(offset(3), ["g:a", "g:b", "g:c"]).token}
    assert both.token != range_of_batches(Offset("other", 3), ["g:a", "g:b"]).token


def test_acknowledged_blocks_are_passed() -> None:
    assert advanced(blocks("g:a", "g:b"), offset(0, "g:a", "g:b"), set()) == offset(2)


def test_an_uncommitted_batch_ends_the_advance() -> None:
    after = advanced(blocks("g:a", "g:b", "g:c"), offset(0, "g:a", "g:c"), {"g:b"})
    assert after == offset(1, "g:c")


def test_foreign_blocks_are_to_be_delivered_without_the_acknowledged_ones_between_them() -> None:
    after = advanced(blocks("g:a", "", "g:b", "x", "g:c"), offset(0, "g:a", "g:b", "g:c"), set())
    assert after.at == 1
    assert after.log_range is not None
    assert (after.log_range.after, after.log_range.upto, after.log_range.skipped) == (1, 4, ("g:b",))


def test_an_acknowledged_batch_that_has_left_landing_is_forgotten() -> None:
    assert advanced(blocks("g:b"), offset(0, "g:a", "g:b"), set()) == offset(1)
    assert without_vanished(blocks("g:b"), offset(0, "g:a", "g:b")) == offset(0, "g:b")


def test_a_crash_redelivers_the_oldest_unacknowledged_batches_of_the_gateway() -> None:
    names = [f"g:{n:02}" for n in range(20)]
    ranges = partly_delivered(blocks("x", *names), offset(0, "g:00"))
    assert [r.token for r in ranges] == names[1 : MAX_REDELIVERED_BATCHES + 1]


def test_a_lagging_group_reads_up_to_the_main_group() -> None:
    following = catch_up_range(blocks("g:a", "g:b", "g:c"), offset(0, "g:b"), goal=2)
    assert isinstance(following, LogRange)
    assert (following.after, following.upto, following.skipped) == (0, 2, ("g:b",))


def test_a_lagging_group_reads_a_limited_number_of_rows_and_at_least_one_block() -> None:
    following = catch_up_range(blocks("x", "y", rows=MAX_CATCH_UP_ROWS + 1), offset(), goal=2)
    assert isinstance(following, LogRange)
    assert following.upto == 1


@pytest.mark.parametrize("present", [blocks("g:a"), []], ids=["acknowledged", "removed"])
def test_a_lagging_group_passes_blocks_without_rows_for_it(present: list[Block]) -> None:
    assert catch_up_range(present, offset(0, "g:a"), goal=1) == offset(1, *(() if present else ("g:a",)))
