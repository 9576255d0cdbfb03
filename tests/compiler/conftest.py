"""One workspace for the tests of the compiler."""

from collections.abc import Iterator

import pytest

from engine.workspace.workspace import Workspace
from tests.support.compiling import a_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with a_workspace(tmp_path_factory.mktemp("compiler")) as found:
        yield found
