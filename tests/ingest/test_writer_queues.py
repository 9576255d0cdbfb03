"""Writers of one datasource do not wait for the search over another writer's bad rows, and keep their own order."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from engine.control.erasure import delete_rows
from engine.errors import RookeryError
from engine.ingest.batch import Append, AppendResult
from engine.ingest.bisect import UNEXPLAINED
from engine.ingest.gateway import MAX_SEARCHES
from engine.ingest.writer_queues import IngestQueue
from engine.schema import Name
from engine.warehouse.port import Input
from tests.support.in_process import Rookery, open_rookery

EVENTS = """\
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: String}
  - {name: n, type: UInt32}
  - {name: at, type: DateTime}
  - {name: place, type: String, json: $.geo.city}
tenant: {column: tenant_id, foreign: quarantine}
engine: {sorting_key: [tenant_id, id]}
"""
PRICES = """\
columns:
  - {name: id, type: String}
  - {name: n, type: UInt32}
engine: {type: ReplacingMergeTree, sorting_key: [id]}
"""
QUOTA = 20
EXPLAINED, TRIES = 5, 10


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    limits = {"quarantine_rows": QUOTA, "search_rows": EXPLAINED, "search_tries": TRIES}
    with open_rookery(tmp_path_factory.mktemp("lanes"), **limits) as opened:
        opened.push({"datasources/events.yaml": EVENTS, "datasources/prices.yaml": PRICES})
        opened.add("1", "2", placement="pooled")
        yield opened


@pytest.fixture(autouse=True)
def clean(rookery: Rookery) -> None:
    for name in ("events", "events_quarantine", "prices", "prices_quarantine"):
        rookery.run(f"TRUNCATE TABLE main.{name}")


def send(rookery: Rookery, rows: list[dict[str, Any]], name: str = "events", **more: Any) -> Future[AppendResult]:
    return rookery.gateway.submit(Append(name, "\n".join(map(json.dumps, rows)).encode(), Input.NDJSON, **more))


def row(id: str, tenant: int = 1, **more: Any) -> dict[str, Any]:
    return {"tenant_id": tenant, "id": id, **more}


@contextmanager
def no_search(rookery: Rookery) -> Iterator[None]:
    """All search threads are busy during the block."""
    held = threading.Event()
    for _ in range(MAX_SEARCHES):
        rookery.gateway._searches.submit(held.wait, 60)
    try:
        yield
    finally:
        held.set()


def stored(rookery: Rookery, table: str = "events") -> list[str]:
    return [r[0] for r in rookery.rows(f"SELECT id FROM main.{table} ORDER BY _block_number, _block_offset")]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"bound_tenant": "1"}, {"bound_tenant": "2"}),
        ({"token": "a"}, {"token": "b"}),
        ({"bound_tenant": "1"}, {"token": "a"}),
        ({"token": "a"}, {"bound_tenant": "1"}),
    ],
)
def test_a_writer_does_not_wait_for_the_search_of_another(
    rookery: Rookery, theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
    with no_search(rookery):
        bad = send(rookery, [row(f"bad {n}", n="many") for n in range(15)] + [row("good")], **theirs)
        first = send(rookery, [row("ours", int(ours.get("bound_tenant", 2)))], **ours)
        assert first.result(30).rows == 1
        assert not bad.done()
    outcome = bad.result(30)
    assert (outcome.rows, outcome.quarantined) == (1, 15)
    assert stored(rookery) == ["ours", "good"]


def test_rows_of_a_writer_stay_in_order_after_its_bad_ones(rookery: Rookery) -> None:
    with no_search(rookery):
        bad = send(rookery, [row("1 good"), row("bad", n="many")], token="a")
        later = [send(rookery, [row(f"{n} later")], token="a") for n in range(2, 5)]
        other = [send(rookery, [row(f"other {n}")], token="b").result(30) for n in range(3)]
        assert not any(f.done() for f in (bad, *later)) and len(other) == 3
    assert [f.result(30).rows for f in (bad, *later)] == [1, 1, 1, 1]
    assert stored(rookery) == ["other 0", "other 1", "other 2", "1 good", "2 later", "3 later", "4 later"]


def test_the_last_value_of_a_key_wins_although_an_earlier_request_was_searched(rookery: Rookery) -> None:
    """Each key of a datasource without a log makes a batch of its own."""
    with no_search(rookery):
        sent = [
            send(rookery, [{"id": "x", "n": 1}, {"id": "y", "n": "many"}], "prices", key="first"),
            send(rookery, [{"id": "x", "n": 2}], "prices", key="second"),
            send(rookery, [{"id": "x", "n": 3}], "prices"),
        ]
    assert [f.result(30).rows for f in sent] == [1, 1, 1]
    assert rookery.rows("SELECT id, n FROM main.prices FINAL") == [("x", 3)]


def test_searches_take_turns(rookery: Rookery) -> None:
    """A writer with many requests to search lets other writers' requests in between."""
    done: list[str] = []
    with no_search(rookery):
        many = [
            send(rookery, [row(f"many {n}"), row("bad", n="x")], token="many", key=f"many {n}") for n in range(16)
        ]
        one = send(rookery, [row("one"), row("bad", n="x")], token="one")
        for future in (*many, one):
            future.add_done_callback(lambda f: done.append("one" if f is one else "many"))
        # What was sent meanwhile has been tried, and waits for a search as one group.
        send(rookery, [row("tried", 2)], bound_tenant="2").result(30)
    for future in (*many, one):
        assert future.result(60).rows == 1
    assert done.index("one") < 8, done


