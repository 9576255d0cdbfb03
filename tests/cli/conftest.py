"""Shared by the tests of the command line: the forking process that spares commands their start-up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forking import forker
from tests.support.server import Server, running


@pytest.fixture(scope="session")
def forked() -> Path:
    """A directory with a `rookery` that starts at once."""
    return forker()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own."""
    with running(tmp_path / "server") as server:
        yield server


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the file's own."""
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server
