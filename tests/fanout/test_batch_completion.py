"""Completing the newest batch after a kill: tables that have it, and pipes pushed since, do not get it twice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from engine.compiler import storage
from engine.fanout.batch_completion import LOOK_BACK_BLOCKS
from engine.fanout.startup_recovery import complete
from tests.fanout.retrying_writers import project
from tests.support.in_process import Rookery, open_rookery

OWN = ("1", "2")
WINDOW = LOOK_BACK_BLOCKS + 4
"""How many of its latest blocks a target remembers: in this test, hardly more than are examined."""
_IDS = itertools.count(1)


@pytest.fixture(scope="module", params=["direct", pytest.param("routed", marks=pytest.mark.soak_only)])
def rookery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with pytest.MonkeyPatch.context() as patched, open_rookery(tmp_path_factory.mktemp(request.param)) as opened:
        assert WINDOW <= storage.NEST_DEDUP_WINDOW
        patched.setattr(storage, "NEST_DEDUP_WINDOW", WINDOW)
        opened.push(project(request.param))
        opened.add(*OWN)
        yield opened


def _rows() -> list[dict[str, int]]:
    return [{"tenant_id": int(t), "id": next(_IDS), "n": next(_IDS) % 100} for t in OWN for _ in range(5)]


def test_a_completed_batch_is_stored_once(rookery: Rookery) -> None:
    assert rookery.deliver(_rows())
    for _ in range(2):
        complete(rookery.workspace)
    assert rookery.differences(OWN) == []


def test_a_pipe_pushed_since_has_the_batch_in_its_history(rookery: Rookery) -> None:
    """Its view reads the nests' copies, which landing's views fill."""
    mode = "routed" if "events" in rookery.workspace.current.routed else "direct"
    assert rookery.deliver(_rows())
    rookery.push(project(mode, "fresh"))
    complete(rookery.workspace)
    assert rookery.differences(OWN, ("sums", "fresh")) == []


def test_a_view_repaired_since_has_the_batch_once(rookery: Rookery) -> None:
    """Only the one nest's table is recomputed."""
    assert rookery.deliver(_rows())
    rookery.run(f"DROP VIEW {rookery.nest('1')}._rk_add_to_sums SYNC")
    assert rookery.deliver(_rows())
    rookery.push({})
    complete(rookery.workspace)
    assert rookery.differences(OWN) == []


def test_many_later_inserts_do_not_hide_the_batch(rookery: Rookery) -> None:
    """Targets remember fewer insertions than landing does."""
    assert rookery.deliver(_rows())
    for n in range(WINDOW + 2):
        rookery.run(
            f"INSERT INTO main.events (tenant_id, id, n) SETTINGS insert_deduplication_token = 'other {n}' "
            f"SELECT 1, {next(_IDS)}, 1"
        )
    rookery.wait_until_read()
    complete(rookery.workspace)
    rookery.wait_until_read()
    assert rookery.differences(OWN) == []
