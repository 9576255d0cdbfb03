"""Files as they are when a project is moved here from another product."""

from __future__ import annotations

import pytest

from tests.support.server import Server

KEYS = """
columns:
  - {{name: day, type: Date}}
  - {{name: kind, type: String}}
  - {{name: units, type: UInt8}}
engine: {{sorting_key: "day, kind, units", primary_key: {primary}, partition_key: {partition}}}
"""


@pytest.mark.parametrize(
    ("primary", "partition"),
    [
        ("'day, kind'", "'toYYYYMM(day), kind'"),
        ("[day, kind]", "[toYYYYMM(day), kind]"),
        ("'(day, kind)'", "'tuple(toYYYYMM(day), kind)'"),
    ],
)
def test_keys_of_several_expressions(inbox: Server, primary: str, partition: str) -> None:
    files = {"datasources/keyed_rows.yaml": KEYS.format(primary=primary, partition=partition)}
    inbox.push(files)
    assert inbox.push(files)["steps"] == []
    inbox.events("keyed_rows", [{"day": "2026-01-01", "kind": "a", "units": 1}])
    assert inbox.sql("SELECT day, kind, units FROM keyed_rows LIMIT 1") == [
        {"day": "2026-01-01", "kind": "a", "units": 1}
    ]
    inbox.admin_json("DELETE", "/v0/datasources/keyed_rows?force=true")
