"""Commands with narrow tokens: each program's token is sufficient for its commands, and for no others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Cli, for_server
from tests.support.server import Server, running

pytestmark = pytest.mark.feature

FILES = {
    "datasources/events.yaml": "tenant: t\ncolumns: [{name: t, type: UInt32}]\nengine: {sorting_key: [t]}\n",
    "pipes/usage.yaml": "sql: SELECT count() AS n FROM events\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("narrow")) as server:
        server.push(FILES)
        server.tenant("1")
        server.events("events", [{"t": 1}, {"t": 2}])
        yield server


@pytest.fixture
def admin(server: Server, tmp_path: Path) -> Cli:
    cli = for_server(server, tmp_path)
    cli.write(FILES)
    return cli


def with_scopes(server: Server, admin: Cli, *scopes: str) -> Cli:
    """The command line with a static token of these scopes."""
    options = [o for s in scopes for o in ("--scope", s)]
    token = admin("token", "create", "+".join(scopes), *options).out.strip()
    return Cli(admin.directory, {"ROOKERY_URL": server.url, "ROOKERY_TOKEN": token})


def refused(cli: Cli, *arguments: str) -> None:
    assert "RK4003" in cli(*arguments, code=5).err


def test_deploy(server: Server, admin: Cli) -> None:
    ci = with_scopes(server, admin, "DEPLOY")
    assert ci("push").code == 0
    ci.write({"pipes/second.yaml": "sql: SELECT 2 AS two\n"})
    ci("plan", code=3)
    assert ci("push", "--dry-run").code == 0
    assert "second" in ci("push").text
    assert "second" in ci("pipe", "ls").out
    assert "tenant: t" in ci("datasource", "show", "events").out
    assert ci("pipe", "rm", "second").code == 0
    for arguments in (["sql", "SELECT 1"], ["get", "usage"], ["tenant", "ls"], ["token", "ls"], ["token", "key"]):
        refused(ci, *arguments)


def test_manage_tenants(server: Server, admin: Cli) -> None:
    signup = with_scopes(server, admin, "TENANTS:MANAGE")
    signup("tenant", "add", "7")
    signup("tenant", "add", "8", "--placement", "tables")
    assert {"1", "7", "8"} <= {t["id"] for t in signup("tenant", "ls", "--json").json}
    assert signup("tenant", "show", "8").code == 0
    refused(signup, "tenant", "rm", "8", "--purge")
    signup("tenant", "rm", "8")
    signup("tenant", "rm", "7")
    for arguments in (["push"], ["sql", "SELECT 1"], ["token", "ls"], ["datasource", "ls"]):
        refused(signup, *arguments)


def test_sign_up_with_one_token(server: Server, admin: Cli) -> None:
    backend = with_scopes(server, admin, "TENANTS:MANAGE", "TOKENS:MINT", "PIPES:READ:usage")
    backend("tenant", "add", "2")
    token = backend("token", "mint", "customer 2", "--scope", "PIPES:READ:usage", "--tenant", "2").out.strip()
    customer = Cli(admin.directory, {"ROOKERY_URL": server.url, "ROOKERY_TOKEN": token})
    assert customer("get", "usage", "--json").json["data"] == [{"n": 1}]
    refused(backend, "token", "mint", "x", "--scope", "DATASOURCES:READ:events", "--tenant", "2")
    refused(backend, "token", "create", "x", "--scope", "ADMIN")
    refused(backend, "token", "create", "x", "--scope", "DEPLOY")
    refused(backend, "token", "key")
    assert "admin token" not in backend("token", "ls").out
    backend("token", "create", "static 2", "--scope", "PIPES:READ:usage", "--tenant", "2")
    assert "static 2" in backend("token", "ls").out
    backend("token", "refresh", "static 2")
    backend("token", "rm", "static 2")
    assert "RK4017" in backend("token", "show", "static 2", code=7).err


def test_read_all(server: Server, admin: Cli) -> None:
    reports = with_scopes(server, admin, "READ:ALL")
    assert reports("sql", "SELECT count() AS n FROM events", "--json").json["data"] == [{"n": 2}]
    assert reports("get", "usage", "--tenant", "1", "--json").json["data"] == [{"n": 1}]
    for arguments in (["push"], ["tenant", "ls"], ["token", "ls"], ["datasource", "ls"], ["doctor"]):
        refused(reports, *arguments)


@pytest.mark.parametrize("scope", ["METRICS:READ", "READ:ALL", "DEPLOY", "PIPES:READ:usage"])
def test_auth_stores_any_valid_token(server: Server, admin: Cli, tmp_path: Path, scope: str) -> None:
    token = with_scopes(server, admin, scope).environment["ROOKERY_TOKEN"]
    cli = Cli(tmp_path, {})
    stored = cli("auth", "--url", server.url, "--token", token, "--json")
    assert stored.json["workspace"] == ("main" if scope == "DEPLOY" else None)
    assert json.loads(Path(stored.json["file"]).read_text())["token"] == token


def test_auth_refuses_an_invalid_token(server: Server, tmp_path: Path) -> None:
    assert "RK4002" in Cli(tmp_path, {})("auth", "--url", server.url, "--token", "wrong", code=5).err
