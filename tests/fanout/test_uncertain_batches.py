"""A batch that was stored in part is completed before the next one is stored, even after a restart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from engine.errors import IN_DOUBT, OVERLOADED, RookeryError
from engine.fanout import insert_failures, uncertain_batches
from engine.fanout.batch_completion import UNCERTAIN_KIND
from engine.fanout.suspension_records import suspended
from engine.fanout.uncertain_batches import uncertain_batches_of
from engine.warehouse.port import Input
from tests.fanout.retrying_writers import project
from tests.support.in_process import Rookery, open_rookery

OWN, POOLED = ("1", "2"), "8"
_IDS = itertools.count(1)
REFUSED = "ALTER TABLE {0} MODIFY SETTING parts_to_throw_insert = 1"
TAKEN = "ALTER TABLE {0} RESET SETTING parts_to_throw_insert"


def _rows() -> list[dict[str, int]]:
    return [{"tenant_id": int(t), "id": next(_IDS), "n": next(_IDS) % 100} for t in (*OWN, POOLED) for _ in range(3)]


def _made(rookery: Rookery, mode: str) -> None:
    rookery.push(project(mode, "more"))
    rookery.add(*OWN)
    rookery.add(POOLED, placement="pooled")
    assert rookery.deliver(_rows())


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    """A workspace in which a refused INSERT leaves its rows in landing."""
    with ExitStack() as stack:
        for attempt in range(5):
            opened = stack.enter_context(open_rookery(tmp_path_factory.mktemp("direct")))
            _made(opened, "direct")
            if attempt == 4 or _reaches_landing(opened):
                yield opened
                return
            stack.close()


def _reaches_landing(rookery: Rookery) -> bool:
    """Whether the engine stores rows in landing before it asks the target of a view whether it accepts them.

    Rarely, for all INSERTs into the tables of a workspace, it asks first. Then nothing is stored.
    """
    count = "SELECT count() FROM main.events"
    before = rookery.rows(count)
    rookery.run(REFUSED.format("main.sums"))
    _code(rookery, _rows())
    reached = rookery.rows(count) != before
    rookery.run(TAKEN.format("main.sums"))
    uncertain_batches_of(rookery.workspace).complete_all()
    return reached


def _assert_complete(rookery: Rookery) -> None:
    rookery.wait_until_read()
    assert rookery.differences(OWN, ("sums", "more")) == []
    mine = f"WHERE tenant_id = {POOLED}"
    (landing,) = rookery.rows(f"SELECT count(), sum(n) FROM main.events {mine}")
    assert rookery.rows(f"SELECT sum(events), sum(total) FROM main.sums {mine}") == [landing]
    assert not suspended(rookery.workspace)
    assert not uncertain_batches_of(rookery.workspace).outstanding()


def _code(rookery: Rookery, rows: list[dict[str, int]], key: str | None = None) -> str:
    with pytest.raises(RookeryError) as caught:
        rookery.append(rows, key=key)
    assert caught.value.code.status == 503
    assert caught.value.headers["Retry-After"]
    return caught.value.code.id


def test_no_batch_is_stored_before_the_uncertain_one_is_complete(rookery: Rookery) -> None:
    rows = _rows()
    rookery.run(REFUSED.format("main.sums"))
    try:
        before = rookery.rows("SELECT count() FROM main.events")[0][0]
        assert _code(rookery, rows, "a key") == OVERLOADED.id
        ((after,),) = rookery.rows("SELECT count() FROM main.events")
        assert after == before + len(rows), "it is in landing"
        recorded = rookery.workspace.registry.read(UNCERTAIN_KIND)
        (uncertain,) = uncertain_batches_of(rookery.workspace).outstanding()
        assert recorded == {uncertain.batch: uncertain.as_dict()}, "a restart knows it, however many inserts follow"
        for again, key in ((rows, "a key"), (_rows(), "another")):
            assert _code(rookery, again, key) == IN_DOUBT.id
        with pytest.raises(RookeryError, match=IN_DOUBT.id):
            rookery.gateway.receipts.show(None, "a key")
        assert rookery.rows("SELECT count() FROM main.events") == [(after,)]
    finally:
        rookery.run(TAKEN.format("main.sums"))
    uncertain_batches_of(rookery.workspace).complete_all()
    assert rookery.workspace.registry.read(UNCERTAIN_KIND) == {}
    assert rookery.append(rows, key="a key").repeated
    assert rookery.deliver(_rows())
    _assert_complete(rookery)


def test_an_uncertain_batch_is_completed_automatically(rookery: Rookery) -> None:
    rookery.run(REFUSED.format("main.sums"))
    _code(rookery, _rows())
    rookery.run(TAKEN.format("main.sums"))
    thread = uncertain_batches_of(rookery.workspace)._thread
    assert thread is not None
    thread.join(30)
    _assert_complete(rookery)


def test_a_push_completes_uncertain_batches_before_it_creates_views(rookery: Rookery) -> None:
    """A new view has the batch in its history, so it must not get it again."""
    rookery.run(REFUSED.format("main.sums"))
    _code(rookery, _rows())
    files = project("direct", "more", "fresh")
    # Declared, because a push removes other settings.
    refusing = files["datasources/sums.yaml"].replace("engine: {", "engine: {settings: {parts_to_throw_insert: 1}, ")
    with pytest.raises(RookeryError):
        rookery.push({**files, "datasources/sums.yaml": refusing})
    rookery.push(files)
    rookery.wait_until_read()
    assert rookery.differences(OWN, ("sums", "more", "fresh")) == []
    rookery.push(project("direct", "more"))
    _assert_complete(rookery)


def test_a_view_that_keeps_failing_is_suspended(rookery: Rookery, monkeypatch: pytest.MonkeyPatch) -> None:
    """One failing table must not stop all writers permanently."""
    monkeypatch.setattr(insert_failures, "RETRY_TIMEOUT_SECONDS", 0.0)
    monkeypatch.setattr(uncertain_batches, "MIN_RETRY_SECONDS", 0.0)
    rookery.run(REFUSED.format("main.sums"))
    rows = _rows()
    codes = [_code(rookery, rows, "patience")]
    for _ in range(insert_failures.MAX_TRIES):
        if not uncertain_batches_of(rookery.workspace).outstanding():
            break
        try:
            rookery.append(rows, key="patience")
        except RookeryError as exc:
            codes.append(exc.code.id)
    # The background thread makes some of the attempts.
    assert 2 <= len(codes) <= insert_failures.MAX_TRIES
    assert rookery.append(rows, key="patience").repeated
    assert [v["view"] for v in suspended(rookery.workspace)] == ["main._rk_add_to_sums"]
    rookery.run(TAKEN.format("main.sums"))
    rookery.push({})
    _assert_complete(rookery)


def test_waiting_requests_all_get_a_response(rookery: Rookery) -> None:
    rookery.run(REFUSED.format("main.sums"))
    bodies = [f'{{"tenant_id": 8, "id": {next(_IDS)}, "n": 1}}'.encode() for _ in range(20)]
    waiting = [rookery.gateway.append("events", b, Input.NDJSON, key=f"k{n}") for n, b in enumerate(bodies)]
    failed = [w.exception(30) for w in waiting]
    assert all(isinstance(f, RookeryError) and f.code.status == 503 for f in failed)
    rookery.run(TAKEN.format("main.sums"))
    uncertain_batches_of(rookery.workspace).complete_all()
    outcomes = [
        rookery.gateway.append("events", b, Input.NDJSON, key=f"k{n}").result(30) for n, b in enumerate(bodies)
    ]
    assert all(o.rows == 1 for o in outcomes)
    _assert_complete(rookery)
