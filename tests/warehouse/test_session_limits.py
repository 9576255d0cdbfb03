"""Session limits hold for each statement; a statement's own limits hold only for it."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest

from engine.errors import RookeryError
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.port import Format, Statement, WarehouseOptions, limit_settings

pytestmark = pytest.mark.feature

USUAL = limit_settings(seconds=7.5, memory=1 << 30, total_memory=1 << 31, rows=900)
OTHERS = limit_settings(seconds=3.0, memory=1 << 29, total_memory=1 << 30, rows=40_000)


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedWarehouse]:
    path = tmp_path_factory.mktemp("standing") / "data"
    warehouse = EmbeddedWarehouse(path, WarehouseOptions(readers=1, writers=1, database="w_empty"), limits=USUAL)
    yield warehouse
    warehouse.close()


def answer(warehouse: EmbeddedWarehouse, sql: str, settings: dict[str, int | str]) -> list[dict[str, object]]:
    document = b"".join(warehouse.stream(Statement(sql, settings=settings, id="rk_x"), Format.JSON))
    rows: list[dict[str, object]] = orjson.loads(document)["data"]
    return rows


def in_force(warehouse: EmbeddedWarehouse, settings: dict[str, int | str]) -> dict[str, str]:
    """The limits under which a statement with these settings runs."""
    listed = ", ".join(f"toString(getSetting('{name}')) AS {name}" for name in USUAL)
    (row,) = answer(warehouse, f"SELECT {listed}", settings)
    return {name: str(value) for name, value in row.items()}


def spelled(limits: dict[str, int | str]) -> dict[str, str]:
    return {name: str(value).removesuffix(".0") for name, value in limits.items()}


def test_limits_of_a_statement_end_with_it(warehouse: EmbeddedWarehouse) -> None:
    larger_than_whole = {**OTHERS, "max_result_rows": 25_000}
    for settings, expected in ((USUAL, USUAL), (OTHERS, larger_than_whole), (USUAL, USUAL)):
        assert in_force(warehouse, settings) == spelled(expected)
    # A failed statement retires the reader's session; the next one has the limits as well.
    with pytest.raises(RookeryError):
        answer(warehouse, "SELECT throwIf(1)", USUAL)
    assert in_force(warehouse, USUAL) == spelled(USUAL)


def test_session_limits_are_enforced_without_being_written_in_the_statement(warehouse: EmbeddedWarehouse) -> None:
    assert len(answer(warehouse, "SELECT number FROM numbers(900)", USUAL)) == 900
    with pytest.raises(RookeryError):
        answer(warehouse, "SELECT number FROM numbers(901)", USUAL)
    # More than what is taken whole is streamed, under the statement's own limits.
    assert len(answer(warehouse, "SELECT number FROM numbers(30_000)", OTHERS)) == 30_000
    with pytest.raises(RookeryError):
        answer(warehouse, "SELECT number FROM numbers(40_001)", OTHERS)
