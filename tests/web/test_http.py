"""HTTP itself: preflight, probes, methods, errors without a route, OpenAPI, timing."""

from __future__ import annotations

import re
import socket
import time
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.support.server import Server
from tests.web.responses import data, refused


def test_probes(server: Server) -> None:
    assert server.get("/live").json() == {"live": True}
    assert server.get("/ready").json() == {"ready": True}


@pytest.mark.parametrize("path", ["/v0/pipes/by_kind.json", "/v0/events?name=events", "/v0/sql"])
def test_preflight(server: Server, path: str) -> None:
    headers = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    response = server.request("OPTIONS", path, headers=headers)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] in ("*", "https://app.example")
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "authorization" in response.headers["access-control-allow-headers"].lower()
    assert int(response.headers["access-control-max-age"]) > 0


def test_browsers_can_read_responses_and_errors(server: Server) -> None:
    origin = {"origin": "https://app.example"}
    for response in (server.get("/v0/pipes/priced.json", server.admin_token, headers=origin), server.get("/v0/sql")):
        if response.request.headers.get("origin"):
            assert response.headers["access-control-allow-origin"] == "*"
            assert "Server-Timing" in response.headers["access-control-expose-headers"]
    bad = server.get("/v0/pipes/priced.json", headers=origin)
    refused(bad, 403)
    assert bad.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in bad.headers


def stages(response: httpx.Response) -> dict[str, float]:
    header = response.headers["server-timing"]
    return {name: float(ms) for name, ms in re.findall(r"([a-z]+);dur=([0-9.]+)", header)}


def test_server_timing(server: Server) -> None:
    assert set(stages(server.get("/v0/pipes/by_kind.json", server.admin_token))) == {"auth", "compose", "query"}
    assert set(stages(server.admin("POST", "/v0/sql", content="SELECT 1"))) == {"auth", "compose", "query"}
    body = '{"owner": "9", "text": "timed"}'
    assert set(stages(server.admin("POST", "/v0/events?name=notes", content=body))) == {"auth", "body", "append"}
    started = time.monotonic()
    stages_taken = stages(server.get("/v0/pipes/many.json?rows=20000", server.admin_token))
    assert 0 < sum(stages_taken.values()) <= (time.monotonic() - started) * 1000


@pytest.mark.parametrize(
    "path", ["/", "/v0", "/v0/", "/v1/pipes", "/v0/pipes/a/b", "/nonesuch", "/v0/sql/x", "/docs", "/%00", "//v0//sql"]
)
def test_unknown_routes(server: Server, path: str) -> None:
    refused(server.get(path), 404, "RK4019")
    refused(server.admin("GET", path), 404, "RK4019")


@pytest.mark.parametrize(
    "method, path",
    [
        ("PUT", "/v0/sql"),
        ("DELETE", "/v0/sql"),
        ("GET", "/v0/events"),
        ("PATCH", "/v0/pipes/by_kind.json"),
        ("PUT", "/v0/tokens"),
        ("GET", "/v0/push"),
        ("POST", "/live"),
    ],
)
def test_wrong_methods(server: Server, method: str, path: str) -> None:
    response = server.admin(method, path)
    refused(response, 405, "RK4020")
    assert response.headers["allow"]


