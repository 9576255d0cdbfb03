"""One engine for the tests of isolation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.control import tenants
from engine.ingest.gateway import Gateway
from engine.ingest.staging_pool import StagingPool
from engine.query.executor import Queries
from engine.settings import load
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.port import WarehouseOptions
from engine.workspace.workspace import Workspace
from tests.isolation.five_tenants import FILES, PLACEMENTS, rows_of
from tests.isolation.services import Service
from tests.isolation.two_tenants import Engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(str(tmp_path_factory.mktemp("chdb")))
    yield engine
    engine.client.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The engine in this process with the rows of five tenants, without HTTP."""
    settings = load(data=tmp_path_factory.mktemp("crossing") / "data", workspace="main", readers=2, writers=3)
    warehouse = EmbeddedWarehouse(
        settings.data, WarehouseOptions(readers=2, writers=3, borrow_timeout=30, database=settings.empty_database)
    )
    workspace = Workspace(settings, warehouse)
    try:
        made = Service(workspace, Queries(workspace), Gateway(workspace, StagingPool(workspace)))
        made.push(FILES)
        for tenant, placement in PLACEMENTS.items():
            tenants.add(workspace, [tenant], placement)
        made.append("events", [r for t in PLACEMENTS for r in rows_of(t)])
        yield made
    finally:
        workspace.close()
