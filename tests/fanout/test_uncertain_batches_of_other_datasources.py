"""An uncertain batch of one datasource does not delay views over a tenant's other datasources."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.in_process import PATIENCE, Rookery, open_rookery

LANDING = """
tenant: {{column: tenant_id, fanout: {mode}}}
columns: [{{name: tenant_id, type: UInt32}}, {{name: id, type: UInt32}}, {{name: n, type: Int64}}, {{name: k, type: String}}]
engine: {{sorting_key: [tenant_id]}}
"""
SUMS = """
tenant: {column: tenant_id, landing: false}
columns: [{name: tenant_id, type: UInt32}, {name: v, type: Int64}]
engine: {type: SummingMergeTree, sorting_key: [tenant_id], columns: [v]}
"""
FILL = """
sql: SELECT tenant_id, sum(toInt64(k)) AS v FROM {source} GROUP BY tenant_id
materialize: {{target: {target}, per_tenant: true}}
"""
PASS_ON = """
sql: SELECT tenant_id, v FROM sums
materialize: {target: again, per_tenant: true}
"""


def _rows(rookery: Rookery, datasource: str, *texts: str) -> None:
    rows = ", ".join(f"(5, {n}, {n}, '{text}')" for n, text in enumerate(texts))
    rookery.run(f"INSERT INTO main.{datasource} (tenant_id, id, n, k) VALUES {rows}")


def _wait_for_stray(rookery: Rookery) -> None:
    deadline = time.monotonic() + PATIENCE
    while (stray := rookery.lagging_group("5")) is None or stray.offset.log_range is None:
        assert time.monotonic() < deadline, stray
        time.sleep(0.02)


@pytest.mark.proves("B7")
def test_views_are_created_while_another_datasource_has_an_uncertain_batch(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        files = {
            "datasources/events.yaml": LANDING.format(mode="routed"),
            "datasources/refused.yaml": SUMS,
            "pipes/refuse.yaml": FILL.format(source="events", target="refused"),
            "datasources/logs.yaml": LANDING.format(mode="direct"),
            "datasources/sums.yaml": SUMS,
            "pipes/sum.yaml": FILL.format(source="logs", target="sums"),
        }
        rookery.push(files)
        rookery.add("5")
        _rows(rookery, "logs", "1", "2")
        assert not rookery.deliver([{"tenant_id": 5, "id": 1, "n": 1, "k": "bad"}])
        _wait_for_stray(rookery)

        copy = {"datasources/copied.yaml": SUMS, "pipes/copy.yaml": FILL.format(source="logs", target="copied")}
        rookery.push(files | copy | {"datasources/again.yaml": SUMS, "pipes/pass_on.yaml": PASS_ON})
        _rows(rookery, "logs", "4")
        for table in ("sums", "copied", "again"):
            assert rookery.rows(f"SELECT sum(v) FROM {rookery.nest('5')}.{table}") == [(7,)], table
