"""Keys and indexes can use columns that have the names of refused functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import RookeryError
from tests.support.in_process import open_rookery

EVENTS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: user, type: String}
  - {name: schema, type: LowCardinality(String)}
  - {name: database, type: String}
engine: {sorting_key: [tenant_id, user, "`schema`"], primary_key: tenant_id}
indexes:
  - {name: by_database, expression: database, type: bloom_filter(0.01)}
"""
LATEST = """
sql: SELECT tenant_id, user, count() AS n FROM events GROUP BY tenant_id, user
materialize: {target: latest, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id, user], columns: [n]}}
"""


def test_keys_and_indexes_can_use_columns_named_like_functions(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        rookery.push({"datasources/events.yaml": EVENTS, "pipes/fill.yaml": LATEST})
        rookery.add("1")
        rows = [{"tenant_id": 1, "user": u, "schema": "s", "database": "d"} for u in ("zoe", "ann", "zoe")]
        assert rookery.append(rows).rows == 3
        sums = rookery.rows(f"SELECT user, sum(n) FROM {rookery.nest('1')}.latest GROUP BY user ORDER BY user")
        assert sums == [("ann", 1), ("zoe", 2)]
        for key in ("upper(user)", "user()"):
            with pytest.raises(RookeryError, match="RK2003"):
                rookery.push({"datasources/other.yaml": EVENTS.replace('user, "`schema`"', f'"{key}"')})
