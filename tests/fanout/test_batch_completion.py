"""Completing the newest batch after a kill: tables that have it, and pipes pushed since, do not get it twice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from engine.fanout.startup_recovery import complete
from tests.fanout.retrying_writers import project
from tests.support.in_process import House, house

OWN = ("1", "2")
_IDS = itertools.count(1)


@pytest.fixture(scope="module", params=["direct", "routed"])
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp(request.param)) as made:
        made.push(project(request.param))
        made.add(*OWN)
        yield made


def _rows() -> list[dict[str, int]]:
    return [{"tenant_id": int(t), "id": next(_IDS), "n": next(_IDS) % 100} for t in OWN for _ in range(5)]


def test_a_completed_batch_is_stored_once(home: House) -> None:
    assert home.visible(_rows())
    for _ in range(2):
        complete(home.workspace)
    assert home.differences(OWN) == []


def test_a_pipe_pushed_since_has_the_batch_in_its_history(home: House) -> None:
    """Its view reads the nests' copies, which landing's views fill."""
    mode = "routed" if "events" in home.workspace.current.routed else "direct"
    assert home.visible(_rows())
    home.push(project(mode, "fresh"))
    complete(home.workspace)
    assert home.differences(OWN, ("sums", "fresh")) == []


def test_a_view_repaired_since_has_the_batch_once(home: House) -> None:
    """Only the one nest's table is recomputed."""
    assert home.visible(_rows())
    home.run(f"DROP VIEW {home.nest('1')}._rk_add_to_sums SYNC")
    assert home.visible(_rows())
    home.push({})
    complete(home.workspace)
    assert home.differences(OWN) == []


def test_many_later_inserts_do_not_hide_the_batch(home: House) -> None:
    """Targets remember fewer insertions than landing does."""
    assert home.visible(_rows())
    for n in range(140):
        home.run(
            f"INSERT INTO main.events (tenant_id, id, n) SETTINGS insert_deduplication_token = 'other {n}' "
            f"SELECT 1, {next(_IDS)}, 1"
        )
    home.read_all()
    complete(home.workspace)
    home.read_all()
    assert home.differences(OWN) == []
