"""A tenant whose tables fail: no other tenant is affected, and it has every row once after they are fixed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from engine.errors import OVERLOADED, RookeryError
from tests.fanout.retrying_writers import project
from tests.support.in_process import Rookery, open_rookery

OWN = ("1", "2", "3")
BROKEN = "2"
_IDS = itertools.count(1)

CHAINED = """
nodes:
  - name: again
    sql: SELECT tenant_id, bucket, sum(sums.events) AS events, sum(sums.total) AS total FROM sums GROUP BY tenant_id, bucket
materialize: {target: %s, per_tenant: true}
"""


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("poisoned")) as opened:
        files = project("routed", "chained")
        files["pipes/add_to_chained.yaml"] = CHAINED % "chained"
        opened.push(files)
        opened.add(*OWN)
        yield opened


def _rows(*tenants: str, times: int = 3) -> list[dict[str, int]]:
    return [{"tenant_id": int(t), "id": next(_IDS), "n": next(_IDS) % 100} for t in tenants for _ in range(times)]


POISONS = {
    table: (
        f"ALTER TABLE {{nest}}.{table} ADD CONSTRAINT poison CHECK 0",
        f"ALTER TABLE {{nest}}.{table} DROP CONSTRAINT poison",
    )
    for table in ("events", "sums", "chained")
}
"""Statements that break and fix the copy, the table that its view fills, and the table derived from that."""


@pytest.mark.parametrize("poison", ["events", pytest.param("sums", marks=pytest.mark.soak_only), "chained"])
def test_other_tenants_continue_and_the_failing_one_catches_up(rookery: Rookery, poison: str) -> None:
    breaking, mending = (sql.format(nest=rookery.nest(BROKEN)) for sql in POISONS[poison])
    assert rookery.deliver(_rows(*OWN))
    rookery.run(breaking)
    try:
        assert not rookery.deliver(_rows(*OWN))
        for _ in range(3):
            rookery.append(_rows(*OWN))
            assert rookery.deliver(_rows("1", "3"))
        assert rookery.differences(("1", "3"), ("sums", "chained")) == []
        stray = rookery.lagging_group(BROKEN)
        assert stray is not None and stray.error and stray.tries >= 1
    finally:
        rookery.run(mending)
    rookery.router.retry_now()
    rookery.wait_until_caught_up()
    assert rookery.lagging_group(BROKEN) is None
    assert rookery.deliver(_rows(*OWN))
    assert rookery.differences(OWN, ("sums", "chained")) == []


@pytest.mark.parametrize(
    ("poison", "source"),
    [
        ("sums", "events"),
        ("chained", "sums"),
        pytest.param("events", "events", marks=pytest.mark.soak_only),
        pytest.param("chained", "events", marks=pytest.mark.soak_only),
    ],
)
def test_a_pipe_pushed_during_a_failure_has_every_row_once(rookery: Rookery, poison: str, source: str) -> None:
    """Rows that will be delivered again are not part of the new pipe's history."""
    breaking, mending = (sql.format(nest=rookery.nest(BROKEN)) for sql in POISONS[poison])
    fresh = f"fresh_{list(POISONS).index(poison)}_{source}"
    files = project("routed", fresh)
    if source == "sums":
        files[f"pipes/add_to_{fresh}.yaml"] = CHAINED % fresh
    rookery.run(breaking)
    try:
        for _ in range(3):
            rookery.deliver(_rows(*OWN))
        rookery.push({f: t for f, t in files.items() if fresh in f})
        rookery.append(_rows(*OWN))
    finally:
        rookery.run(mending)
    rookery.router.retry_now()
    rookery.wait_until_caught_up()
    rookery.push(files)
    assert rookery.deliver(_rows(*OWN))
    assert rookery.differences(OWN, ("sums", "chained", fresh)) == []


@pytest.mark.parametrize("batches", [1, 3])
def test_rows_whose_stage_is_lost_are_delivered_from_landing(rookery: Rookery, batches: int) -> None:
    """A ClickHouse server that is restarted while rookery runs has lost its tables in memory."""
    lane = rookery.router.worker("events")
    assert lane is not None
    with lane.delivery_lock:
        waiting = [rookery.append(_rows(*OWN)).visible for _ in range(batches)]
        for (table,) in rookery.rows("SELECT name FROM system.tables WHERE database = 'main_stage'"):
            rookery.run(f"DROP TABLE main_stage.{table}")
    assert [visible.result(20) for visible in waiting if visible is not None] == [True] * batches
    rookery.wait_until_caught_up()
    # The next append may be refused, because it reuses a stage that is lost. Only the rows of another one are stored.
    for _ in range(2):
        try:
            assert rookery.deliver(_rows(*OWN))
        except RookeryError as exc:
            assert exc.code is OVERLOADED
    assert rookery.deliver(_rows(*OWN))
    assert rookery.differences(OWN, ("sums", "chained")) == []
