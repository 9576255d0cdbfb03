"""A kill between the deduplication log and the part's rename loses nothing once the log is repaired."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.warehouse.dedup_log_repair import repair
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.port import SINGLE_BLOCK_SETTINGS, Input, WarehouseOptions

ROWS = b'{"n":1}\n{"n":2}\n{"n":3}\n'


def _insert(warehouse: EmbeddedWarehouse, token: str) -> int:
    warehouse.insert(
        "w.t",
        ROWS,
        Input.NDJSON,
        ("n",),
        {**SINGLE_BLOCK_SETTINGS, "insert_deduplication_token": token, "async_insert": 0},
    )
    return int(warehouse.query("SELECT count() FROM w.t").rows[0][0])


def _open(path: Path) -> EmbeddedWarehouse:
    return EmbeddedWarehouse(path, WarehouseOptions(readers=1, writers=2, database="w_empty"))


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A directory as a kill leaves it: the log names a block whose part was not renamed into place."""
    path = tmp_path / "data"
    warehouse = _open(path)
    warehouse.execute("CREATE DATABASE w")
    warehouse.execute(
        "CREATE TABLE w.t (n UInt32) ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 100"
    )
    assert _insert(warehouse, "first") == 3
    assert _insert(warehouse, "second") == 6
    warehouse.close()
    (part,) = path.glob("store/*/*/all_2_2_0")
    shutil.rmtree(part)
    return path


def test_without_repair_the_retry_is_lost(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.warehouse.directory.repair", lambda _path: 0)
    warehouse = _open(killed)
    assert _insert(warehouse, "second") == 3
    warehouse.close()


def test_with_repair_the_retry_is_stored_once_and_old_tokens_stay_known(killed: Path) -> None:
    warehouse = _open(killed)
    assert _insert(warehouse, "second") == 6
    assert _insert(warehouse, "second") == 6
    assert _insert(warehouse, "first") == 6
    warehouse.close()


def test_a_torn_line_is_removed_and_an_intact_log_is_unchanged(killed: Path) -> None:
    assert repair(killed) == 1
    assert repair(killed) == 0
    (log,) = killed.glob("store/*/*/deduplication_logs/*.txt")
    whole = log.read_bytes()
    log.write_bytes(whole + b"1\tall_9")
    assert repair(killed) == 1
    assert log.read_bytes() == whole


def test_a_merged_part_covers_its_blocks(killed: Path) -> None:
    warehouse = _open(killed)
    _insert(warehouse, "second")
    warehouse.execute("OPTIMIZE TABLE w.t FINAL")
    warehouse.close()
    assert repair(killed) == 0
