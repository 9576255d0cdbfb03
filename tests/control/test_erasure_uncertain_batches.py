"""Erasing a tenant while a batch with its rows is uncertain: the batch must not bring them back afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.control import tenants
from engine.errors import IN_DOUBT, RookeryError
from engine.fanout.kept_rows import KEEPS_NOTHING, KeptBatch
from engine.fanout.uncertain_batches import uncertain_batches_of
from tests.support.in_process import Rookery, open_rookery

EVENTS = """
tenant: tenant_id
columns: [{name: tenant_id, type: UInt32}, {name: n, type: Int64}]
engine: {sorting_key: [tenant_id]}
"""


def _uncertain(rookery: Rookery, table: str) -> list[str]:
    """Add a batch with a row of tenants 1 and 2 each, to be inserted from its stage. Returns what was released."""
    released: list[str] = []
    rows = "(SELECT arrayJoin([1, 2])::UInt32 AS tenant_id, 5::Int64 AS n)"
    kept = KeptBatch(
        "events",
        "g:uncertain",
        (("tenant_id", "UInt32"), ("n", "Int64")),
        KEEPS_NOTHING,
        "tenant_id, n",
        f"{rows} WHERE 1 IN (SELECT 1 FROM {table})",
        lambda: released.append("stage"),
    )
    uncertain_batches_of(rookery.workspace).add("events", "g:uncertain", "a failed write", kept)
    return released


def test_rows_of_an_uncertain_batch_do_not_come_back_after_a_purge(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        rookery.push({"datasources/events.yaml": EVENTS})
        rookery.add("1", "2", placement="pooled")
        rookery.append([{"tenant_id": 1, "n": 1}, {"tenant_id": 2, "n": 1}])
        released = _uncertain(rookery, "system.one")
        tenants.remove(rookery.workspace, "1", purge=True)
        uncertain_batches_of(rookery.workspace).complete_all()
        assert rookery.rows("SELECT tenant_id, sum(n) FROM main.events GROUP BY tenant_id") == [(2, 6)]
        assert released == ["stage"]


def test_a_purge_waits_for_a_batch_that_cannot_be_completed(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        rookery.push({"datasources/events.yaml": EVENTS})
        rookery.add("1", "2", placement="pooled")
        rookery.append([{"tenant_id": 1, "n": 1}])
        _uncertain(rookery, "main.missing")
        with pytest.raises(RookeryError) as caught:
            tenants.remove(rookery.workspace, "1", purge=True)
        assert caught.value.code is IN_DOUBT
        assert "1" in rookery.workspace.current.tenants
        assert rookery.rows("SELECT count() FROM main.events") == [(1,)]
        rookery.run("CREATE VIEW main.missing AS SELECT 1 AS `1`")
        tenants.remove(rookery.workspace, "1", purge=True)
        assert rookery.rows("SELECT tenant_id, n FROM main.events") == [(2, 5)]
        rookery.run("DROP VIEW main.missing")
