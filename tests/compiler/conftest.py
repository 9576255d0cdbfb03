"""One workspace for the tests of the compiler."""

from collections.abc import Iterator

import pytest

from engine.workspace.workspace import Workspace
from tests.support.compiling import temporary_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with temporary_workspace(tmp_path_factory.mktemp("compiler")) as workspace:
        yield workspace
