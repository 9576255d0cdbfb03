"""One engine for the tests of isolation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.isolation.two_tenants import Engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(str(tmp_path_factory.mktemp("chdb")))
    yield engine
    engine.client.close()
