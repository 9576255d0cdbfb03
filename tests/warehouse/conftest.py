"""The warehouses under test: one suite for both adapters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.port import Warehouse, WarehouseOptions
from tests.support.warehouses import EMPTY, READERS, Server, clickhouse_server, fresh


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with clickhouse_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedWarehouse]:
    warehouse = EmbeddedWarehouse(
        tmp_path_factory.mktemp("embedded"), WarehouseOptions(readers=READERS, writers=3, database=EMPTY)
    )
    yield warehouse
    warehouse.close()


@pytest.fixture(scope="module", params=["embedded", "server"])
def warehouse(request: pytest.FixtureRequest) -> Iterator[Warehouse]:
    opened: Warehouse
    opened = (
        request.getfixturevalue("embedded")
        if request.param == "embedded"
        else request.getfixturevalue("server").open()
    )
    with fresh(opened):
        yield opened
    if request.param == "server":
        opened.close()
