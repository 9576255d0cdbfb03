"""Values of rows and of requests never reach the log, whatever fails on them; responses forbid caching."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from engine.private_files import private_file as write_private
from engine.settings import Settings
from tests.support.server import Server, running

CANARY, NUMBER = "canary-of-tenant-1", 7_391_846_215
FILES = {
    "datasources/rows.yaml": """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: note, type: String}
  - {name: number, type: Int64, default: "0"}
  - {name: few, type: Int8, default: "0"}
engine: {sorting_key: [tenant_id]}
""",
    "datasources/sums.yaml": """
tenant: {column: tenant_id, landing: false}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: units, type: Int64}
engine: {type: SummingMergeTree, sorting_key: [tenant_id], columns: [units]}
""",
    "pipes/fill_sums.yaml": """
nodes:
  - name: fill_sums_node
    sql: |
      SELECT tenant_id, sum(toInt64(if(startsWith(note, 'poison'), note, '1'))) AS units FROM rows GROUP BY tenant_id
materialize: {target: sums, per_tenant: true}
""",
    "pipes/broken.yaml": """
nodes:
  - {name: broken_node, sql: "SELECT toInt8(note) AS x FROM rows"}
endpoint: {}
""",
    "pipes/thrown.yaml": """
nodes:
  - {name: thrown_node, sql: "SELECT throwIf(number > 0, 'canary-of-tenant-1') AS x FROM rows"}
