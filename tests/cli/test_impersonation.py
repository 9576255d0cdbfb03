"""Running queries as a tenant: the id after --tenant selects exactly that tenant, whatever its characters."""

from __future__ import annotations

from pathlib import Path

from tests.cli.commands import for_server
from tests.support.server import Server
from tests.web.responses import refused

EVENTS = "tenant: t\ncolumns: [{name: t, type: String}]\nengine: {sorting_key: [t]}\n"
IDS = ("\u00e9", "\u00c3\u00a9", "ant", "ant ", " ant")
"""The second is the first in UTF-8, read as Latin-1."""


def test_an_id_selects_its_tenant_or_none(shared_server: Server, tmp_path: Path) -> None:
    server, cli = shared_server, for_server(shared_server, tmp_path)
    server.push({"datasources/events.yaml": EVENTS, "pipes/whose.yaml": "sql: SELECT t FROM events\n"})
    for tenant in IDS:
        server.tenant(tenant)
    server.events("events", [{"t": tenant} for tenant in IDS])
    for tenant in IDS[:3]:
        assert cli("sql", "SELECT t FROM events", "--tenant", tenant, "--json").json["data"] == [{"t": tenant}]
        assert cli("get", "whose", "--tenant", tenant, "--json").json["data"] == [{"t": tenant}]
    for tenant in IDS[3:]:
        assert "RK7002" in cli("sql", "SELECT t FROM events", "--tenant", tenant, code=2).err
    assert "RK7002" in cli("sql", "SELECT t FROM events", "--tenant", "", code=2).err
    latin = {"x-rookery-tenant": "\u00e9".encode("latin-1")}
    refused(server.admin("GET", "/v0/pipes/whose.json", headers=latin), 400, "RK4009")
