"""Nests without a copy of landing: rows pass through the inlet into derived tables exactly once, in both modes."""

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
from tests.support.in_process import PATIENCE, House, house

OWN = ("1", "2", "3")
CHAINED = """
nodes:
  - name: again
    sql: SELECT tenant_id, bucket, sum(sums.events) AS events, sum(sums.total) AS total FROM sums GROUP BY tenant_id, bucket
materialize: {target: chained, per_tenant: true}
"""
MOST = 1000
"""Inserts of another program, which take several times as long as what must not wait for them."""
_ids = itertools.count(1)


def _files(mode: str, *more: str) -> dict[str, str]:
    files = project(mode, "chained", *more, copies=False)
    files["pipes/add_to_chained.yaml"] = CHAINED
    return files


@pytest.fixture(params=["direct", "routed"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def home(mode: str, tmp_path: Path) -> Iterator[House]:
    with house(tmp_path) as made:
        made.copies = False
        made.push(_files(mode))
        made.add(*OWN)
        yield made


def _rows(*tenants: str, times: int = 3) -> list[dict[str, int]]:
    return [{"tenant_id": int(t), "id": next(_ids), "n": next(_ids) % 100} for t in tenants for _ in range(times)]


def _exact(home: House, *more: str, own: tuple[str, ...] = OWN) -> None:
    home.read_all()
    assert home.differences(own, ("sums", "chained", *more)) == []


class Writing:
    """Appends continuously, in a thread."""

    def __init__(self, home: House, *tenants: str) -> None:
        self._home, self._tenants, self._ending = home, tenants, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        # A pause, so that the writer leaves the processor to the code under test.
        while not self._ending.wait(0.05):
            body = "\n".join(map(json.dumps, _rows(*self._tenants, times=2))).encode()
            self._home.gateway.append("events", body, Input.NDJSON).result(PATIENCE)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()


@pytest.mark.proves("B6", "B7")
def test_targets_behind_a_null_table_have_every_row(home: House, mode: str) -> None:
    assert ("events" in home.workspace.current.routed) == (mode == "routed")
    assert home.visible(_rows(*OWN, "9"))
    _exact(home)
    home.add("9")
    home.run("INSERT INTO main.events (tenant_id, id, n) VALUES (1, 900001, 5), (9, 900002, 6)")
    assert home.visible(_rows(*OWN, "9"))
    _exact(home, own=(*OWN, "9"))
    assert [f for f in examine(home.workspace, deep=True).findings if f.level == "error"] == []


@pytest.mark.proves("B7")
def test_a_new_pipe_has_the_rows_that_passed_before(home: House, mode: str) -> None:
    home.visible(_rows(*OWN))
    with Writing(home, *OWN):
        for name in ("fresh", "later"):
            home.push({f: t for f, t in _files(mode, name).items() if name in f})
    _exact(home, "fresh", "later")
    assert home.visible(_rows(*OWN))
    _exact(home, "fresh", "later")


@pytest.mark.proves("B7")
def test_modes_change_and_tenants_are_added_while_rows_arrive(home: House) -> None:
    with Writing(home, *OWN, "4", "5", "6", "7"):
        for number, turn in enumerate(("routed", "direct", "routed", "direct"), 4):
            home.push(_files(turn))
            home.add(str(number))
    _exact(home, own=(*OWN, "4", "5", "6", "7"))


@pytest.mark.proves("B7")
@pytest.mark.parametrize("mode", ["routed"])
def test_tenants_are_added_while_other_programs_write(home: House, mode: str) -> None:
    done = threading.Event()
    inserted = []

    def write() -> None:
        while not done.is_set() and len(inserted) < MOST:
            values = ", ".join(f"({t}, {next(_ids)}, 1)" for t in range(1, 14))
            home.run(f"INSERT INTO main.events (tenant_id, id, n) VALUES {values}")
            inserted.append(values)
            time.sleep(0.01)

    with Writing(home, *OWN):
        others = threading.Thread(target=write)
        others.start()
        for tenant in ("4", "5", "6", "7"):
            home.add(tenant)
        done.set()
        others.join()
    assert len(inserted) < MOST, "the tenants were ready only when the others had ended"
    _exact(home, own=(*OWN, "4", "5", "6", "7"))


@pytest.mark.parametrize("mode", ["routed"])
def test_a_pipe_pushed_while_a_tenant_fails(home: House, mode: str) -> None:
    home.visible(_rows(*OWN))
    home.run(f"ALTER TABLE {home.nest('2')}.sums ADD CONSTRAINT poison CHECK 0")
    try:
        assert not home.visible(_rows(*OWN))
        home.append(_rows(*OWN))
        home.push({f: t for f, t in _files(mode, "fresh").items() if "fresh" in f})
        home.append(_rows(*OWN))
        assert home.visible(_rows("1", "3"))
        assert home.differences(("1", "3"), ["sums"]) == []
    finally:
        home.run(f"ALTER TABLE {home.nest('2')}.sums DROP CONSTRAINT poison")
    home.router.retry_now()
    home.caught_up()
    home.push(_files(mode, "fresh"))
    assert home.visible(_rows(*OWN))
    _exact(home, "fresh")


def test_lost_views_are_recreated_with_the_rows_they_missed(home: House, mode: str) -> None:
    home.visible(_rows(*OWN))
    lost = [f"{home.nest('1')}._rk_add_to_sums"]
    lost += [f"{home.nest('2')}._rk_events"] if mode == "direct" else []
    for view in lost:
        home.run(f"DROP VIEW {view} SYNC")
    home.append(_rows(*OWN))
    home.push({})
    _exact(home)
    assert home.visible(_rows(*OWN))
    complete(home.workspace)
    _exact(home)


def test_a_changed_pipe_is_computed_from_the_log(home: House, mode: str) -> None:
    home.visible(_rows(*OWN))
    text = _files(mode)["pipes/add_to_sums.yaml"].replace("id % 4", "id % 3")
    with Writing(home, *OWN), pytest.raises(RookeryError, match="RK3001"):
        home.push({"pipes/add_to_sums.yaml": text})
    with Writing(home, *OWN):
        push(
            home.workspace,
            {"add_to_sums": DeployedFile(text, "pipes/add_to_sums.yaml")},
            PushOptions(allow=frozenset({"add_to_sums"})),
        )
    _exact(home)


def test_a_repeated_block_passes_a_null_table_once(home: House) -> None:
    home.visible(_rows(*OWN))
    nest = home.nest("1")
    again = ddl.insert_block(f"{nest}.events", ["tenant_id", "id", "n"], "again", "SELECT 1, 5, 7")
    before = home.rows(f"SELECT sum(total) FROM {nest}.chained")[0][0]
    home.run(again)
    home.run(again)
    assert home.rows(f"SELECT sum(total) FROM {nest}.chained") == [(before + 7,)]
    with pytest.raises(RookeryError, match="own"):
        home.run(ddl.insert_block(f"{nest}.events", ["tenant_id", "id", "n"], "foreign", "SELECT 2, 5, 7"))
