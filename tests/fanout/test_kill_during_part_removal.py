"""A kill while a damaged part of a datasource is replaced: after the start its rows are everywhere, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.control.doctor import examine
from engine.control.recovery import finish
from engine.fanout.uncertain_batches import uncertain_batches_of
from engine.warehouse.port import Input
from tests.fanout import test_uncertain_batches_without_tenants as ordinary
from tests.fanout.failing_calls import Fault
from tests.fanout.failing_writes import Writes, reason_to_skip
from tests.fanout.killed_append import append_and_die
from tests.fanout.test_uncertain_batches import _assert_complete, _made, _rows
from tests.support.in_process import Rookery, open_rookery

MOMENTS = [
    "before EmbeddedWarehouse.remove_part",
    "after EmbeddedWarehouse.remove_part",
    "before KeptBatch.delete",
]


def _directory_of(rookery: Rookery, table: str) -> str:
    ((path,),) = rookery.rows(f"SELECT data_paths[1] FROM system.tables WHERE database = 'main' AND name = '{table}'")
    return Path(str(path)).name


def _die(writes: Writes, directory: Path, table: str, datasource: str, body: str, moment: str) -> None:
    """Append while a write into the datasource's part fails silently, and die at a moment of its repair."""
    writes.environment["FAILING_BELOW"] = str((directory / "data").resolve())
    writes.prepare(Fault("short write", "EIO", 1), f"{table}/tmp_insert")
    assert append_and_die(directory, datasource, "a key", body, moment, writes.environment)
    assert "data.bin" in writes.failed


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("mode", ["direct", "routed"])
def test_landing_and_its_views_have_the_batch_once(tmp_path: Path, mode: str, moment: str) -> None:
    if (reason := reason_to_skip()) is not None:
        pytest.skip(reason)
    writes = Writes(tmp_path)
    with open_rookery(tmp_path) as rookery:
        _made(rookery, mode)
        table = _directory_of(rookery, "events")
    rows = _rows()
    body = "\n".join(map(json.dumps, rows))
    _die(writes, tmp_path, table, "events", body, moment)
    with open_rookery(tmp_path) as rookery:
        finish(rookery.workspace)
        assert rookery.append(rows, key="a key").repeated
        ids = ", ".join(str(r["id"]) for r in rows)
        assert rookery.rows(f"SELECT count() FROM main.events WHERE id IN ({ids})") == [(len(rows),)]
        _assert_complete(rookery)
        assert rookery.deliver(_rows())
        _assert_complete(rookery)
        assert [f for f in examine(rookery.workspace, deep=True).findings if f.level == "error"] == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_ordinary_datasource_and_its_views_have_the_batch_once(tmp_path: Path, moment: str) -> None:
    if (reason := reason_to_skip()) is not None:
        pytest.skip(reason)
    writes = Writes(tmp_path)
    with open_rookery(tmp_path) as rookery:
        rookery.push(ordinary._files())
        ordinary._send(rookery, ordinary._rows())
        table = _directory_of(rookery, "plain")
    body = "\n".join(map(json.dumps, ordinary._rows()))
    _die(writes, tmp_path, table, "plain", body, moment)
    with open_rookery(tmp_path) as rookery:
        finish(rookery.workspace)
        assert not uncertain_batches_of(rookery.workspace).outstanding()
        assert rookery.gateway.append("plain", body.encode(), Input.NDJSON, key="a key").result(60).rows == 9
        assert rookery.rows("SELECT count(), uniqExact(id) FROM main.plain") == [(18, 18)]
        assert ordinary._sums(rookery) == {(18, 72)}
        assert [f for f in examine(rookery.workspace, deep=True).findings if f.level == "error"] == []