def test_head(server: Server) -> None:
    for path in ("/v0/pipes/by_kind.json", "/v0/sql?q=SELECT+1", "/live", "/ready", "/v0/pipes/many.csv?rows=60000"):
        response, head = server.admin("GET", path), server.admin("HEAD", path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == response.headers["content-type"]
    assert server.request("HEAD", "/v0/pipes/by_kind.json").status_code == 403


def test_very_long_urls(server: Server) -> None:
    long = "x" * 15_000
    assert data(server.admin("GET", f"/v0/pipes/echo.json?text={long}")) == [{"text": long}]
    for path in (f"/{'x' * 15_000}", f"/v0/pipes/{'x' * 15_000}.json", f"/v0/tokens/{'x' * 15_000}"):
        response = server.admin("GET", path)
        refused(response, 404)
        assert len(response.content) < 2000
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port or 0), timeout=30) as connection:
        connection.sendall(f"GET /v0/sql?q={'x' * 200_000} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert re.match(rb"HTTP/1.1 4\d\d ", connection.recv(100))
    assert server.get("/live").status_code == 200


def test_many_parameters(server: Server) -> None:
    few = "&".join(f"p{n}=1" for n in range(900))
    assert data(server.admin("GET", f"/v0/pipes/by_kind.json?{few}")) is not None
    many = "&".join(f"p{n}=1" for n in range(5000))
    refused(server.admin("GET", f"/v0/pipes/by_kind.json?{many}"), 400, "RK4009")
    refused(server.admin("POST", "/v0/pipes/by_kind.json", content=many), 400, "RK4009")
    # Refused without decoding it, whether or not the token is valid.
    for token in (None, "x", server.admin_token):
        refused(server.get("/v0/sql?q=SELECT+1&" + "%=%&" * 1000, token), 400, "RK4009")
    refused(server.get("/v0/sql?" + "%=%&" * 999), 403, "RK4001")


def test_openapi(server: Server) -> None:
    admin: dict[str, Any] = server.admin_json("GET", "/v0/pipes/openapi.json")
    OpenAPIV31SpecValidator(admin).validate()
    assert "/v0/pipes/by_kind.json" in admin["paths"] and "/v0/pipes/fill_daily.json" not in admin["paths"]
    by_kind = admin["paths"]["/v0/pipes/by_kind.json"]["get"]
    parameters = {p["name"]: p for p in by_kind["parameters"]}
    day = parameters["from_day"]["schema"]
    assert (day["type"], day["format"], day["default"]) == ("string", "date", "2000-01-01")
    assert parameters["from_day"]["description"] == "First day"
    assert not parameters["kind"]["required"]
    columns = by_kind["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["data"]["items"]
    assert columns["properties"]["units"] == {"type": ["integer", "string"]}
    declared = {p["name"]: p for p in admin["paths"]["/v0/pipes/through.json"]["get"]["parameters"]}
    assert declared["size"]["schema"]["enum"] == ["small", "large"] and declared["must"]["required"]
    for pipe in ("keyed", "outer_keyed"):
        offered = admin["paths"][f"/v0/pipes/{pipe}.json"]["get"]["parameters"]
        assert [p["name"] for p in offered] == ["output_format_json_quote_64bit_integers"]


@pytest.mark.proves("B12")
def test_openapi_of_a_token(server: Server) -> None:
    token = server.mint("PIPES:READ:by_kind", "PIPES:READ:keyed", tenant="1")
    document = server.get("/v0/pipes/openapi.json", token).json()
    OpenAPIV31SpecValidator(document).validate()
    everybody = {"/live", "/ready", "/v0/pipes/openapi.json", "/docs/errors", "/docs/errors/{code}"}
    assert set(document["paths"]) == {"/v0/pipes/by_kind.json", "/v0/pipes/keyed.json", "/v0/sql", *everybody}
    assert "customer" not in str(document) and "tenant" not in str(document)
    by_query = server.get("/v0/pipes/openapi.json", params={"token": token})
    assert set(by_query.json()["paths"]) == set(document["paths"])
    assert document["servers"] == [{"url": server.url}]
    refused(server.get("/v0/pipes/openapi.json"), 403)
    nothing = server.get("/v0/pipes/openapi.json", server.mint("DATASOURCES:READ:prices")).json()
    assert set(nothing["paths"]) == {"/v0/sql", *everybody}


def test_the_documented_defaults_are_accepted(server: Server) -> None:
    """What OpenAPI offers as default and enum can be sent."""
    document = server.admin_json("GET", "/v0/pipes/openapi.json")
    for path, item in document["paths"].items():
        if not path.endswith(".json") or path.endswith("openapi.json"):
            continue
        given = {}
        for parameter in item["get"]["parameters"]:
            schema = parameter["schema"]
            for value in (schema.get("default"), *schema.get("enum", ())):
                if value is not None:
                    given[parameter["name"]] = ",".join(map(str, value)) if isinstance(value, list) else value
            if parameter["required"]:
                given.setdefault(parameter["name"], "1")
        if path.split("/")[-1] in ("slow.json", "hungry.json"):
            continue
        given |= {"customer": "1"} if "keyed" in path else {}
        response = server.admin("GET", path, params={k: str(v) for k, v in given.items()})
        assert response.status_code == 200 or "breaks" in path, f"{path} {given} {response.text}"