def test_turns_are_fair_and_combine_compatible_requests() -> None:
    queue = IngestQueue()
    for n in range(3):
        for token, bound in (("a", None), ("", "1"), ("b", None)):
            queue.add(Append("events", b"%d" % n, Input.NDJSON, bound, token=token))
    queue.add(Append("events", b"csv", Input.CSV, None, token="b"))
    queue.add(Append("events", b"3", Input.NDJSON, None, token="b"))
    taken = []
    while batch := queue.next_batch():
        taken.append([(a.writer[-1], a.body.decode()) for a in batch])
    assert taken == [
        [("a", "0"), ("b", "0"), ("a", "1"), ("b", "1"), ("a", "2"), ("b", "2")],
        [("1", "0"), ("1", "1"), ("1", "2")],
        [("b", "csv")],
        [("b", "3")],
    ]
    assert (queue.size, queue.waiting, queue.queues) == (0, 0, {})


def test_a_tenant_leaves_a_batch_to_others_while_its_parquet_file_is_read() -> None:
    queue = IngestQueue()
    first, second = (Append("events", b"%d" % n, Input.PARQUET, "1") for n in range(2))
    queue.add(first)
    assert queue.may_start(first) and queue.next_batch() == [first]
    queue.running[first.sharing] += 1
    queue.add(second)
    assert not queue.may_start(second)
    other = Append("events", b"{}", Input.NDJSON, "2")
    queue.add(other)
    assert queue.may_start(other) and queue.next_batch() == [other]
    assert queue.next_batch() == []
    queue.batch_ended(first.sharing)
    assert queue.may_start(second) and queue.next_batch() == [second]


def test_batches_over_the_search_limit_are_quarantined_unsearched(rookery: Rookery) -> None:
    unreadable = send(rookery, [row(f"u {n}", n="many") for n in range(9)] + [row("good")], token="limits")
    assert (unreadable.result(30).rows, unreadable.result(30).quarantined) == (1, 9)
    reasons = Counter(
        r[0][0] for r in rookery.rows("SELECT c__error FROM main.events_quarantine WHERE c__text LIKE '%\"u %'")
    )
    assert reasons == {
        '`"many"` is not of type UInt32': EXPLAINED,
        UNEXPLAINED: 9 - EXPLAINED,
    }


def test_random_writers_have_every_row_once(rookery: Rookery) -> None:
    chance = random.Random(7)
    rookery.workspace.settings.__dict__["quarantine_rows"] = 100_000
    sent: list[tuple[Future[AppendResult], int, int]] = []
    try:
        for n in range(30):
            bad = chance.choice([0, 0, 0, 0, 1, 2])
            good = chance.randrange(3)
            rows = [row(f"{n}-{i}", n=i) for i in range(good)] + [row(f"{n}-bad-{i}", n=[]) for i in range(bad)]
            chance.shuffle(rows)
            who = chance.choice([{"bound_tenant": "1"}, {"token": "a"}, {"token": "b"}, {"token": "c"}])
            key = f"crowd {n}" if chance.random() < 0.3 else None
            sent.append((send(rookery, rows, key=key, **who), good, bad))
        for future, good, bad in sent:
            outcome = future.result(120)
            assert (outcome.rows, outcome.quarantined, outcome.refused) == (good, bad, 0)
    finally:
        rookery.workspace.settings.__dict__["quarantine_rows"] = QUOTA
    ids = stored(rookery)
    assert len(ids) == len(set(ids)) == sum(good for _, good, _ in sent)
    assert rookery.rows("SELECT count() FROM main.events_quarantine") == [(sum(bad for _, _, bad in sent),)]


@pytest.mark.feature
def test_good_rows_are_stored_after_the_quarantine_limit_of_a_writer(rookery: Rookery) -> None:
    outcome = send(
        rookery, [row(f"b {n}", n="x") for n in range(QUOTA + 5)] + [row("g")], token="full", key="k"
    ).result(30)
    assert (outcome.rows, outcome.quarantined, outcome.refused) == (1, QUOTA, 5)
    again = send(
        rookery, [row(f"b {n}", n="x") for n in range(QUOTA + 5)] + [row("g")], token="full", key="k"
    ).result(30)
    assert (again.repeated, again.rows, again.quarantined, again.refused) == (True, 1, QUOTA, 5)
    # Others have a share of their own.
    for who in ({"token": "other"}, {"bound_tenant": "1"}):
        assert send(rookery, [row("b", n="x")], **who).result(30).quarantined == 1
    # Nothing is left of this one, so that it is a new request when there is room.
    refused = send(rookery, [row("b", n="x")], token="full", key="later")
    assert (refused.result(30).quarantined, refused.result(30).refused) == (0, 1)
    delete_rows(rookery.workspace, Name("main", "events_quarantine"), "c__row < 2")
    later = send(rookery, [row("b", n="x")], token="full", key="later").result(30)
    assert (later.quarantined, later.refused, later.repeated) == (1, 0, False)


def test_closing_stores_requests_that_wait_for_a_search(
    rookery: Rookery, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gateway = type(rookery.gateway)(rookery.workspace, rookery.gateway._writer._stages)
    sent = [
        gateway.append("events", json.dumps(row(f"c {n}", n="x" if n == 0 else 1)).encode(), Input.NDJSON)
        for n in range(20)
    ]
    gateway.close()
    assert all(f.done() for f in sent)
    assert len(stored(rookery)) == 19
    with pytest.raises(RookeryError):
        gateway.append("events", b"{}", Input.NDJSON)