endpoint: {}
""",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # Older versions left the directory open.
    home = tmp_path_factory.mktemp("canary")
    (home / ".rookery").mkdir(mode=0o755)
    with running(home) as server:
        server.push(FILES)
        for tenant, placement in (("1", "pooled"), ("2", "tables")):
            server.tenant(tenant, placement)
            server.events("rows", [{"tenant_id": int(tenant), "note": CANARY, "number": NUMBER}])
        yield server


def _logged(server: Server) -> str:
    """The log after a query that failed on a value."""
    token = server.mint("PIPES:READ:broken", tenant="1")
    response = server.get("/v0/pipes/broken.json", token)
    assert response.status_code == 400 and "RK4013" in response.text
    assert CANARY in server.get("/v0/pipes/broken.json", server.admin_token).text
    log = server.log()
    assert "RK4013" in log and "engine code" in log
    return log


def test_the_message_of_a_failed_query_is_logged_at_level_debug(server: Server, tmp_path: Path) -> None:
    """The first test: all rows have the value."""
    assert CANARY not in _logged(server)
    with running(tmp_path, ROOKERY_LOG_LEVEL="debug") as talkative:
        talkative.push(FILES)
        talkative.tenant("1")
        talkative.events("rows", [{"tenant_id": 1, "note": CANARY}])
        assert CANARY in _logged(talkative)


QUERIES = (
    "SELECT toInt8(note) AS x FROM rows",
    "SELECT CAST(note AS Date) AS x FROM rows",
    "SELECT throwIf(number > 0, note) AS x FROM rows",
    "SELECT throwIf(number > 0, 'canary-of-tenant-1') AS x FROM rows",
    "SELECT toDecimal32(number, 9) AS x FROM rows",
    "SELECT JSONExtract(note, note) AS x FROM rows",
    "SELECT match(note, concat('(', note)) AS x FROM rows",
    "SELECT 'canary-of-tenant-1' AS x FROM nonesuch",
    "SELECT 'canary-of-tenant-1",
    "SELECT parseDateTime(note, '%Y') AS x FROM rows",
    "SELECT base64Decode(note) AS x FROM rows",
    "SELECT toFixedString(note, 3) AS x FROM rows",
    "SELECT arrayElement([1], toString(note)) AS x FROM rows",
    "SELECT groupArray(number)[1] + toUInt8(any(note)) AS x FROM rows",
)
BODIES = (
    f'{{"tenant_id": 1, "note": "{CANARY}", "few": {NUMBER}}}',
    f'{{"tenant_id": "{CANARY}", "note": "x"}}',
    f'{{"tenant_id": 2, "note": "{CANARY}"',
    f'[{{"tenant_id": 1, "note": "{CANARY}"}}, {CANARY}]',
    f'{{"tenant_id": 1, "note": "poison {CANARY}"}}',
    f'{{"tenant_id": 2, "note": "poison {CANARY}", "number": {NUMBER}}}',
    CANARY,
)


def test_no_value_is_in_the_log(server: Server) -> None:
    mine = server.mint("DATASOURCES:READ:rows", "PIPES:READ:broken", "PIPES:READ:thrown", tenant="1")
    writer = server.mint("DATASOURCES:APPEND:rows", tenant="1")
    for token in (server.admin_token, mine):
        for n, sql in enumerate(QUERIES):
            with suppress(httpx.HTTPError):
                server.post("/v0/sql", token, content=f"{sql} FORMAT {('JSON', 'CSVWithNames', 'Parquet')[n % 3]}")
        for pipe, suffix in (("broken", "json"), ("thrown", "ndjson")):
            assert server.get(f"/v0/pipes/{pipe}.{suffix}", token).status_code == 400
    for n, body in enumerate(BODIES):
        server.post("/v0/events?name=rows", (server.admin_token, writer)[n % 2], content=body)
    server.post("/v0/events?name=rows", server.admin_token, content=BODIES[-2])
    server.post("/v0/datasources?name=rows&format=csv", writer, content=f"note,few\n{CANARY},{NUMBER}\n")
    server.post("/v0/datasources?name=rows&format=parquet", writer, content=b"PAR1" + CANARY.encode())
    server.admin("POST", "/v0/push", json={"files": [{"name": "a", "file": "a.yaml", "text": f"- {CANARY}: {{"}]})
    server.admin("POST", "/v0/datasources/rows/quarantine/replay")
    log = server.log()
    assert "query failed" in log and "engine code" in log, "failures are logged"
    assert "a view failed" in log, "a view failed on a row"
    assert CANARY not in log and str(NUMBER) not in log, [
        x for x in log.splitlines() if CANARY in x or str(NUMBER) in x
    ]


ADDRESSES = (
    ("GET", "/live", {}),
    ("GET", "/ready", {}),
    ("GET", "/metrics", {}),
    ("GET", "/nonesuch", {}),
    ("BREW", "/v0/sql", {}),
    ("GET", "/v0/sql?q=SELECT+1+AS+x", {}),
    ("GET", "/v0/sql?q=SELECT+x", {}),
    ("GET", "/v0/sql?q=SELECT+number+FROM+numbers(1000000)+FORMAT+JSONEachRow", {}),
    ("GET", "/v0/pipes/broken.json", {}),
    ("GET", "/v0/pipes/openapi.json", {}),
    ("POST", "/v0/events?name=rows", {"content": '{"tenant_id": 1, "note": "a"}'}),
    ("POST", "/v0/events?name=rows", {"content": '{"tenant_id": 1}', "headers": {"origin": "http://a"}}),
    ("POST", "/v0/events?name=nonesuch", {"content": "{}"}),
    ("OPTIONS", "/v0/sql", {"headers": {"origin": "http://a", "access-control-request-method": "GET"}}),
    ("HEAD", "/v0/tenants", {}),
    ("DELETE", "/v0/tenants/9", {}),
)


@pytest.mark.parametrize(("method", "path", "given"), ADDRESSES)
def test_responses_forbid_caching_and_type_sniffing(server: Server, method: str, path: str, given: dict) -> None:
    for token in (server.admin_token, None):
        answer = server.request(method, path, token, **{**given, "headers": dict(given.get("headers", {}))})
        assert answer.headers.get_list("cache-control") == ["no-store"]
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]


def test_the_permissions_of_the_private_directory_are_restored(server: Server, tmp_path: Path) -> None:
    assert stat.S_IMODE((server.directory / ".rookery").stat().st_mode) == 0o700
    assert stat.S_IMODE((server.directory / ".rookery" / "data").stat().st_mode) == 0o700
    # A directory of another name may belong to other programs.
    shared = tmp_path / "srv"
    shared.mkdir()
    shared.chmod(0o755)
    write_private(shared / "admin_token", "x")
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    assert Settings(data=tmp_path / ".rookery" / "data").state_directory.name == ".rookery"
