"""The queue for readers, and which queries count as stuck; with an injected clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from engine.errors import RookeryError
from engine.query.reader_queue import ReaderQueue
from engine.query.running import RunningQueries, Ticket

pytestmark = pytest.mark.feature
LONG = 20.0


def run_scene(scene: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        await asyncio.wait_for(scene(), LONG)

    asyncio.run(within())


async def let_tasks_run() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_one_caller_leaves_readers_to_others() -> None:
    async def scene() -> None:
        turns = ReaderQueue(4, 3, 100, LONG)
        mine = [asyncio.ensure_future(turns.enter("a")) for _ in range(8)]
        await let_tasks_run()
        assert [t.done() for t in mine] == [True] * 3 + [False] * 5
        await turns.enter("b")
        turns.leave("a")
        await let_tasks_run()
        assert sum(t.done() for t in mine) == 4
        for waiting in mine:
            waiting.cancel()

    run_scene(scene)


def test_a_reader_is_wanted_by_callers_with_fewer_readers() -> None:
    async def scene() -> None:
        turns = ReaderQueue(3, 2, 100, LONG)
        for caller in "aab":
            await turns.enter(caller)
        assert not turns.is_wanted("a")
        mine = asyncio.ensure_future(turns.enter("a"))
        await let_tasks_run()
        assert not turns.is_wanted("a") and not turns.is_wanted("b"), "its own share is used up"
        more = asyncio.ensure_future(turns.enter("b"))
        await let_tasks_run()
        assert turns.is_wanted("a") and not turns.is_wanted("b")
        first = asyncio.ensure_future(turns.enter("c"))
        await let_tasks_run()
        assert turns.is_wanted("a") and turns.is_wanted("b")
        for waiting in (mine, more, first):
            waiting.cancel()

    run_scene(scene)


def test_waiting_callers_take_turns() -> None:
    async def scene() -> None:
        turns, order = ReaderQueue(1, 1, 100, LONG), []

        async def ask(caller: str) -> None:
            await turns.enter(caller)
            order.append(caller)

        await turns.enter("x")
        tasks = [asyncio.ensure_future(ask(c)) for c in "aaaabbc"]
        await let_tasks_run()
        last = "x"
        for _ in tasks:
            turns.leave(last)
            await let_tasks_run()
            last = order[-1]
        assert "".join(order) == "abcabaa"

    run_scene(scene)


def test_waiting_too_long_is_an_error_with_its_reason() -> None:
    async def scene() -> None:
        turns = ReaderQueue(2, 1, 3, 0.01)
        await turns.enter("a")
        with pytest.raises(RookeryError) as own:
            await turns.enter("a")
        assert own.value.code.id == "RK4010" and own.value.headers["Retry-After"] == "1"
        await turns.enter("b")
        with pytest.raises(RookeryError) as others:
            await turns.enter("c")
        assert others.value.code.id == "RK6003"
        turns.leave("b")
        await turns.enter("c")

    run_scene(scene)


def test_the_waiting_queries_of_a_caller_are_limited() -> None:
    async def scene() -> None:
        turns = ReaderQueue(2, 1, 3, LONG)
        waiting = [asyncio.ensure_future(turns.enter("a")) for _ in range(3)]
        await let_tasks_run()
        with pytest.raises(RookeryError) as caught:
            await turns.enter("a")
        assert caught.value.code.id == "RK4010"
        for task in waiting:
            task.cancel()

    run_scene(scene)


def test_others_wait_only_for_what_they_may_have() -> None:
    async def scene() -> None:
        turns = ReaderQueue(3, 2, 100, LONG)
        for caller in "abb":
            await turns.enter(caller)
        waiting = [asyncio.ensure_future(turns.enter("b"))]
        await let_tasks_run()
        assert not turns.others_wait("a"), "the other caller has its share"
        waiting.append(asyncio.ensure_future(turns.enter("c")))
        await let_tasks_run()
        assert turns.others_wait("a") and not turns.others_wait("c")
        for task in waiting:
            task.cancel()

    run_scene(scene)


def test_a_caller_that_disconnects_while_waiting_takes_no_reader() -> None:
    async def scene() -> None:
        turns = ReaderQueue(1, 1, 100, LONG)
        await turns.enter("a")
        for _ in range(3):
            gone = asyncio.ensure_future(turns.enter("b"))
            await let_tasks_run()
            gone.cancel()
            await let_tasks_run()
        leaving = asyncio.ensure_future(turns.enter("b"))
        await let_tasks_run()
        # The place is handed over, and its new holder is cancelled before it could notice.
        turns.leave("a")
        leaving.cancel()
        await let_tasks_run()
        await turns.enter("c")

    run_scene(scene)


def test_a_query_is_stuck_when_it_is_over_its_limit_and_the_grace() -> None:
    now, cancelled = [0.0], []
    running = RunningQueries(cancelled.append, 5.0, lambda: now[0])
    ticket = Ticket()
    ticket.seconds = 10.0
    running.cancel(ticket)
    assert cancelled == [] and ticket.cancelled, "what has not begun is not the database's business"
    with running.watch(ticket):
        for now[0], stuck in ((0.0, 0), (14.9, 0), (15.1, 1)):
            assert running.stuck() == stuck
        running.cancel_all()
    assert running.stuck() == 0 and cancelled == [ticket.id]
