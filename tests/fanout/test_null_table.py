"""Nests without a copy of landing: rows pass through the Null table into derived tables exactly once, in both modes."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.control.doctor import examine
from engine.control.push import PushOptions, push
from engine.errors import RookeryError
from engine.fanout.startup_recovery import complete
from engine.warehouse import ddl
from engine.warehouse.port import Input
from engine.workspace.snapshot import DeployedFile
from tests.fanout.retrying_writers import project
from tests.support.in_process import PATIENCE, Rookery, open_copy, open_rookery
from tests.support.soak import soak_rounds

OWN = ("1", "2", "3")
CHAINED = """
nodes:
  - name: again
    sql: SELECT tenant_id, bucket, sum(sums.events) AS events, sum(sums.total) AS total FROM sums GROUP BY tenant_id, bucket
materialize: {target: chained, per_tenant: true}
"""
MOST = 1000
"""Inserts of another program, which take several times as long as what must not wait for them."""
ONE_MODE = pytest.mark.parametrize(
    "mode", ["routed", pytest.param("direct", marks=pytest.mark.soak_only)], indirect=True, scope="module"
)
"""For tests that do not depend on the mode at their beginning, or that drive code which both modes share."""
DIRECT = pytest.mark.parametrize(
    "mode", ["direct", pytest.param("routed", marks=pytest.mark.soak_only)], indirect=True, scope="module"
)
"""For tests whose direct form includes the routed one."""
_ids = itertools.count(1)


def _files(mode: str, *more: str) -> dict[str, str]:
    files = project(mode, "chained", *more, copies=False)
    files["pipes/add_to_chained.yaml"] = CHAINED
    return files


@pytest.fixture(params=["routed", "direct"], scope="module")
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def prepared(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the project and its tenants, of which each test gets a copy."""
    directory = tmp_path_factory.mktemp(mode)
    with open_rookery(directory) as opened:
        opened.push(_files(mode))
        opened.add(*OWN)
    return directory


@pytest.fixture
def rookery(prepared: Path, tmp_path: Path) -> Iterator[Rookery]:
    with open_copy(prepared, tmp_path) as opened:
        opened.copies = False
        yield opened


def _rows(*tenants: str, times: int = 3) -> list[dict[str, int]]:
    return [{"tenant_id": int(t), "id": next(_ids), "n": next(_ids) % 100} for t in tenants for _ in range(times)]


def _exact(rookery: Rookery, *more: str, own: tuple[str, ...] = OWN) -> None:
    rookery.wait_until_read()
    assert rookery.differences(own, ("sums", "chained", *more)) == []


class Writing:
    """Appends continuously, in a thread."""

    def __init__(self, rookery: Rookery, *tenants: str) -> None:
        self._rookery, self._tenants, self._ending = rookery, tenants, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        # A pause, so that the writer leaves the processor to the code under test.
        while not self._ending.wait(0.1):
            body = "\n".join(map(json.dumps, _rows(*self._tenants, times=2))).encode()
            self._rookery.gateway.append("events", body, Input.NDJSON).result(PATIENCE)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()


@pytest.mark.proves("B6", "B7")
def test_targets_behind_a_null_table_have_every_row(rookery: Rookery, mode: str) -> None:
    assert ("events" in rookery.workspace.current.routed) == (mode == "routed")
    assert rookery.deliver(_rows(*OWN, "9"))
    _exact(rookery)
    rookery.add("9")
    rookery.run("INSERT INTO main.events (tenant_id, id, n) VALUES (1, 900001, 5), (9, 900002, 6)")
    assert rookery.deliver(_rows(*OWN, "9"))
    _exact(rookery, own=(*OWN, "9"))
    assert [f for f in examine(rookery.workspace, deep=True).findings if f.level == "error"] == []


@pytest.mark.proves("B7")
@ONE_MODE
def test_a_new_pipe_has_the_rows_that_passed_before(rookery: Rookery, mode: str) -> None:
    rookery.deliver(_rows(*OWN))
    with Writing(rookery, *OWN):
        for name in ("fresh", "later"):
            rookery.push({f: t for f, t in _files(mode, name).items() if name in f})
    _exact(rookery, "fresh", "later")
    assert rookery.deliver(_rows(*OWN))
    _exact(rookery, "fresh", "later")


