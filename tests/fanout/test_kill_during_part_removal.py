"""A kill while a damaged part of a datasource is replaced: after the start its rows are everywhere, once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.control.doctor import examine
from engine.control.recovery import finish
from engine.fanout.uncertain_batches import uncertain_batches_of
from engine.warehouse.port import Input
from tests.fanout import test_uncertain_batches_without_tenants as ordinary
from tests.fanout.failing_calls import Fault
from tests.fanout.failing_writes import Writes, reason_to_skip
from tests.fanout.killed_append import Killing
from tests.fanout.test_uncertain_batches import _assert_complete, _made, _rows
from tests.support.in_process import Rookery, open_rookery

MOMENTS = [
    "before EmbeddedWarehouse.remove_part",
    "after EmbeddedWarehouse.remove_part",
    "before KeptBatch.delete",
]


class Damaging:
    """Workspaces below a directory, and processes that append to them while a write into a part fails silently."""

    def __init__(self, directory: Path, writes: Writes, killing: Killing) -> None:
        self._directory, self._writes, self._killing = directory, writes, killing
        self._tables: dict[str, str] = {}

    def append_and_die(self, kind: str, rows: list[Any], moment: str) -> Path:
        """Append while a write into the datasource's part fails, and die at a moment of its repair.

        Returns the directory, a copy of one that is prepared once for each kind of workspace.
        """
        made, copied = self._directory / kind, self._directory / "copy"
        datasource = "plain" if kind == "ordinary" else "events"
        if kind not in self._tables:
            with open_rookery(made) as rookery:
                self._tables[kind] = _prepared(rookery, kind, datasource)
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(made, copied, symlinks=True)
        self._writes.prepare(Fault("short write", "EIO", 1), f"{self._tables[kind]}/tmp_insert")
        assert self._killing.append(copied, datasource, "a key", "\n".join(map(json.dumps, rows)), moment)
        assert "data.bin" in self._writes.failed
        return copied


def _prepared(rookery: Rookery, kind: str, datasource: str) -> str:
    """Fill the workspace; the name of the directory of the datasource's table."""
    if kind == "ordinary":
        rookery.push(ordinary._files())
        ordinary._send(rookery, ordinary._rows())
    else:
        _made(rookery, kind)
    ((path,),) = rookery.rows(
        f"SELECT data_paths[1] FROM system.tables WHERE database = 'main' AND name = '{datasource}'"
    )
    return Path(str(path)).name


@pytest.fixture(scope="module")
def damaging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Damaging]:
    if (reason := reason_to_skip()) is not None:
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("damaged")
    writes = Writes(directory)
    writes.environment["FAILING_BELOW"] = str(directory.resolve())
    with Killing(writes.environment) as killing:
        yield Damaging(directory, writes, killing)


def _soak_only(*values: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.soak_only)


@pytest.mark.parametrize(
    ("mode", "moment"),
    [
        _soak_only("direct", MOMENTS[0]),
        _soak_only("direct", MOMENTS[1]),
        ("direct", MOMENTS[2]),
        # The log does not see the repair; its views on landing are fewer.
        _soak_only("routed", MOMENTS[0]),
        ("routed", MOMENTS[1]),
        _soak_only("routed", MOMENTS[2]),
    ],
)
def test_landing_and_its_views_have_the_batch_once(damaging: Damaging, mode: str, moment: str) -> None:
    rows = _rows()
    directory = damaging.append_and_die(mode, rows, moment)
    with open_rookery(directory) as rookery:
        finish(rookery.workspace)
        assert rookery.append(rows, key="a key").repeated
        ids = ", ".join(str(r["id"]) for r in rows)
        assert rookery.rows(f"SELECT count() FROM main.events WHERE id IN ({ids})") == [(len(rows),)]
        _assert_complete(rookery)
        assert rookery.deliver(_rows())
        _assert_complete(rookery)
        assert [f for f in examine(rookery.workspace, deep=True).findings if f.level == "error"] == []


@pytest.mark.parametrize("moment", [MOMENTS[0], *map(_soak_only, MOMENTS[1:])])
def test_an_ordinary_datasource_and_its_views_have_the_batch_once(damaging: Damaging, moment: str) -> None:
    rows = ordinary._rows()
    directory = damaging.append_and_die("ordinary", rows, moment)
    with open_rookery(directory) as rookery:
        finish(rookery.workspace)
        assert not uncertain_batches_of(rookery.workspace).outstanding()
        body = "\n".join(map(json.dumps, rows)).encode()
        assert rookery.gateway.append("plain", body, Input.NDJSON, key="a key").result(60).rows == 9
        assert rookery.rows("SELECT count(), uniqExact(id) FROM main.plain") == [(18, 18)]
        assert ordinary._sums(rookery) == {(18, 72)}
        assert [f for f in examine(rookery.workspace, deep=True).findings if f.level == "error"] == []
