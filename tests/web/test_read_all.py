"""A token with READ:ALL reads exactly what an admin reads, and can change nothing."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.server import Server
from tests.web.project import FILES
from tests.web.responses import refused

pytestmark = pytest.mark.feature

ENDPOINTS = sorted(f.removeprefix("pipes/").removesuffix(".yaml") for f in FILES if f.startswith("pipes/"))
PARAMETERS: dict[str, list[dict[str, str]]] = {
    "by_kind": [{"kind": "view"}, {"from_day": "2026-01-02"}, {"from_day": "yesterday"}, {"unknown": "1"}],
    "keyed": [{"customer": "1"}, {"customer": "2"}],
    "outer_keyed": [{"customer": "1"}],
    "echo": [{"text": "x"}],
    "declared": [{"must": "x"}],
    "through": [{"must": "x"}],
    "breaks": [{"bad": "3"}],
    "divided": [{"by": "0"}],
    "picky": [{"teapot": "1"}, {"days": "99"}],
}
# These stop at limits of time or memory, or send many rows.
SKIPPED = {"slow", "hungry"}
QUERIES = [
    "SELECT * FROM events ORDER BY note",
    "SELECT tenant_id, count() AS n FROM events GROUP BY tenant_id ORDER BY tenant_id",
    "SELECT * FROM daily ORDER BY ALL",
    "SELECT * FROM daily FINAL ORDER BY ALL",
    "SELECT * FROM notes ORDER BY ALL",
    "SELECT * FROM prices FINAL ORDER BY ALL",
    "SELECT * FROM payroll",
    "SELECT * FROM by_kind ORDER BY ALL",
    "SELECT e.note, d.units FROM events AS e JOIN daily AS d ON e.kind = d.kind ORDER BY ALL",
    "SELECT throwIf(units = 6000, 'found') FROM events",
    "SELECT no_such_column FROM events",
    "SELECT * FROM no_such_table",
    "SELECT * FROM system.tables",
    "SELECT * FROM main.events",
    "INSERT INTO payroll VALUES ('x')",
    "DROP TABLE events",
    "SELEC 1",
]
TENANTS = [None, "1", "2", "3", "4711", "x"]


@pytest.fixture(scope="module", params=["static", pytest.param("JWT", marks=pytest.mark.soak_only)])
def reader(server: Server, request: pytest.FixtureRequest) -> str:
    return server.mint("READ:ALL") if request.param == "JWT" else server.static("reports", "READ:ALL")


def comparable(response: httpx.Response) -> tuple[int, Any]:
    """The status and the body of a response, without its time and its id."""
    if response.headers["content-type"].startswith("application/json"):
        body = response.json()
        body.get("statistics", {}).pop("elapsed", None)
        body.pop("request_id", None)
        return response.status_code, body
    return response.status_code, response.content


def compared(server: Server, reader: str, method: str, path: str, **kwargs: Any) -> httpx.Response:
    own = server.request(method, path, reader, **kwargs)
    admin = server.request(method, path, server.admin_token, **kwargs)
    assert comparable(own) == comparable(admin), (path, kwargs)
    return own


@pytest.mark.parametrize("tenant", TENANTS, ids=str)
def test_it_reads_what_an_admin_reads(server: Server, reader: str, tenant: str | None) -> None:
    headers = {"x-rookery-tenant": tenant} if tenant else {}
    succeeded = 0
    for name in ENDPOINTS:
        for params in [{}, *PARAMETERS.get(name, [])] if name not in SKIPPED else []:
            response = compared(server, reader, "GET", f"/v0/pipes/{name}.json", params=params, headers=headers)
            succeeded += response.status_code == 200
    for query in QUERIES:
        response = compared(server, reader, "POST", "/v0/sql", content=query, headers=headers)
        succeeded += response.status_code == 200
    assert succeeded > 20 or tenant in ("3", "4711", "x")


@pytest.mark.parametrize("format", ["csv", "ndjson", "parquet"])
def test_it_reads_in_every_format(server: Server, reader: str, format: str) -> None:
    assert compared(server, reader, "GET", f"/v0/pipes/by_kind.{format}").status_code == 200


def test_it_reads_the_rows_of_every_tenant_and_placement(server: Server, reader: str) -> None:
    notes = {r["note"] for r in server.sql("SELECT note FROM events", reader)}
    assert {"one-a", "two-a", "three-a"} <= notes
    kinds = {r["kind"] for r in server.get("/v0/pipes/by_kind.json", reader).json()["data"]}
    assert {"sale", "rent"} <= kinds


def test_it_changes_nothing(server: Server, reader: str) -> None:
    before = server.sql("SELECT count() AS n FROM events")
    for method, path in [
        ("POST", "/v0/events?name=events"),
        ("POST", "/v0/datasources?name=events"),
        ("POST", "/v0/datasources?name=events&mode=replace"),
        ("DELETE", "/v0/datasources/events"),
        ("DELETE", "/v0/pipes/by_kind"),
        ("POST", "/v0/push"),
        ("POST", "/v0/tenants"),
        ("POST", "/v0/tokens"),
        ("GET", "/v0/datasources/events/quarantine"),
    ]:
        refused(server.request(method, path, reader, content=b'{"tenant_id": 1}'), 403, "RK4003")
    assert server.sql("SELECT count() AS n FROM events") == before
