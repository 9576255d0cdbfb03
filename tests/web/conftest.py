"""Servers that the web tests share: each is a process of its own, filled once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.server import Server, running, running_copy
from tests.web import access_log
from tests.web.inbox import DATASOURCES, Send, count
from tests.web.project import fill

MAX_BODY = 200_000


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a server that was filled, and ended."""
    directory = tmp_path_factory.mktemp("filled")
    with running(directory) as server:
        fill(server)
    return directory


@pytest.fixture(scope="session")
def server(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A filled server whose rows no test changes."""
    with running_copy(filled, tmp_path_factory.mktemp("web")) as server:
        yield server


@pytest.fixture(scope="session")
def inbox(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A filled server that takes rows, in bodies of bounded size."""
    with running_copy(filled, tmp_path_factory.mktemp("inbox"), ROOKERY_MAX_BODY=MAX_BODY) as server:
        yield server


@pytest.fixture(scope="session")
def narrow(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
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
    with running_copy(filled, tmp_path_factory.mktemp("narrow"), **environment) as server:
        yield server


@pytest.fixture(scope="session")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server behind a trusted proxy whose access log and metrics are read."""
    settings = {"ROOKERY_TRUSTED_PROXIES": "127.0.0.0/8, ::1", "ROOKERY_MAX_HEADER_BYTES": 4096}
    with running(tmp_path_factory.mktemp("access"), **settings) as server:
        server.push(access_log.FILES)
        server.tenant("1")
        server.events("events", [{"tenant_id": 1, "note": f"note {n}"} for n in range(6)])
        yield server


@pytest.fixture(scope="session")
def mints(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A filled server whose tokens and tenants the tests of minting may change."""
    with running_copy(filled, tmp_path_factory.mktemp("minting")) as server:
        yield server


@pytest.fixture(scope="session")
def secret(server: Server) -> str:
    """The signing key of `server`."""
    return str(server.admin_json("GET", "/v0/signing-key")["secret"])


@pytest.fixture
def send(inbox: Server) -> Iterator[Send]:
    """Post to /v0/events as admin; the response's counts are exact, and a refused request stored nothing."""

    def post(body: str | bytes, name: str = "events", token: str | None = None, **params: str) -> httpx.Response:
        own = [name] if name in DATASOURCES else []
        before = count(inbox, *own)
        query = {"name": name, "wait": "true", **params}
        response = inbox.post("/v0/events", token or inbox.admin_token, params=query, content=body)
        after = count(inbox, *own)
        if response.status_code >= 400:
            assert after == before
        else:
            counts = response.json()
            assert sum(after[:4]) - sum(before[:4]) == counts["successful_rows"]
            assert sum(after[4:]) - sum(before[4:]) == counts["quarantined_rows"]
        return response

    yield post
