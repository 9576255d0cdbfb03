"""Rows from which a view makes far more data than they contain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.control.push import PushOptions, push
from engine.errors import RookeryError
from engine.fanout.nest_writer import COPY_STAGE_TENANTS
from engine.plan.backfill import block_ranges
from engine.schema import Name
from engine.warehouse.errors import translate
from engine.workspace.snapshot import DeployedFile
from tests.support.in_process import open_rookery

LIMIT = 512 << 20
"""Bytes that a batch may take while it is stored, and that a delivery to a tenant may take."""
HUGE = 120_000_000
"""The numbers up to this one take 916 MiB."""
LARGE = 45_000_000
"""The numbers up to this one take 343 MiB."""
COLUMNS = """
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt64}
  - {name: n, type: UInt64}
engine: {sorting_key: [tenant_id, id]}
"""

TEXT = "  - {name: text, type: String}\n"
SUMS = """
nodes:
  - {name: it, sql: "SELECT tenant_id, sum(length(range(n))) AS total FROM events GROUP BY tenant_id"}
materialize: {target: sums, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""


@pytest.mark.parametrize("fanout", ["direct", "routed"])
def test_a_view_that_makes_too_much_data_of_a_row_is_stopped_for_its_tenant(fanout: str, tmp_path: Path) -> None:
    events = f"tenant: {{column: tenant_id, fanout: {fanout}}}" + COLUMNS
    with open_rookery(tmp_path, max_total_insert_memory=LIMIT) as rookery:
        rookery.push({"datasources/events.yaml": events, "pipes/sums_pipe.yaml": SUMS})
        rookery.add("1", "2", placement="pooled")
        rookery.add("3", "4")
        rows = [{"tenant_id": t, "id": t, "n": HUGE if t in (1, 3) else 5} for t in (1, 2, 3, 4)]
        # No attempt to wait for a better time: the row would fail every time.
        assert rookery.append(rows).rows == 4
        assert rookery.deliver([{"tenant_id": t, "id": 5, "n": 6} for t in (2, 4)])
        assert rookery.rows("SELECT count() FROM main.events") == [(6,)]
        assert rookery.rows("SELECT tenant_id, sum(total) FROM main.sums GROUP BY 1") == [(2, 11)]
        assert rookery.rows(f"SELECT sum(total) FROM {rookery.nest('4')}.sums") == [(11,)]
        assert rookery.rows(f"SELECT sum(total) FROM {rookery.nest('3')}.sums") == [(0,)]


def test_tenants_whose_rows_take_too_much_memory_together_do_not_stop_a_view_for_others(tmp_path: Path) -> None:
    with open_rookery(tmp_path, max_total_insert_memory=LIMIT) as rookery:
        files = {"datasources/events.yaml": "tenant: tenant_id" + COLUMNS, "pipes/sums_pipe.yaml": SUMS}
        rookery.push(files)
        rookery.add("1", "2", "3", placement="pooled")
        # Neither row exceeds the limit alone.
        rows = [{"tenant_id": t, "id": t, "n": LARGE if t in (1, 2) else 5} for t in (1, 2, 3)]
        assert rookery.append(rows).rows == 3
        assert rookery.append([{"tenant_id": t, "id": 5, "n": 6} for t in (1, 2, 3)]).rows == 3
        assert rookery.rows("SELECT count() FROM main.events") == [(6,)]
        assert (3, 11) in rookery.rows("SELECT tenant_id, sum(total) FROM main.sums GROUP BY 1")
        # Each row is delivered when it is alone.
        rookery.push(files)
        totals = rookery.rows("SELECT tenant_id, sum(total) FROM main.sums GROUP BY 1 ORDER BY 1")
        assert totals == [(1, LARGE + 6), (2, LARGE + 6), (3, 11)]


def test_rows_that_take_more_memory_together_than_a_delivery_may_reach_their_nest(tmp_path: Path) -> None:
    events = "tenant: {column: tenant_id, fanout: routed}" + COLUMNS.replace("engine", TEXT + "engine")
    with open_rookery(tmp_path, max_total_insert_memory=LIMIT) as rookery:
        rookery.push({"datasources/events.yaml": events})
        for _ in range(10):
            rookery.run("INSERT INTO main.events SELECT 3, number, 1, repeat('x', 1000000) FROM numbers(40)")
        rookery.add("3")
        rookery.wait_until_read()
        assert rookery.rows(f"SELECT count() FROM {rookery.nest('3')}.events") == [(400,)]


def test_a_query_that_makes_too_much_data_of_existing_rows_stops_only_its_push(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_rookery(tmp_path, max_backfill_memory=LIMIT, max_total_insert_memory=LIMIT) as rookery:
        modest = SUMS.replace("range(n)", "range(n % 7)")
        rookery.push({"datasources/events.yaml": "tenant: tenant_id" + COLUMNS, "pipes/sums_pipe.yaml": modest})
        rookery.add("1", placement="pooled")
        rows = [{"tenant_id": 1, "id": i, "n": n} for i, n in enumerate([HUGE, LARGE, LARGE])]
        assert [rookery.append([row]).rows for row in rows] == [1, 1, 1]
        before = rookery.rows("SELECT sum(total) FROM main.sums")
        changed = {"sums_pipe": DeployedFile(SUMS, "pipes/sums_pipe.yaml")}
        with pytest.raises(RookeryError) as refused:
            push(rookery.workspace, changed, PushOptions(allow=frozenset({"sums", "sums_pipe"})))
        hint = refused.value.hint or ""
        assert refused.value.code.id == "RK3012" and "`sums_pipe`" in hint and "ROOKERY_MAX_BACKFILL_MEMORY" in hint
        assert rookery.rows("SELECT sum(total) FROM main.sums") == before
        with pytest.raises(RookeryError) as failed:
            rookery.push({"pipes/more_pipe.yaml": SUMS.replace("target: sums", "target: more")})
        assert failed.value.code.id == "RK3010" and "more_pipe" in failed.value.message
        assert "ROOKERY_MAX_BACKFILL_MEMORY" in (failed.value.hint or "")
        # Ranges have few bytes, so that the memory is enough for rows that are large themselves.
        events = Name("main", "events")
        assert len(block_ranges(rookery.workspace.warehouse, events)) == 1
        monkeypatch.setattr("engine.plan.backfill.RANGE_BYTES", 60)
        assert len(block_ranges(rookery.workspace.warehouse, events)) == 3


def test_rows_that_take_too_much_memory_together_are_delivered_from_landing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = [str(n) for n in range(1, COPY_STAGE_TENANTS + 1)]
    with open_rookery(tmp_path) as rookery:
        rookery.push({"datasources/events.yaml": "tenant: {column: tenant_id, fanout: routed}" + COLUMNS})
        rookery.add(*tenants)
        execute = rookery.workspace.warehouse.execute

        def short(sql: str, *args: Any, **more: Any) -> None:
            if sql.startswith("INSERT INTO `main_stage`.`_rk_flush_events`"):
                raise translate(RuntimeError("Code: 241. DB::Exception: Query memory limit exceeded"))
            execute(sql, *args, **more)

        monkeypatch.setattr(rookery.workspace.warehouse, "execute", short)
        assert rookery.deliver([{"tenant_id": int(t), "id": 1, "n": 1} for t in tenants])
        assert rookery.rows(f"SELECT count() FROM {rookery.nest('1')}.events") == [(1,)]


DAYS = """
sql: SELECT tenant_id, toDate(n) AS day, count() AS total FROM events GROUP BY tenant_id, day
materialize:
  target: days
  per_tenant: true
  engine: {type: SummingMergeTree, sorting_key: [tenant_id, day], partition_key: day}
"""


@pytest.mark.parametrize("fanout", ["direct", "routed"])
def test_rows_of_too_many_partitions_stop_only_their_tenants(fanout: str, tmp_path: Path) -> None:
    def days(tenant: int, count: int) -> list[dict[str, int]]:
        return [{"tenant_id": tenant, "id": n, "n": (tenant * 1000 + n) * 86_400} for n in range(count)]

    events = f"tenant: {{column: tenant_id, fanout: {fanout}}}" + COLUMNS
    with open_rookery(tmp_path) as rookery:
        files = {"datasources/events.yaml": events, "pipes/days_pipe.yaml": DAYS}
        rookery.push(files)
        rookery.add("1", "2", "5", "6", placement="pooled")
        rookery.add("3", "4")
        # Those of tenants 5 and 6 are too many only together.
        batches = [days(1, 150), days(2, 5) + days(5, 60) + days(6, 60), days(3, 150)]
        assert [rookery.append(rows).rows for rows in batches] == [150, 125, 150]
        assert rookery.deliver(days(2, 1) + days(4, 1))
        assert rookery.rows("SELECT tenant_id, sum(total) FROM main.days GROUP BY 1") == [(2, 6)]
        assert rookery.rows(f"SELECT sum(total) FROM {rookery.nest('4')}.days") == [(1,)]


def test_rows_of_too_many_partitions_are_refused(tmp_path: Path) -> None:
    plain = "tenant: {column: tenant_id, landing: false}" + COLUMNS.replace(
        "engine: {", "engine: {partition_key: id, "
    )
    with open_rookery(tmp_path) as rookery:
        rookery.push({"datasources/events.yaml": plain})
        with pytest.raises(RookeryError) as refused:
            rookery.append([{"tenant_id": 1, "id": n, "n": 1} for n in range(150)])
        assert refused.value.code.status == 400 and "partitions" in refused.value.message
