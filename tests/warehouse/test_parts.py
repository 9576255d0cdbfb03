"""Every truncated file of a part is detected."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from engine.errors import STORAGE
from engine.schema import Name
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.errors import EngineError, is_transient
from engine.warehouse.new_parts import NewParts
from engine.warehouse.part_names import Part
from engine.warehouse.parts import why_damaged
from engine.warehouse.port import WarehouseOptions

TABLE = Name("w", "t")


@pytest.mark.parametrize("wide", [0, 1], ids=["compact", "wide"])
def test_every_truncated_file_is_detected(tmp_path: Path, wide: int) -> None:
    warehouse = EmbeddedWarehouse(tmp_path / "data", WarehouseOptions(readers=1, writers=2, database="w_empty"))
    try:
        warehouse.execute("CREATE DATABASE w")
        settings = f"min_bytes_for_wide_part = {0 if wide else 1 << 30}"
        columns = "n UInt32, s Array(String), l LowCardinality(String), j Nullable(Float64)"
        warehouse.execute(f"CREATE TABLE w.t ({columns}) ENGINE = MergeTree ORDER BY n SETTINGS {settings}")
        assert warehouse.damaged_parts([TABLE]) == []
        warehouse.execute("INSERT INTO w.t SELECT number, [], 'a', NULL FROM numbers(1000)")
        assert warehouse.damaged_parts([TABLE]) == []
        (part,) = (p for p in tmp_path.glob("data/store/*/*/all_*") if p.is_dir())
        assert why_damaged(part) is None
        files = [f for f in part.iterdir() if f.stat().st_size]
        assert len(files) > 8
        for file in files:
            for left in {0, file.stat().st_size // 2}:
                copy = tmp_path / "copy"
                shutil.copytree(part, copy)
                (copy / file.name).write_bytes(file.read_bytes()[:left])
                listed = file.suffix in (".bin", ".cidx") or "mrk" in file.name or file.name == "checksums.txt"
                assert why_damaged(copy) is not None or (left and not listed), f"{file.name} cut to {left} bytes"
                shutil.rmtree(copy)
        listing = (part / "checksums.txt").read_bytes()
        for at in range(len(listing)):
            (part / "checksums.txt").write_bytes(listing[:at] + bytes([listing[at] ^ 0x55]) + listing[at + 1 :])
            # It may seem complete, because only lengths are compared.
            why_damaged(part)
        (part / "checksums.txt").write_bytes(listing)
        warehouse.execute("SYSTEM STOP MERGES")
        warehouse.execute("INSERT INTO w.t SELECT number, ['x'], 'b', 1 FROM numbers(10)")
        (fresh,) = (p for p in tmp_path.glob("data/store/*/*/all_2_*") if p.is_dir())
        (fresh / "count.txt").write_bytes(b"")
        assert [(t, p) for t, p, _ in warehouse.damaged_parts([TABLE])] == [(TABLE, fresh.name)]
        warehouse.execute(f"ALTER TABLE w.t DROP PART '{fresh.name}'")
        assert warehouse.damaged_parts([TABLE]) == []
        assert warehouse.query("SELECT count() FROM w.t").rows == [(1000,)]
    finally:
        warehouse.close()


def test_an_unreadable_part_is_a_retryable_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are inspected after an insert that may have stored its rows, so the sender sends them again."""
    warehouse = EmbeddedWarehouse(tmp_path / "data", WarehouseOptions(readers=1, writers=1, database="w_empty"))

    def unreadable(_parts: object, _tables: object) -> list[object]:
        raise OSError(errno.EIO, "Input/output error")

    try:
        monkeypatch.setattr(NewParts, "damaged_parts", unreadable)
        with pytest.raises(EngineError) as caught:
            warehouse.damaged_parts([TABLE])
        assert caught.value.code is STORAGE and is_transient(caught.value)
        assert caught.value.headers.get("Retry-After")
    finally:
        warehouse.close()


def test_only_new_names_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine keeps thousands of parts that merges have replaced, and every insert examines the directory."""
    parsed: list[str] = []
    parse = Part.of

    def counted(name: str) -> Part | None:
        parsed.append(name)
        return parse(name)

    for number in range(50):
        (tmp_path / f"all_{number}_{number}_0").mkdir()
    parts = NewParts(logs=False)
    parts.note([str(tmp_path)])
    monkeypatch.setattr(Part, "of", counted)
    (tmp_path / "tmp_insert_all_50_50_0").mkdir()
    (tmp_path / "all_50_50_0").mkdir()
    (damaged,) = parts.damaged_parts([(TABLE, str(tmp_path))])
    assert damaged.part == "all_50_50_0"
    (tmp_path / "all_51_51_0").mkdir()
    assert [d.part for d in parts.damaged_parts([(TABLE, str(tmp_path))])] == ["all_50_50_0", "all_51_51_0"]
    assert set(parsed) <= {"all_50_50_0", "all_51_51_0"}
