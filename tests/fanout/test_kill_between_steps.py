"""A kill between two steps of the engine, simulated in the directory: interrupted deliveries are stored once."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.fanout.offsets import Offset
from tests.fanout.retrying_writers import project
from tests.support.in_process import Rookery, open_rookery

OWN = ("1", "2")
_IDS = itertools.count(1)


def _deliver(rookery: Rookery) -> None:
    assert rookery.deliver([{"tenant_id": t, "id": next(_IDS), "n": t * 10} for t in (1, 2) for _ in range(5)])


def _newest(rookery: Rookery, table: str) -> Path:
    """The directory of the newest part of a table of the first tenant."""
    ((path,),) = rookery.rows(
        "SELECT argMax(path, max_block_number) FROM system.parts WHERE active "
        f"AND database = '{rookery.nest('1').strip('`')}' AND table = '{table}'"
    )
    return Path(path)


@dataclass(frozen=True)
class Killed:
    """A directory as if the process had been killed while it delivered the last batch to nests.

    The journal does not know of the batch yet; the nest's deduplication logs name its blocks.
    """

    directory: Path
    parts: Mapping[str, Path]
    """The parts of the batch by table, relative to the directory."""

    def copy(self, directory: Path, missing: tuple[str, ...]) -> None:
        """Copy it; the parts of the `missing` tables have not been renamed into place."""
        shutil.copytree(self.directory, directory, symlinks=True, dirs_exist_ok=True)
        for table in missing:
            shutil.rmtree(directory / self.parts[table])


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    directory = tmp_path_factory.mktemp("killed").resolve()
    with open_rookery(directory) as rookery:
        rookery.push(project("routed"))
        rookery.add(*OWN)
        for _ in range(3):
            _deliver(rookery)
        for table in ("events", "sums"):
            rookery.run(f"SYSTEM STOP MERGES {rookery.nest('1')}.{table}")
        _deliver(rookery)
        ((last,),) = rookery.rows("SELECT max(_block_number) FROM main.events")
        lane = rookery.router.worker("events")
        assert lane is not None
        parts = {table: _newest(rookery, table).relative_to(directory) for table in ("events", "sums")}
        lane.close()
        lane.join()
        rookery.router.offsets.write("events", Offset.start(last - 1))
    return Killed(directory, parts)


@pytest.mark.parametrize(
    "missing",
    [(), ("events",), ("events", "sums"), pytest.param(("sums",), marks=pytest.mark.soak_only)],
    ids="-".join,
)
def test_interrupted_deliveries_are_stored_once(killed: Killed, tmp_path: Path, missing: tuple[str, ...]) -> None:
    killed.copy(tmp_path, missing)
    with open_rookery(tmp_path) as rookery:
        rookery.wait_until_caught_up()
        assert rookery.differences(OWN) == []
        _deliver(rookery)
        assert rookery.differences(OWN) == []


def test_without_log_repair_the_delivery_would_be_lost(
    killed: Killed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed.copy(tmp_path, ("events", "sums"))
    monkeypatch.setattr("engine.warehouse.directory.repair", lambda _path: 0)
    with open_rookery(tmp_path) as rookery:
        rookery.wait_until_caught_up()
        assert len(rookery.differences(OWN)) == 2
