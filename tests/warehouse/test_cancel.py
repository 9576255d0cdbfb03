"""A statement that runs can be cancelled by its id, on both adapters."""

from __future__ import annotations

import threading
import time

import pytest

from engine.errors import CANCELLED, RookeryError
from engine.warehouse.port import Format, Statement, Warehouse

pytestmark = pytest.mark.feature

LONG = "SELECT max(cityHash64(number, 1)) AS x FROM numbers(200000000000)"


@pytest.mark.parametrize("format", [Format.JSON, Format.NDJSON])
def test_a_statement_is_canceled_by_its_id(warehouse: Warehouse, format: Format) -> None:
    errors_raised: list[RookeryError] = []

    def run() -> None:
        stream = warehouse.stream(Statement(LONG, settings={"max_execution_time": 100}, id="rk_this"), format)
        try:
            list(stream)
        except RookeryError as exc:
            errors_raised.append(exc)
        finally:
            stream.close()

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(200):
        warehouse.cancel("rk_another")
        warehouse.cancel("rk_this")
        if not thread.is_alive():
            break
        time.sleep(0.05)
    thread.join()
    assert [exc.code for exc in errors_raised] == [CANCELLED]


def test_a_backup_does_not_keep_statements_from_being_canceled(warehouse: Warehouse) -> None:
    with warehouse.frozen():
        thread = threading.Thread(target=warehouse.cancel, args=("rk_x",))
        thread.start()
        thread.join(20)
        assert not thread.is_alive()


def test_canceling_an_unknown_statement_is_allowed(warehouse: Warehouse) -> None:
    warehouse.cancel("rk_nothing' OR 1 = 1 --")
    assert list(warehouse.stream(Statement("SELECT 1 AS x", id="rk_x"), Format.NDJSON)) == [b'{"x":1}\n']
