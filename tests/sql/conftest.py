"""One workspace for the tests of the SQL allow-list, which use the engine's parser."""

from collections.abc import Iterator

import pytest

from engine.workspace.workspace import Workspace
from tests.support.compiling import temporary_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with temporary_workspace(tmp_path_factory.mktemp("sql")) as workspace:
        yield workspace
