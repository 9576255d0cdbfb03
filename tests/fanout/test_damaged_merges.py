"""Damaged results of merges are replaced by their source parts, and no row is lost."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from engine.errors import DAMAGED
from engine.fanout.merge_watch import MergeWatcher
from engine.schema import Name
from engine.warehouse.errors import translate
from engine.warehouse.part_names import parts_in
from engine.warehouse.port import Format, Statement
from tests.fanout.retrying_writers import project
from tests.support.in_process import PATIENCE, Rookery, open_rookery
from tests.support.soak import paired

OWN = ("1", "2")
_IDS = itertools.count(1)


# Merges know no modes. What finds their damage differs: the last test of this file is for views on landing.
@pytest.fixture(scope="module", params=["routed", pytest.param("direct", marks=pytest.mark.soak_only)])
def rookery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp(request.param)) as opened:
        opened.push(project(request.param))
        opened.add(*OWN)
        yield opened


def _rows(bad: int = 0) -> list[dict[str, int | str]]:
    rows: list[dict[str, int | str]] = [
        {"tenant_id": int(t), "id": next(_IDS), "n": 7} for t in OWN for _ in range(5)
    ]
    return rows + [{"tenant_id": 1, "id": "none", "n": 1} for _ in range(bad)]


def _newest_part(rookery: Rookery, table: str) -> Path:
    """The directory of the one part that a merge has just made."""
    rookery.run(f"OPTIMIZE TABLE {table} FINAL")
    database, name = table.replace("`", "").split(".")
    ((path,),) = rookery.rows(
        f"SELECT path FROM system.parts WHERE active AND database = '{database}' AND table = '{name}'"
    )
    return Path(path)


FILES = ("data.bin", "columns.txt", "columns_substreams.txt", "checksums.txt")


@pytest.mark.parametrize(("file", "where"), paired(FILES, ("landing", "copy", "sums")))
def test_a_damaged_merge_loses_no_row(rookery: Rookery, where: str, file: str) -> None:
    _assert_no_row_is_lost(rookery, where, file)


def _assert_no_row_is_lost(rookery: Rookery, where: str, file: str) -> None:
    (before,) = rookery.rows("SELECT count() FROM main.events")
    for _ in range(3):
        assert rookery.deliver(_rows())
    table = {"landing": "main.events", "copy": f"{rookery.nest('1')}.events", "sums": f"{rookery.nest('1')}.sums"}[
        where
    ]
    part = _newest_part(rookery, table)
    cut = part / file
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    rookery.deliver(_rows())
    rookery.wait_until_caught_up()
    assert not part.exists()
    assert rookery.differences(OWN) == []
    assert rookery.rows("SELECT count(), uniqExact(id) FROM main.events") == [(before[0] + 40, before[0] + 40)]


@pytest.mark.parametrize("undone", ["merge", "token"])
def test_a_damaged_part_that_was_merged_is_not_left_behind(rookery: Rookery, undone: str) -> None:
    """The engine would find it when the table is attached, and the server would never be ready again."""
    rookery.deliver(_rows())
    first = _newest_part(rookery, "main.events")
    rookery.deliver(_rows())
    inserted = first.parent / _inserted(first.parent)
    # The engine has the index in memory, and merges the part without reading the file.
    cut = inserted / "primary.cidx"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    _newest_part(rookery, "main.events")
    rookery.deliver(_rows())
    before = rookery.rows("SELECT count(n), uniqExact(id) FROM main.events")
    if undone == "merge":
        merged = _newest_part(rookery, "main.events")
        (merged / "columns.txt").write_bytes(b"")
    else:
        (log,) = (first.parent / "deduplication_logs").glob("*.txt")
        with log.open("ab") as file:
            file.write(b"1\t202611_999_999_0\tan old token\n")
    assert inserted.is_dir(), "the engine has removed the directory already"
    rookery.workspace.warehouse.note_damaged_merges()
    with rookery.workspace.insert_lock.exclusive():
        rookery.workspace.warehouse.undo_merges()
        rookery.workspace.warehouse.forget_unstored_tokens()
    assert rookery.rows("SELECT name FROM system.detached_parts WHERE database = 'main' AND table = 'events'") == []
    assert not inserted.exists()
    assert rookery.rows("SELECT count(n), uniqExact(id) FROM main.events") == before


def test_an_intact_part_that_the_engine_could_not_open_is_put_back(
    rookery: Rookery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine detaches a part as broken if it cannot open a file when the table is attached."""
    rookery.deliver(_rows())
    first = _newest_part(rookery, "main.events")
    rookery.deliver(_rows())
    before = rookery.rows("SELECT count(n), uniqExact(id) FROM main.events")
    file = first.parent / _inserted(first.parent) / "columns.txt"
    merged = _newest_part(rookery, "main.events")
    (merged / "columns.txt").write_bytes(b"")
    warehouse = rookery.workspace.warehouse
    execute, failures = warehouse.execute, [0]

    def fails_once(sql: str, *more: object) -> None:
        if not sql.startswith("ATTACH TABLE") or failures[0]:
            return execute(sql, *more)  # type: ignore[arg-type]
        failures[0] += 1
        away = file.rename(first.parent.parent / "away")
        try:
            execute(sql)
        finally:
            (moved,) = (first.parent / "detached").glob(f"*{file.parent.name}")
            away.rename(moved / file.name)

    monkeypatch.setattr(warehouse, "execute", fails_once)
    warehouse.note_damaged_merges()
    with rookery.workspace.insert_lock.exclusive():
        warehouse.undo_merges()
    assert failures == [1]
    assert rookery.rows("SELECT count(n), uniqExact(id) FROM main.events") == before


