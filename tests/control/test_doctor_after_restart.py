"""After a restart the tables of nests are not loaded: healthy ones have no findings, and damaged ones are repaired."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.control.doctor import examine, repair
from tests.support.in_process import Rookery, open_rookery

OWN, POOLED = ("1",), ("8", "9")
EVENTS = """
tenant: {column: tenant_id, fanout: %s, nest_copy: %s}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt64}
  - {name: n, type: Int32}
engine: {type: MergeTree, sorting_key: [tenant_id, id]}
"""
PIPE = """
nodes:
  - {name: it, sql: "%s"}
materialize: {target: %s, per_tenant: true%s, engine: %s}
"""
SHARED = """
shared: {min_tenants: 2}
columns:
  - {name: bucket, type: UInt8}
  - {name: total, type: "SimpleAggregateFunction(sum, Int64)"}
engine: {type: AggregatingMergeTree, sorting_key: [bucket]}
"""
TARGETS = {
    "sums": (
        "SELECT tenant_id, toUInt8(id % 4) AS bucket, count() AS events, sum(n) AS total FROM events "
        "GROUP BY tenant_id, bucket",
        "{type: SummingMergeTree, sorting_key: [tenant_id, bucket]}",
    ),
    "hidden": (
        "SELECT tenant_id, toUInt8(id % 4) AS bucket, sum(n) AS total FROM events GROUP BY tenant_id, bucket",
        "{type: SummingMergeTree, sorting_key: [tenant_id, bucket]}",
    ),
    "states": (
        "SELECT tenant_id, toUInt8(id % 4) AS bucket, uniqState(id) AS ids FROM events GROUP BY tenant_id, bucket",
        "{type: AggregatingMergeTree, sorting_key: [tenant_id, bucket]}",
    ),
    "latest": (
        "SELECT tenant_id, id % 10 AS slot, id AS version, n FROM events",
        "{type: ReplacingMergeTree, sorting_key: [tenant_id, slot], version: version}",
    ),
    "signed": (
        # Each row from the fifteenth on takes back one from the fifth on.
        "SELECT tenant_id, toUInt64(if(n < 15, id, id - 10)) AS slot, slot * 2 AS twice, toInt8(if(n < 15, 1, -1)) AS sign "
        "FROM events",
        "{type: CollapsingMergeTree, sorting_key: [tenant_id, slot], sign: sign}",
    ),
    "plain": (
        "SELECT tenant_id, id, n * 2 AS twice FROM events",
        "{type: MergeTree, sorting_key: [tenant_id, id]}",
    ),
    "chained": (
        "SELECT tenant_id, sum(twice) AS total FROM plain GROUP BY tenant_id",
        "{type: SummingMergeTree, sorting_key: [tenant_id]}",
    ),
    "newest": (
        "SELECT tenant_id, sum(n) AS total, count() AS slots FROM latest GROUP BY tenant_id",
        "{type: SummingMergeTree, sorting_key: [tenant_id]}",
    ),
    "counted": (
        "SELECT tenant_id, count() AS batches, sum(events) AS events FROM sums GROUP BY tenant_id",
        "{type: SummingMergeTree, sorting_key: [tenant_id]}",
    ),
}
TO_SHARED = """
nodes:
  - {name: it, sql: "SELECT toUInt8(id % 4) AS bucket, sum(n) AS total FROM events GROUP BY bucket"}
materialize: {target: for_all}
"""


def _files(mode: str, copy: str) -> dict[str, str]:
    dropping = ", drop_tenant_column: true"
    pipes = {
        f"pipes/to_{name}.yaml": PIPE % (sql, name, dropping if name == "hidden" else "", engine)
        for name, (sql, engine) in TARGETS.items()
    }
    return {
        "datasources/events.yaml": EVENTS % (mode, copy),
        "datasources/for_all.yaml": SHARED,
        "pipes/to_everybodys.yaml": TO_SHARED,
        **pipes,
    }


def _send(rookery: Rookery, first: int) -> None:
    rows = [{"tenant_id": int(t), "id": first + n, "n": n} for t in (*OWN, *POOLED) for n in range(20)]
    assert rookery.deliver(rows)
    rookery.wait_until_caught_up()


def _findings(rookery: Rookery) -> list[tuple[str, str, str]]:
    return [(f.check, f.object, f.message) for f in examine(rookery.workspace, deep=True).findings]


def _restarted(tmp_path: Path, mode: str, copy: str) -> None:
    with open_rookery(tmp_path) as rookery:
        rookery.push(_files(mode, copy))
        rookery.add(*OWN)
        rookery.add(*POOLED, placement="pooled")
        for n in range(3):
            _send(rookery, n * 20)
        # A merge of the view's source must not look like a loss in its target.
        for name in TARGETS:
            rookery.run(f"OPTIMIZE TABLE main.{name} FINAL")
            rookery.run(f"OPTIMIZE TABLE {rookery.nest('1')}.{name} FINAL")


# With views on landing, completing the newest insert at the start loads the tables of nests.
@pytest.mark.soak_only
@pytest.mark.parametrize(("mode", "copy"), [("direct", "true"), ("routed", "false")])
def test_healthy_unloaded_tables_have_no_findings(tmp_path: Path, mode: str, copy: str) -> None:
    _restarted(tmp_path, mode, copy)
    with open_rookery(tmp_path) as rookery:
        _send(rookery, 60)
        assert _findings(rookery) == []


def test_an_unloaded_table_is_repaired(tmp_path: Path) -> None:
    _restarted(tmp_path, "routed", "true")
    with open_rookery(tmp_path) as rookery:
        _send(rookery, 60)
        sums = f"SELECT bucket, sum(events), sum(total) FROM {rookery.nest('1')}.sums GROUP BY 1 ORDER BY 1"
        before = rookery.rows(sums)
        rookery.run(f"TRUNCATE TABLE {rookery.nest('1')}.sums")
        # All other tables, which are not loaded, have no findings.
        assert [(check, name) for check, name, _ in _findings(rookery)] == [("derived", "main_nest_1.sums")]
        (repaired,) = repair(rookery.workspace)["repaired"]
        assert repaired["keys"] == 4
        assert rookery.rows(sums) == before
