"""Texts in Parquet files that become objects."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.ingest.formats.nested_lists import MAX_LIST_DEPTH
from tests.support.server import Server


def _lists(depth: int) -> str:
    return "[1," * (depth - 1) + "[1]" + "]" * (depth - 1)


OBJECTS = """
columns:
  - {name: id, type: UInt32}
  - {name: own, type: JSON}
  - {name: at, type: "JSON(max_dynamic_paths = 8)", json: $.o.text}
  - {name: many, type: "Array(JSON)"}
  - {name: named, type: "Map(String, JSON)"}
engine: {sorting_key: [id]}
"""
DEEP_TEXTS = {
    "own": pa.string(),
    "own as bytes": pa.large_binary(),
    "o": pa.struct([("text", pa.string())]),
    "many": pa.list_(pa.string()),
    "named": pa.map_(pa.string(), pa.string()),
}


@pytest.mark.parametrize("name", DEEP_TEXTS)
def test_texts_with_deeply_nested_lists_are_refused(inbox: Server, name: str) -> None:
    """The engine cannot be interrupted while it finds their type."""
    inbox.push({"datasources/objects.yaml": OBJECTS})
    type, statuses = DEEP_TEXTS[name], {}
    for depth in (MAX_LIST_DEPTH, MAX_LIST_DEPTH + 1):
        text: Any = f'{{"a": {_lists(depth)}}}'
        value = {"o": {"text": text}, "many": [text], "named": [("k", text)]}.get(name, text)
        value = value.encode() if type == pa.large_binary() else value
        sink = io.BytesIO()
        rows = {"id": pa.array([1], pa.uint32()), name.partition(" ")[0]: pa.array([value], type)}
        pq.write_table(pa.table(rows), sink)
        given = {"mode": "append", "name": "objects", "format": "parquet"}
        answer = inbox.admin("POST", "/v0/datasources", params=given, content=sink.getvalue())
        statuses[depth] = answer.json().get("code", answer.json().get("rows"))
    assert statuses == {MAX_LIST_DEPTH: 1, MAX_LIST_DEPTH + 1: "RK5001"}
