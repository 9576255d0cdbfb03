"""Aggregate states come only from pipes: bytes of a sender are never read as a state."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import LANDING_LAYOUT, Problems
from engine.warehouse.port import Input
from tests.support.in_process import open_rookery

PLAIN = """
columns:
  - {name: k, type: UInt32}
  - {name: s, type: "AggregateFunction(uniq, String)"}
  - {name: t, type: "Array(AggregateFunction(sum, UInt64))"}
engine: {type: AggregatingMergeTree, sorting_key: [k], settings: {allow_dimensions_outside_sorting_key: 1}}
"""
LANDING = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: s, type: "AggregateFunction(uniq, String)"}
engine: {type: MergeTree, sorting_key: [tenant_id]}
"""


@pytest.mark.guard
def test_a_sent_state_is_quarantined(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        rookery.push({"datasources/sums.yaml": PLAIN})
        rows = b'{"k": 1}\n{"k": 2, "s": "\\u0001\\u0001abc"}\n{"k": 3, "t": ["\\u0001"]}\n{"k": 4, "s": null}'
        outcome = rookery.gateway.append("sums", rows, Input.NDJSON).result(30)
        assert (outcome.rows, outcome.quarantined) == (2, 2)
        assert sorted(rookery.rows("SELECT k, finalizeAggregation(s), length(t) FROM main.sums")) == [
            (1, 0, 0),
            (4, 0, 0),
        ]


def test_a_landing_datasource_cannot_hold_states(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        with pytest.raises(Problems) as caught:
            rookery.push({"datasources/events.yaml": LANDING})
        assert [p.code for p in caught.value.problems] == [LANDING_LAYOUT]