def test_source_parts_outlive_their_merge(rookery: Rookery) -> None:
    """Dropping a part makes the engine remove outdated parts at once."""
    before = rookery.rows("SELECT count() FROM main.events_quarantine")[0][0]
    for _ in range(3):
        rookery.append(_rows(bad=1))
    part = _newest_part(rookery, "main.events_quarantine")
    rookery.run("INSERT INTO main.events_quarantine (c__id) SELECT 'a row that was never checked'")
    rookery.run(f"ALTER TABLE main.events_quarantine DROP PART '{_inserted(part.parent)}'")
    cut = part / "columns_substreams.txt"
    cut.write_bytes(b"")
    rookery.append(_rows(bad=1))
    assert not part.exists()
    assert rookery.rows("SELECT count() FROM main.events_quarantine") == [(before + 4,)]


def _inserted(table: Path) -> str:
    """The part that was inserted last."""
    parts = [*parts_in(table).values()]
    newest = max(parts, key=lambda p: p.last)
    return f"{newest.partition}_{newest.first}_{newest.last}_{newest.level}"


@pytest.mark.parametrize("file", ["statistics.packed", "data.bin"])
def test_a_damaged_merge_is_undone_while_nothing_is_inserted(rookery: Rookery, file: str) -> None:
    for _ in range(3):
        assert rookery.deliver(_rows())
    before = rookery.rows("SELECT count(n), uniqExact(id) FROM main.events")
    part = _newest_part(rookery, "main.events")
    cut = part / file
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    merges = MergeWatcher(rookery.workspace, pause_seconds=3600)
    try:
        assert merges.check()
        assert not part.exists()
        assert not merges.check()
    finally:
        merges.close()
    assert rookery.rows("SELECT count(n), uniqExact(id) FROM main.events") == before


def test_truncated_statistics_are_damage() -> None:
    """A reader may repeat the statement: the statement is not at fault."""
    text = (
        "Code: 33. DB::Exception: Cannot read all data. Bytes read: 908. Bytes expected: 909: (while loading statistics "
        "for column a from file a.stats in packed file statistics.packed of part 0_1_6_2). (CANNOT_READ_ALL_DATA)"
    )
    assert translate(ClickHouseError(text)).code is DAMAGED


def test_a_damaged_merge_of_a_quarantine_loses_no_row(rookery: Rookery) -> None:
    for _ in range(3):
        rookery.append(_rows(bad=1))
    before = rookery.rows("SELECT count() FROM main.events_quarantine")[0][0]
    part = _newest_part(rookery, "main.events_quarantine")
    cut = part / "columns.txt"
    cut.write_bytes(cut.read_bytes()[:60])
    rookery.append(_rows(bad=1))
    assert not part.exists()
    assert rookery.rows("SELECT count() FROM main.events_quarantine") == [(before + 1,)]


def test_a_damaged_part_without_sources_stays(rookery: Rookery, tmp_path: Path) -> None:
    """Its sources are gone. Inserts continue."""
    for _ in range(3):
        rookery.append(_rows(bad=1))
    part = _newest_part(rookery, "main.events_quarantine")
    for other in part.parent.iterdir():
        if other != part and other.name.startswith("all_"):
            other.rename(tmp_path / other.name)
    cut = part / "default_compression_codec.txt"
    cut.write_bytes(b"CODEC")
    assert rookery.append(_rows(bad=1)).quarantined == 1
    assert part.exists()
    assert rookery.workspace.warehouse.damaged_parts([Name("main", "events_quarantine")]) == []


@pytest.mark.parametrize("file", ["data.cmrk4", "data.bin"])
def test_reads_undo_a_damaged_merge(rookery: Rookery, file: str) -> None:
    """No read fails, although several read the part at the same time, and the table is detached for a moment."""
    for _ in range(3):
        assert rookery.deliver(_rows())
    part = _newest_part(rookery, "main.events")
    cut = part / file
    cut.write_bytes(cut.read_bytes()[:8])
    rookery.run("SYSTEM DROP MARK CACHE")
    statement = Statement("SELECT count(n) AS n, uniqExact(id) AS ids FROM main.events")

    def read(number: int) -> bool:
        if number % 2:
            ((rows, ids),) = rookery.rows(statement.sql)
        else:
            document = b"".join(rookery.workspace.warehouse.stream(statement, Format.NDJSON))
            rows, ids = json.loads(document).values()
        return bool(rows == ids)

    deadline = time.monotonic() + PATIENCE
    with ThreadPoolExecutor(6) as readers:
        # The first reads may still be answered from memory.
        while part.exists():
            assert time.monotonic() < deadline
            assert all(readers.map(read, range(12)))


@pytest.mark.parametrize("rookery", ["direct"], indirect=True, scope="module")
def test_a_damaged_merge_behind_views_on_landing_loses_no_row(rookery: Rookery) -> None:
    for where in ("copy", "sums"):
        _assert_no_row_is_lost(rookery, where, "columns.txt")
