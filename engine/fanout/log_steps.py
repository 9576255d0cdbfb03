"""What the consumers of a landing log read next. Pure functions of blocks and offsets, which read no tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from engine.fanout.batch_queue import MAX_DELIVERY_ROWS
from engine.fanout.landing_log import GATEWAY_BATCH_PREFIX, MAX_BLOCKS, Block
from engine.fanout.offsets import LogRange, Offset

MAX_CATCH_UP_ROWS = 250_000
"""Number of rows in a range for a lagging group. It is small, because the main group waits in the meantime."""
MAX_REDELIVERED_BATCHES = 8
"""After a crash, redeliver at most this many of the oldest unacknowledged batches. Any of them may be partly
delivered: a batch whose INSERT failed after its rows were stored is delivered out of order."""


def range_of_batches(offset: Offset, batches: Sequence[str]) -> LogRange:
    """The range of batches that are delivered together, given by their ids.

    The token of a single batch is its id, so its range need not be recorded. Several batches have a token that only
    the record connects with them.
    """
    token = batches[0] if len(batches) == 1 else f"f:{offset.epoch}:{batches[0]}:{len(batches)}"
    return LogRange(token, offset.at, batches=tuple(batches))


def partly_delivered(blocks: Iterable[Block], offset: Offset) -> list[LogRange]:
    """After a crash: the oldest unacknowledged batches of the gateway, one range for each."""
    batches = dict.fromkeys(b.batch for b in blocks if b.batch.startswith(GATEWAY_BATCH_PREFIX))
    return [range_of_batches(offset, [b]) for b in batches if b not in offset.acked][:MAX_REDELIVERED_BATCHES]


@dataclass(frozen=True, slots=True)
class _Advance:
    """What the blocks after an offset mean for that offset."""

    offset: Offset
    """The offset, moved past acknowledged blocks."""
    foreign: list[Block]
    """Blocks of other programs after it, to be delivered."""
    acked: list[Block]
    """Acknowledged blocks between the foreign ones."""


def advanced(blocks: Sequence[Block], offset: Offset, uncommitted: set[str]) -> Offset:
    """The main group's offset, moved past acknowledged blocks.

    If blocks of other programs follow, its `log_range` is set to them: they are to be delivered. `blocks` are those
    after the offset; `uncommitted` are batches that the gateway stores or hands over at present.
    """
    step = _advance(blocks, offset, uncommitted)
    if not step.foreign:
        return step.offset
    first, last = step.foreign[0].number, step.foreign[-1].number
    acked = tuple(b.batch for b in step.acked if b.number < last)
    log_range = LogRange(f"b:{step.offset.epoch}:{first}:{last}", step.offset.at, last, skipped=acked)
    return step.offset.began(log_range)


def _advance(blocks: Sequence[Block], offset: Offset, uncommitted: set[str]) -> _Advance:
    """Move an offset past acknowledged blocks, and collect foreign ones up to the first `uncommitted` batch."""
    at, pending, foreign, acked, rows = offset.at, set(offset.acked), list[Block](), list[Block](), 0
    for block in blocks:
        if block.batch in uncommitted:
            # It is delivered from its stage. Later blocks wait, so that the offset has no gaps.
            break
        if block.batch in pending:
            # The offset cannot pass a foreign block that has not been delivered.
            if foreign:
                acked.append(block)
                continue
            pending.discard(block.batch)
            at = block.number
        elif foreign and rows + block.rows > MAX_DELIVERY_ROWS:
            break
        else:
            foreign.append(block)
            rows += block.rows
    else:
        if len(blocks) < MAX_BLOCKS:
            # Acknowledged batches that are not among the blocks no longer have rows in landing.
            pending.intersection_update(b.batch for b in blocks)
    return _Advance(replace(offset, at=at, acked=frozenset(pending)), foreign, acked)


def catch_up_range(blocks: Sequence[Block], offset: Offset, goal: int) -> LogRange | Offset:
    """The next range for a lagging group, up to block `goal`; or its offset, if it has all rows of these blocks.

    `blocks` are those after the offset.
    """
    following, rows = list[Block](), 0
    for block in blocks:
        missing = 0 if block.batch in offset.acked else block.rows
        if block.number > goal or (rows and rows + missing > MAX_CATCH_UP_ROWS):
            break
        rows += missing
        following.append(block)
    acked = tuple(b.batch for b in following if b.batch in offset.acked)
    upto = following[-1].number if following else goal
    if not rows:
        return replace(offset, at=upto, acked=offset.acked - set(acked))
    return LogRange(f"t:{offset.epoch}:{offset.at}:{upto}", offset.at, upto, skipped=acked)


def without_vanished(blocks: Sequence[Block], offset: Offset) -> Offset:
    """An offset without the acknowledged batches whose rows a TTL has removed from landing.

    Otherwise the offset would never pass them. `blocks` are those after the offset.
    """
    if len(blocks) >= MAX_BLOCKS:
        # There may be more blocks.
        return offset
    return replace(offset, acked=offset.acked & {b.batch for b in blocks})
