"""How many statements commands send to the engine, each of which takes 2 to 4 ms."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.warehouse.embedded import EmbeddedWarehouse
from tests.support.in_process import open_rookery

EVENTS = """
columns:
  - {name: tenant_id, type: UInt32}
  - {name: n, type: Int64}
engine: {sorting_key: [tenant_id]}
"""
TARGET = "columns: [{name: n, type: Int64}]\nengine: {sorting_key: [n]}\n"
PIPE = "materialize: {target: TARGET}\nnodes:\n  - {name: node, sql: SELECT n FROM events WHERE tenant_id = 1}\n"


@pytest.mark.feature
def test_commands_send_few_statements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with counting(monkeypatch) as statements, open_rookery(tmp_path) as rookery:

        def sent() -> int:
            number = len(statements)
            statements.clear()
            return number

        opened = sent()
        rookery.push({"datasources/events.yaml": EVENTS})
        first = sent()
        for name in ("one", "two"):
            rookery.push(
                {f"datasources/{name}.yaml": TARGET, f"pipes/fill_{name}.yaml": PIPE.replace("TARGET", name)}
            )
            filled = sent()
        rookery.push({})
        unchanged = sent()
        rookery.add("1", placement="pooled")
        pooled = sent()
        rookery.add("2")
        added = sent()
    assert opened <= 21
    assert first <= 33
    assert filled <= 37
    assert unchanged <= 16
    assert pooled <= 22
    assert added <= 22


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The statements of this thread and of those that work for it, not those of workers."""
    statements: list[str] = []
    here = threading.current_thread()
    for name in ("query", "execute", "insert"):
        original = getattr(EmbeddedWarehouse, name)

        def counted(self: Any, text: str, *args: Any, _original: Any = original, **more: Any) -> Any:
            if threading.current_thread() is here:
                statements.append(text)
            return _original(self, text, *args, **more)

        monkeypatch.setattr(EmbeddedWarehouse, name, counted)
    yield statements
