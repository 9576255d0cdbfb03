"""Two tools that know nothing of this code: `schemathesis` holds the server to its OpenAPI document, route by route, and
`overstep` tries what each caller should be refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from engine.settings import Settings
from engine.web.app import create_app
from tests.support.server import Server, running
from tests.support.soak import soak_rounds, soaking

EXAMPLES = soak_rounds(1)
PHASES = "coverage,stateful" if not soaking() else "examples,coverage,fuzzing,stateful"
FILES = {
    "datasources/events.yaml": """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: note, type: String, default: "''"}
  - {name: units, type: Int64, default: "1"}
engine: {sorting_key: [tenant_id]}
""",
    "pipes/typed.yaml": """
nodes:
  - name: typed_node
    sql: |
      %
      SELECT {{ Int8(small, 1) }} AS small, {{ Date(day, '2026-01-01') }} AS day,
        {{ Array(list, 'Int32', '1,2') }} AS list, {{ Float64(ratio, 0.5) }} AS ratio,
        {{ Boolean(flag, False) }} AS flag, sum(units) AS units, max(note) AS note FROM events
endpoint: {}
""",
    "pipes/notes.yaml": "nodes: [{name: notes_node, sql: SELECT note FROM events}]\nendpoint: {}\n",
}
# A body that fits the document may still be refused: a name that is not there, a text that is no YAML or no SQL.
CONFIGURATION = """
[checks]
positive_data_acceptance.expected-statuses = [200, 201, 202, 204, 400, 403, 404, 409, 415, 422]
negative_data_rejection.expected-statuses = [400, 403, 404, 405, 409, 413, 414, 415, 422, 431]
"""
# Outside the soak tier, one method that a path does not have.
ONE_METHOD = """
[phases.coverage]
unexpected-methods = ["PATCH"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("tools")) as server:
        server.push(FILES)
        for tenant in ("1", "2"):
            server.tenant(tenant)
            server.events("events", [{"tenant_id": int(tenant), "note": f"note-of-{tenant}"}])
        yield server


class _Nothing:
    settings = Settings()


def test_every_route_is_in_openapi(server: Server) -> None:
    document = server.admin_json("GET", "/v0/pipes/openapi.json")
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    for route in create_app(_Nothing()).routes:  # type: ignore[arg-type]
        assert isinstance(route, Route)
        path = re.sub(r":\w+\}", "}", route.path).rstrip("/")
        # A call without a format is always refused, so it is not described.
        path = path.replace("{name}.{format}", "typed.json").replace("{name}.", "typed.json")
        missing = {(m, path) for m in (route.methods or set()) - {"HEAD"}} - described
        assert not missing
    for kinds, path in (("PIPES:READ:typed", "/v0/sql"), ("DATASOURCES:APPEND:events", "/v0/events")):
        paths = server.get("/v0/pipes/openapi.json", server.mint(kinds)).json()["paths"]
        assert path in paths and "/v0/push" not in paths


def test_openapi_describes_requests_and_responses(server: Server) -> None:
    paths = server.admin_json("GET", "/v0/pipes/openapi.json")["paths"]
    called = paths["/v0/pipes/typed.json"]
    small = next(p for p in called["get"]["parameters"] if p["name"] == "small")
    assert (small["schema"]["minimum"], small["schema"]["maximum"]) == (-128, 127)
    body = called["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"small", "day", "list", "ratio", "flag"} == set(body["properties"])
    for operation in called.values():
        assert {"200", "400", "403", "404", "408", "415", "429", "503"} <= set(operation["responses"])
        row = operation["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["data"]["items"]
        assert set(row["required"]) == {"small", "day", "list", "ratio", "flag", "units", "note"}


@pytest.mark.feature
@pytest.mark.soak
def test_schemathesis_finds_nothing(server: Server, tmp_path: Path) -> None:
    # The document's own address is read, and not tried.
    operations = sum(len(m) for m in server.admin_json("GET", "/v0/pipes/openapi.json")["paths"].values()) - 1
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION if soaking() else CONFIGURATION + ONE_METHOD)
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    command += ["--config-file", str(configuration), "run", f"{server.url}/v0/pipes/openapi.json"]
    command += ["-H", f"Authorization: Bearer {server.admin_token}", "--seed", "1", "--no-shrink", "--workers", "1"]
    command += ["--max-examples", str(EXAMPLES), "--phases", PHASES]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(rf"Tested: {operations}\b", done.stdout), done.stdout[-3000:]
    log = server.log()
    assert not re.search(r"\] bug\b", log) and "Traceback" not in log, log[-3000:]


ADMIN_ONLY = (
    "/metrics",
    "/v0/workspace",
    "/v0/fanout",
    "/v0/doctor",
    "/v0/tenants",
    "/v0/tenants/1",
    "/v0/tokens",
    "/v0/signing-key",
    "/v0/datasources",
    "/v0/datasources/events",
    "/v0/datasources/events/quarantine",
    "/v0/pipes",
    "/v0/pipes/typed",
)


def _matrix(server: Server) -> dict[str, Any]:
    """Who may do what: tenants see the receipts of their own appends, and control nothing."""
    resources: list[dict[str, Any]] = [
        {
            "name": "receipt",
            "request": {"method": "GET", "path": "/v0/events/{key}"},
            "type": "object",
            "owner": "key",
            "owner_attr": "key",
        },
        {"name": "notes", "request": {"method": "GET", "path": "/v0/pipes/notes.json"}, "type": "function"},
    ]
    policy: dict[str, Any] = {
        "receipt": {"allow": [{"role": "user", "scope": "own"}, {"role": "admin", "scope": "any"}]},
        "notes": {"allow": [{"role": "user"}, {"role": "admin"}]},
    }
    for n, path in enumerate(ADMIN_ONLY):
        resources.append({"name": f"control_{n}", "request": {"method": "GET", "path": path}, "type": "function"})
        policy[f"control_{n}"] = {"allow": [{"role": "admin"}]}
    subjects: list[dict[str, Any]] = [{"name": "anon", "role": "anonymous", "token": None}]
    for tenant, name in (("1", "alice"), ("2", "bob")):
        token = server.mint("PIPES:READ:notes", "DATASOURCES:APPEND:events", tenant=tenant, name=name)
        headers = {"idempotency-key": f"key-of-{name}"}
        body = json.dumps({"note": f"note-of-{tenant}"})
        assert server.post("/v0/events?name=events", token, content=body, headers=headers).status_code == 202
        key = {"key": f"key-of-{name}"}
        subjects.append(
            {"name": name, "role": "user", "token": token, "marker": f"note-of-{tenant}", "attributes": key}
        )
    subjects.append(
        {"name": "root", "role": "admin", "token": server.admin_token, "attributes": {"key": "key-of-root"}}
    )
    server.admin(
        "POST",
        "/v0/events?name=events",
        content='{"tenant_id": 1, "note": "x"}',
        headers={"idempotency-key": "key-of-root"},
    )
    return {
        "roles": ["anonymous", "user", "admin"],
        "modules": {"rest": {"base_url": server.url}},
        "subjects": subjects,
        "resources": resources,
        "policy": policy,
    }


@pytest.mark.feature
def test_overstep_finds_nothing(server: Server, tmp_path: Path) -> None:
    matrix = tmp_path / "matrix.yaml"
    # JSON is YAML.
    matrix.write_text(json.dumps(_matrix(server)))
    done = subprocess.run(
        [sys.executable, "-m", "overstep", "run", str(matrix), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OVERSTEP_NO_HINTS": "1", "NO_PROXY": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    document = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert not document.get("findings"), document
