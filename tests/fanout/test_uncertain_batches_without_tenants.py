"""A batch of a datasource without tenants that was stored in part is completed in every view before the next one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.control.doctor import examine
from engine.control.push import PushOptions, push
from engine.errors import DISK_FULL, IN_DOUBT, OVERLOADED, RookeryError
from engine.fanout.batch_completion import UNCERTAIN_KIND, secure_before_removal
from engine.fanout.kept_rows import KeptBatch
from engine.fanout.startup_recovery import complete
from engine.fanout.suspension_records import suspended
from engine.fanout.uncertain_batches import uncertain_batches_of
from engine.plan.coverage import Coverage
from engine.schema import Name
from engine.warehouse.catalog import newest_block_in_parts, read_schema
from engine.warehouse.port import DamagedPart, Input
from tests.support.in_process import Rookery, open_rookery

PLAIN = """
columns: [{name: id, type: UInt64}, {name: day, type: Date}, {name: n, type: Int64}]
engine: {type: %s, sorting_key: [%s], partition_key: toYYYYMM(day)}
"""
SUMS = """
columns: [{name: k, type: UInt8}, {name: rows, type: UInt64}, {name: total, type: Int64}]
engine: {type: SummingMergeTree, sorting_key: [k], columns: [rows, total]}
"""
FILL = """
sql: SELECT toUInt8(id %% 4) AS k, count() AS rows, sum(n) AS total FROM plain GROUP BY k
materialize: {target: %s}
"""
PASS_ON = """
sql: SELECT k, rows, total FROM sums
materialize: {target: further}
"""
TARGETS = ("sums", "others", "further")
REFUSED = "ALTER TABLE main.sums MODIFY SETTING parts_to_throw_insert = 1"
TAKEN = "ALTER TABLE main.sums RESET SETTING parts_to_throw_insert"
_IDS = itertools.count(1)


def _files(engine: str = "MergeTree", key: str = "id") -> dict[str, str]:
    return {
        "datasources/plain.yaml": PLAIN % (engine, key),
        **{f"datasources/{t}.yaml": SUMS for t in TARGETS},
        "pipes/fill_sums.yaml": FILL % "sums",
        "pipes/fill_others.yaml": FILL % "others",
        "pipes/pass_on.yaml": PASS_ON,
    }


def _rows(count: int = 9) -> list[dict[str, object]]:
    """Rows of three months, so that one insert is three parts."""
    return [{"id": next(_IDS), "day": f"2026-0{1 + n % 3}-01", "n": n} for n in range(count)]


def _send(rookery: Rookery, rows: list[dict[str, object]], key: str | None = None) -> int:
    return (
        rookery.gateway.append("plain", "\n".join(map(json.dumps, rows)).encode(), Input.NDJSON, key=key)
        .result(30)
        .rows
    )


def _code(rookery: Rookery, rows: list[dict[str, object]], key: str | None = None) -> str:
    with pytest.raises(RookeryError) as caught:
        _send(rookery, rows, key)
    assert caught.value.headers["Retry-After"]
    return caught.value.code.id


def _sums(rookery: Rookery) -> set[tuple[int, int]]:
    return {rookery.rows(f"SELECT sum(rows), sum(total) FROM main.{t}")[0] for t in TARGETS}  # type: ignore[misc]


def test_an_uncertain_batch_survives_a_restart_and_its_key_is_answered(tmp_path: Path) -> None:
    """The table replaces rows by day, so that the batch cannot be read back from it."""
    rows = _rows()
    with open_rookery(tmp_path) as rookery:
        rookery.push(_files("ReplacingMergeTree", "day"))
        _send(rookery, _rows())
        rookery.run(REFUSED)
        assert _code(rookery, rows, "a key") == OVERLOADED.id
    with open_rookery(tmp_path) as rookery:
        complete(rookery.workspace)
        assert [d.datasource for d in uncertain_batches_of(rookery.workspace).outstanding()] == ["plain"]
        rookery.run(TAKEN)
        uncertain_batches_of(rookery.workspace).complete_all()
        assert _send(rookery, rows, "a key") == 9
        assert _sums(rookery) == {(18, 72)}
        uncertain_batches_of(rookery.workspace).recover()
        assert not uncertain_batches_of(rookery.workspace).outstanding()
        assert _sums(rookery) == {(18, 72)}


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("plain")) as opened:
        opened.push(_files())
        assert _send(opened, _rows()) == 9
        yield opened


def _assert_complete(rookery: Rookery) -> None:
    (there,) = rookery.rows("SELECT count(), sum(n) FROM main.plain")
    assert _sums(rookery) == {there}
    assert rookery.rows("SELECT count() - uniqExact(id) FROM main.plain") == [(0,)]
    assert not suspended(rookery.workspace) and not uncertain_batches_of(rookery.workspace).outstanding()


def test_a_batch_is_completed_before_the_next_one_is_stored(rookery: Rookery) -> None:
    ((before,),) = rookery.rows("SELECT count() FROM main.plain")
    rookery.run(REFUSED)
    assert _code(rookery, _rows()) == OVERLOADED.id
    assert rookery.rows("SELECT count() FROM main.plain") == [(before + 9,)], "the datasource has it"
    assert _code(rookery, _rows()) == IN_DOUBT.id
    findings = [f for f in examine(rookery.workspace).findings if f.check == "batch-in-doubt"]
    assert [f.object for f in findings] == ["main.plain"]
    rookery.run(TAKEN)
    uncertain_batches_of(rookery.workspace).complete_all()
    assert _send(rookery, _rows()) == 9
    assert rookery.rows("SELECT count() FROM main.plain") == [(before + 18,)]
    _assert_complete(rookery)
    # The block numbers that the repeated inserts used do not count as lost rows.
    assert not push(rookery.workspace, {}, PushOptions(dry_run=True)).plan
    live = read_schema(rookery.workspace.warehouse, "main")
    coverage = Coverage(rookery.workspace.warehouse, rookery.workspace.registry, live)
    assert [coverage.why_incomplete(v) for v in live.views.values() if v.source.name == "plain"] == [None, None]

    # A batch of which nothing was stored is forgotten: its sender gets an error and sends it again.
    rookery.run(REFUSED.replace("sums", "plain"))
    assert _code(rookery, rows := _rows()) == OVERLOADED.id
    rookery.run(TAKEN.replace("sums", "plain"))
    assert _send(rookery, rows) == 9
    _assert_complete(rookery)


def test_rows_whose_damaged_part_was_removed_are_stored_after_a_kill(rookery: Rookery) -> None:
    """Only views may have them, so the table does not show that the batch was begun."""
    ((before,),) = rookery.rows("SELECT count() FROM main.plain")
    table, columns = Name("main", "plain"), (("id", "UInt64"), ("day", "Date"), ("n", "Int64"))
    newest = newest_block_in_parts(rookery.workspace.warehouse, table)
    row = f"(SELECT {next(_IDS)}::UInt64 AS id, '2026-01-01'::Date AS day, 5::Int64 AS n)"
    kept = KeptBatch("plain", "g:removed", columns, newest, "id, day, n", row, lambda: None)
    secure_before_removal(rookery.workspace, kept, DamagedPart(table, "202601_1_1_0", "damaged"))
    uncertain_batches_of(rookery.workspace).recover()
    assert rookery.rows("SELECT count() FROM main.plain") == [(before + 1,)]
    assert rookery.workspace.registry.read(UNCERTAIN_KIND) == {}
    _assert_complete(rookery)


def test_nothing_is_stored_without_a_copy(rookery: Rookery) -> None:
    """Without it, a kill would leave the batch in some of the views."""
    ((held,),) = rookery.rows(
        "SELECT name FROM system.tables WHERE database = 'main' AND startsWith(name, '_rk_held_')"
    )
    ((before,),) = rookery.rows("SELECT count() FROM main.plain")
    rookery.run(f"ALTER TABLE main.{held} MODIFY SETTING min_free_disk_bytes_to_perform_insert = {1 << 60}")
    rows = _rows()
    assert _code(rookery, rows) == DISK_FULL.id
    assert rookery.rows("SELECT count() FROM main.plain") == [(before,)]
    rookery.run(f"ALTER TABLE main.{held} RESET SETTING min_free_disk_bytes_to_perform_insert")
    assert _send(rookery, rows) == 9
    assert rookery.rows(f"SELECT count() FROM main.{held}") == [(0,)]
    _assert_complete(rookery)


def test_a_view_that_fails_once_gets_exactly_the_rows_it_missed(rookery: Rookery) -> None:
    (there,) = rookery.rows("SELECT count(), sum(n) FROM main.plain")
    # Recomputing the target would lose its rows that have expired in the source.
    rookery.run("ALTER TABLE main.plain DROP PARTITION 202601")
    rookery.run("ALTER TABLE main.sums ADD CONSTRAINT once CHECK total < 0")
    assert _send(rookery, _rows()) == 9
    assert [v["view"] for v in suspended(rookery.workspace)] == ["main._rk_fill_sums"]
    _send(rookery, _rows())
    rookery.run("ALTER TABLE main.sums DROP CONSTRAINT once")
    plan = push(rookery.workspace, {}).plan
    assert plan and {s.loss for s in plan.steps} == {"none"}
    assert _sums(rookery) == {(there[0] + 18, there[1] + 72)}
