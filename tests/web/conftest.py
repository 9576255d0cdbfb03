"""Servers that the web tests share: each is a process of its own, filled once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.server import Server, running
from tests.web.project import fill

MAX_BODY = 200_000


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A filled server whose rows no test changes."""
    with running(tmp_path_factory.mktemp("web")) as found:
        fill(found)
        yield found


@pytest.fixture(scope="session")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A filled server that takes rows, in bodies of bounded size."""
    with running(tmp_path_factory.mktemp("inbox"), ROOKERY_MAX_BODY=MAX_BODY) as found:
        fill(found)
        yield found


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A filled server with two readers and low limits."""
    settings = {
        "READERS": 2,
        "WRITERS": 2,
        "MAX_CONCURRENT": 3,
        "MAX_ROWS": 5_000_000,
        "BORROW_TIMEOUT": 10,
        "READERS_PER_CALLER": 2,
    }
    environment = {f"ROOKERY_{k}": v for k, v in settings.items()}
    with running(tmp_path_factory.mktemp("narrow"), **environment) as found:
        fill(found)
        yield found