@pytest.mark.proves("B7")
@pytest.mark.soak
@ONE_MODE
def test_modes_change_and_tenants_are_added_while_rows_arrive(rookery: Rookery, mode: str) -> None:
    turns = (["direct", "routed"] if mode == "routed" else ["routed", "direct"]) * soak_rounds(1)
    added = [str(number) for number in range(4, 4 + len(turns))]
    with Writing(rookery, *OWN, *added):
        for turn, tenant in zip(turns, added, strict=True):
            rookery.push(_files(turn))
            rookery.add(tenant)
    _exact(rookery, own=(*OWN, *added))


@pytest.mark.proves("B7")
@pytest.mark.parametrize("mode", ["routed"], indirect=True, scope="module")
def test_tenants_are_added_while_other_programs_write(rookery: Rookery, mode: str) -> None:
    done = threading.Event()
    inserted = []

    def write() -> None:
        while not done.is_set() and len(inserted) < MOST:
            values = ", ".join(f"({t}, {next(_ids)}, 1)" for t in range(1, 14))
            rookery.run(f"INSERT INTO main.events (tenant_id, id, n) VALUES {values}")
            inserted.append(values)
            time.sleep(0.05)

    with Writing(rookery, *OWN):
        others = threading.Thread(target=write)
        others.start()
        for tenant in ("4", "5"):
            rookery.add(tenant)
        done.set()
        others.join()
    assert len(inserted) < MOST, "the tenants were ready only when the others had ended"
    _exact(rookery, own=(*OWN, "4", "5"))


@pytest.mark.parametrize("mode", ["routed"], indirect=True, scope="module")
def test_a_pipe_pushed_while_a_tenant_fails(rookery: Rookery, mode: str) -> None:
    rookery.deliver(_rows(*OWN))
    rookery.run(f"ALTER TABLE {rookery.nest('2')}.sums ADD CONSTRAINT poison CHECK 0")
    try:
        assert not rookery.deliver(_rows(*OWN))
        rookery.append(_rows(*OWN))
        rookery.push({f: t for f, t in _files(mode, "fresh").items() if "fresh" in f})
        rookery.append(_rows(*OWN))
        assert rookery.deliver(_rows("1", "3"))
        assert rookery.differences(("1", "3"), ["sums"]) == []
    finally:
        rookery.run(f"ALTER TABLE {rookery.nest('2')}.sums DROP CONSTRAINT poison")
    rookery.router.retry_now()
    rookery.wait_until_caught_up()
    rookery.push(_files(mode, "fresh"))
    assert rookery.deliver(_rows(*OWN))
    _exact(rookery, "fresh")


@DIRECT
def test_lost_views_are_recreated_with_the_rows_they_missed(rookery: Rookery, mode: str) -> None:
    rookery.deliver(_rows(*OWN))
    lost = [f"{rookery.nest('1')}._rk_add_to_sums"]
    lost += [f"{rookery.nest('2')}._rk_events"] if mode == "direct" else []
    for view in lost:
        rookery.run(f"DROP VIEW {view} SYNC")
    rookery.append(_rows(*OWN))
    rookery.push({})
    _exact(rookery)
    assert rookery.deliver(_rows(*OWN))
    complete(rookery.workspace)
    _exact(rookery)


@ONE_MODE
def test_a_changed_pipe_is_computed_from_the_log(rookery: Rookery, mode: str) -> None:
    rookery.deliver(_rows(*OWN))
    text = _files(mode)["pipes/add_to_sums.yaml"].replace("id % 4", "id % 3")
    with Writing(rookery, *OWN), pytest.raises(RookeryError, match="RK3001"):
        rookery.push({"pipes/add_to_sums.yaml": text})
    with Writing(rookery, *OWN):
        push(
            rookery.workspace,
            {"add_to_sums": DeployedFile(text, "pipes/add_to_sums.yaml")},
            PushOptions(allow=frozenset({"add_to_sums"})),
        )
    _exact(rookery)


@ONE_MODE
def test_a_repeated_block_passes_a_null_table_once(rookery: Rookery) -> None:
    rookery.deliver(_rows(*OWN))
    nest = rookery.nest("1")
    again = ddl.insert_block(f"{nest}.events", ["tenant_id", "id", "n"], "again", "SELECT 1, 5, 7")
    before = rookery.rows(f"SELECT sum(total) FROM {nest}.chained")[0][0]
    rookery.run(again)
    rookery.run(again)
    assert rookery.rows(f"SELECT sum(total) FROM {nest}.chained") == [(before + 7,)]
    with pytest.raises(RookeryError, match="own"):
        rookery.run(ddl.insert_block(f"{nest}.events", ["tenant_id", "id", "n"], "foreign", "SELECT 2, 5, 7"))
