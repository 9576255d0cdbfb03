"""A batch that was stored in part is completed before the next one is stored, also after a restart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from engine.errors import IN_DOUBT, OVERLOADED, RookeryError
from engine.fanout import insert_failures, uncertain_batches
from engine.fanout.suspension_records import suspended
from engine.fanout.uncertain_batches import uncertain_batches_of
from engine.warehouse.port import Input
from tests.fanout.retrying_writers import project
from tests.support.in_process import House, house

OWN, POOLED = ("1", "2"), "8"
_IDS = itertools.count(1)
REFUSED = "ALTER TABLE {0} MODIFY SETTING parts_to_throw_insert = 1"
TAKEN = "ALTER TABLE {0} RESET SETTING parts_to_throw_insert"


def _rows() -> list[dict[str, int]]:
    return [{"tenant_id": int(t), "id": next(_IDS), "n": next(_IDS) % 100} for t in (*OWN, POOLED) for _ in range(3)]


def _made(home: House, mode: str) -> None:
    home.push(project(mode, "more"))
    home.add(*OWN)
    home.add(POOLED, placement="pooled")
    assert home.visible(_rows())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("direct")) as made:
        _made(made, "direct")
        yield made


def _assert_complete(home: House) -> None:
    home.read_all()
    assert home.differences(OWN, ("sums", "more")) == []
    mine = f"WHERE tenant_id = {POOLED}"
    (landing,) = home.rows(f"SELECT count(), sum(n) FROM main.events {mine}")
    assert home.rows(f"SELECT sum(events), sum(total) FROM main.sums {mine}") == [landing]
    assert not suspended(home.workspace)
    assert not uncertain_batches_of(home.workspace).outstanding()


def _code(home: House, rows: list[dict[str, int]], key: str | None = None) -> str:
    with pytest.raises(RookeryError) as caught:
        home.append(rows, key=key)
    assert caught.value.code.status == 503
    assert caught.value.headers["Retry-After"]
    return caught.value.code.id


def test_no_batch_is_stored_before_the_uncertain_one_is_complete(home: House) -> None:
    rows = _rows()
    home.run(REFUSED.format("main.sums"))
    try:
        before = home.rows("SELECT count() FROM main.events")[0][0]
        assert _code(home, rows, "a key") == OVERLOADED.id
        ((after,),) = home.rows("SELECT count() FROM main.events")
        assert after == before + len(rows), "it is in landing"
        for again, key in ((rows, "a key"), (_rows(), "another")):
            assert _code(home, again, key) == IN_DOUBT.id
        with pytest.raises(RookeryError, match=IN_DOUBT.id):
            home.gateway.receipts.show(None, "a key")
        assert home.rows("SELECT count() FROM main.events") == [(after,)]
    finally:
        home.run(TAKEN.format("main.sums"))
    uncertain_batches_of(home.workspace).complete_all()
    assert home.append(rows, key="a key").repeated
    assert home.visible(_rows())
    _assert_complete(home)


def test_an_uncertain_batch_is_completed_automatically(home: House) -> None:
    home.run(REFUSED.format("main.sums"))
    _code(home, _rows())
    home.run(TAKEN.format("main.sums"))
    thread = uncertain_batches_of(home.workspace)._thread
    assert thread is not None
    thread.join(30)
    _assert_complete(home)


def test_a_push_completes_uncertain_batches_before_it_creates_views(home: House) -> None:
    """A new view has the batch in its history, so it must not get it again."""
    home.run(REFUSED.format("main.sums"))
    _code(home, _rows())
    files = project("direct", "more", "fresh")
    with pytest.raises(RookeryError):
        home.push(files)
    home.run(TAKEN.format("main.sums"))
    home.push(files)
    home.read_all()
    assert home.differences(OWN, ("sums", "more", "fresh")) == []
    home.push(project("direct", "more"))
    _assert_complete(home)


def test_a_view_that_keeps_failing_is_suspended(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """One failing table must not stop all writers permanently."""
    monkeypatch.setattr(insert_failures, "RETRY_TIMEOUT_SECONDS", 0.0)
    monkeypatch.setattr(uncertain_batches, "MIN_RETRY_SECONDS", 0.0)
    home.run(REFUSED.format("main.sums"))
    rows = _rows()
    codes = [_code(home, rows, "patience")]
    for _ in range(insert_failures.MAX_TRIES):
        if not uncertain_batches_of(home.workspace).outstanding():
            break
        try:
            home.append(rows, key="patience")
        except RookeryError as exc:
            codes.append(exc.code.id)
    # The background thread makes some of the attempts.
    assert 2 <= len(codes) <= insert_failures.MAX_TRIES
    assert home.append(rows, key="patience").repeated
    assert [v["view"] for v in suspended(home.workspace)] == ["main._rk_add_to_sums"]
    home.run(TAKEN.format("main.sums"))
    home.push({})
    _assert_complete(home)


def test_waiting_requests_all_get_a_response(home: House) -> None:
    home.run(REFUSED.format("main.sums"))
    bodies = [f'{{"tenant_id": 8, "id": {next(_IDS)}, "n": 1}}'.encode() for _ in range(20)]
    waiting = [home.gateway.append("events", b, Input.NDJSON, key=f"k{n}") for n, b in enumerate(bodies)]
    failed = [w.exception(30) for w in waiting]
    assert all(isinstance(f, RookeryError) and f.code.status == 503 for f in failed)
    home.run(TAKEN.format("main.sums"))
    uncertain_batches_of(home.workspace).complete_all()
    outcomes = [home.gateway.append("events", b, Input.NDJSON, key=f"k{n}").result(30) for n, b in enumerate(bodies)]
    assert all(o.rows == 1 for o in outcomes)
    _assert_complete(home)
