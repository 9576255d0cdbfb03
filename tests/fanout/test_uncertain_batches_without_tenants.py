"""A batch of a datasource without tenants that was stored in part is completed in every view before the next one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.control.doctor import examine
from engine.control.push import PushOptions, push
from engine.errors import IN_DOUBT, OVERLOADED, RookeryError
from engine.fanout.startup_recovery import complete
from engine.fanout.suspension_records import suspended
from engine.fanout.uncertain_batches import uncertain_batches_of
from engine.plan.coverage import Coverage
from engine.warehouse.catalog import read_schema
from engine.warehouse.port import Input
from tests.support.in_process import House, house

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


def _send(home: House, rows: list[dict[str, object]], key: str | None = None) -> int:
    return (
        home.gateway.append("plain", "\n".join(map(json.dumps, rows)).encode(), Input.NDJSON, key=key).result(30).rows
    )


def _code(home: House, rows: list[dict[str, object]], key: str | None = None) -> str:
    with pytest.raises(RookeryError) as caught:
        _send(home, rows, key)
    assert caught.value.headers["Retry-After"]
    return caught.value.code.id


def _sums(home: House) -> set[tuple[int, int]]:
    return {home.rows(f"SELECT sum(rows), sum(total) FROM main.{t}")[0] for t in TARGETS}  # type: ignore[misc]


def test_an_uncertain_batch_survives_a_restart_and_its_key_is_answered(tmp_path: Path) -> None:
    """The table replaces rows by day, so that the batch cannot be read back from it."""
    rows = _rows()
    with house(tmp_path) as home:
        home.push(_files("ReplacingMergeTree", "day"))
        _send(home, _rows())
        home.run(REFUSED)
        assert _code(home, rows, "a key") == OVERLOADED.id
    with house(tmp_path) as home:
        complete(home.workspace)
        assert [d.datasource for d in uncertain_batches_of(home.workspace).outstanding()] == ["plain"]
        home.run(TAKEN)
        uncertain_batches_of(home.workspace).complete_all()
        assert _send(home, rows, "a key") == 9
        assert _sums(home) == {(18, 72)}
        uncertain_batches_of(home.workspace).recover()
        assert not uncertain_batches_of(home.workspace).outstanding()
        assert _sums(home) == {(18, 72)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("plain")) as made:
        made.push(_files())
        assert _send(made, _rows()) == 9
        yield made


def _assert_complete(home: House) -> None:
    (there,) = home.rows("SELECT count(), sum(n) FROM main.plain")
    assert _sums(home) == {there}
    assert home.rows("SELECT count() - uniqExact(id) FROM main.plain") == [(0,)]
    assert not suspended(home.workspace) and not uncertain_batches_of(home.workspace).outstanding()


def test_a_batch_is_completed_before_the_next_one_is_stored(home: House) -> None:
    ((before,),) = home.rows("SELECT count() FROM main.plain")
    home.run(REFUSED)
    assert _code(home, _rows()) == OVERLOADED.id
    assert home.rows("SELECT count() FROM main.plain") == [(before + 9,)], "the datasource has it"
    assert _code(home, _rows()) == IN_DOUBT.id
    found = [f for f in examine(home.workspace).findings if f.check == "batch-in-doubt"]
    assert [f.object for f in found] == ["main.plain"]
    home.run(TAKEN)
    uncertain_batches_of(home.workspace).complete_all()
    assert _send(home, _rows()) == 9
    assert home.rows("SELECT count() FROM main.plain") == [(before + 18,)]
    _assert_complete(home)
    # The block numbers that the repeated inserts used do not count as lost rows.
    assert not push(home.workspace, {}, PushOptions(dry_run=True)).plan
    live = read_schema(home.workspace.warehouse, "main")
    coverage = Coverage(home.workspace.warehouse, home.workspace.registry, live)
    assert [coverage.why_incomplete(v) for v in live.views.values() if v.source.name == "plain"] == [None, None]

    # A batch of which nothing was stored is forgotten: its sender gets an error and sends it again.
    home.run(REFUSED.replace("sums", "plain"))
    assert _code(home, rows := _rows()) == OVERLOADED.id
    home.run(TAKEN.replace("sums", "plain"))
    assert _send(home, rows) == 9
    _assert_complete(home)


def test_rows_that_cannot_be_held_are_completed_from_memory(home: House) -> None:
    ((held,),) = home.rows("SELECT name FROM system.tables WHERE database = 'main' AND startsWith(name, '_rk_held_')")
    home.run(f"ALTER TABLE main.{held} ADD CONSTRAINT full CHECK 0")
    home.run(REFUSED)
    assert _code(home, _rows()) == OVERLOADED.id
    assert home.rows(f"SELECT count() FROM main.{held}") == [(0,)]
    home.run(TAKEN)
    uncertain_batches_of(home.workspace).complete_all()
    _assert_complete(home)
    home.run(f"ALTER TABLE main.{held} DROP CONSTRAINT full")


def test_a_view_that_fails_once_gets_exactly_the_rows_it_missed(home: House) -> None:
    (there,) = home.rows("SELECT count(), sum(n) FROM main.plain")
    # Recomputing the target would lose its rows that have expired in the source.
    home.run("ALTER TABLE main.plain DROP PARTITION 202601")
    home.run("ALTER TABLE main.sums ADD CONSTRAINT once CHECK total < 0")
    assert _send(home, _rows()) == 9
    assert [v["view"] for v in suspended(home.workspace)] == ["main._rk_fill_sums"]
    _send(home, _rows())
    home.run("ALTER TABLE main.sums DROP CONSTRAINT once")
    plan = push(home.workspace, {}).plan
    assert plan and {s.loss for s in plan.steps} == {"none"}
    assert _sums(home) == {(there[0] + 18, there[1] + 72)}
