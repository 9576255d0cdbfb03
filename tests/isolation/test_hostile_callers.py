"""Attacks of one caller on others with unusual requests, over HTTP against a real server."""

from __future__ import annotations

import gzip
import json
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from tests.support.server import Server, running

MIB = 1 << 20
PATIENCE = 30.0
FILES = {
    "datasources/events.yaml": """
tenant: tenant
columns:
  - {name: tenant, type: String}
  - {name: k, type: Int64}
  - {name: kind, type: LowCardinality(String)}
engine: {sorting_key: [tenant, k]}
""",
    "datasources/prices.yaml": """
columns:
  - {name: kind, type: String}
  - {name: price, type: Int64}
engine: {sorting_key: [kind]}
""",
    "pipes/one.yaml": "sql: SELECT 1 AS one\n",
}
READS = ("DATASOURCES:READ:events", "DATASOURCES:READ:prices", "DATASOURCES:APPEND:events", "PIPES:READ:one")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("hostile")
    with running(directory, ROOKERY_MAX_WAITING=8 * MIB, ROOKERY_MAX_BODY=2 * MIB) as server:
        server.push(FILES)
        for tenant in ("ant", "bee"):
            server.tenant(tenant)
        # One request, so that both tenants' values are in one part and its dictionary.
        kinds = {"ant": "QUJD", "bee": "no base64 \\"}
        rows = [{"tenant": t, "k": k, "kind": kind} for k in range(100) for t, kind in kinds.items()]
        server.events("events", rows)
        server.events("prices", [{"kind": "QUJD", "price": 7}, {"kind": "other", "price": 9}])
        yield server


@pytest.fixture(scope="module")
def ant(server: Server) -> str:
    return server.mint(*READS, tenant="ant")


IMPLICIT = {
    "SELECT count() AS n FROM events AS e NATURAL JOIN prices AS p": 100,
    "SELECT count() AS n FROM events WHERE ('QUJD', 7) IN prices": 100,
    "SELECT count() AS n FROM events WHERE ('QUJD', 9) NOT IN prices": 100,
    "SELECT count() AS n FROM events AS e NATURAL JOIN (SELECT * FROM prices) AS p": 100,
}


@pytest.mark.feature
@pytest.mark.parametrize("sql", IMPLICIT)
def test_columns_used_implicitly_are_read(server: Server, ant: str, sql: str) -> None:
    assert server.sql(sql, ant) == [{"n": IMPLICIT[sql]}]


@pytest.mark.feature
def test_count_of_a_qualified_asterisk_is_refused(server: Server, ant: str) -> None:
    assert server.post("/v0/sql", ant, content="SELECT count(prices.*) FROM prices").status_code == 400


RENAMED = (
    "SELECT max(base64Decode(kind)) AS n FROM events",
    "WITH e(x) AS (SELECT kind FROM events) SELECT max(base64Decode(x)) AS n FROM e",
    "SELECT max(base64Decode(x)) AS n FROM (SELECT kind FROM events) AS e(x)",
    "SELECT max(base64Decode(`x.y`)) AS n FROM (SELECT kind AS `x.y` FROM events)",
    "SELECT max(base64Decode(`toString(kind)`)) AS n FROM (SELECT toString(kind) FROM events)",
    "SELECT max(base64Decode(x)) AS n FROM (SELECT 'QUJD' AS x WHERE 0 UNION ALL SELECT kind FROM events)",
    "SELECT if(countIf('x' LIKE kind) = 0, 'ABC', '') AS n FROM events",
    "SELECT max('ABC') AS n FROM events WHERE kind IN (SELECT 'QUJD'::Enum8('QUJD' = 1, '' = 2))",
    "WITH e AS (SELECT 'QUJD'::Enum8('QUJD' = 1, '' = 2)) SELECT max('ABC') AS n FROM events WHERE kind IN e",
    "SELECT max(base64Decode(*)) AS n FROM (SELECT kind FROM events)",
    "SELECT max(base64Decode(tupleElement(tuple(events.*), 3))) AS n FROM events",
    "SELECT any(n) AS n FROM (SELECT 'ABC' AS n, count(*) OVER (ORDER BY base64Decode(kind)) AS c FROM events)",
)


@pytest.mark.feature
@pytest.mark.parametrize("sql", RENAMED)
def test_no_alias_runs_functions_on_values_of_other_tenants(server: Server, ant: str, sql: str) -> None:
    failed = server.log().count("query failed")
    assert server.sql(sql, ant) == [{"n": "ABC"}]
    assert server.log().count("query failed") == failed, "the first run failed on a value of another tenant"


CONSTANTS = {
    "SELECT k FROM events WHERE k > toInt64('12x')": "toInt64('12x')",
    "SELECT toUInt8(concat('1', 'x')) + k AS d, count() FROM events GROUP BY d": "toUInt8(concat('1', 'x'))",
    "WITH e AS (SELECT k, toUUID('bad') AS u FROM events) SELECT count() FROM e WHERE u != toUUID('{}')": "toUUID(",
    # What depends on rows, even if it fails on a row of the caller's own, or with the same number.
    "SELECT toInt64(kind) FROM events": None,
    "SELECT max(toDate(concat(kind, '-13-45'))) FROM events": None,
    "SELECT toInt64(kind), toInt64('7') FROM events": None,
    "SELECT throwIf(kind != '', 'own') FROM events": None,
    "SELECT toInt64(max(x)) FROM (SELECT kind AS x FROM events UNION ALL SELECT '12x')": None,
}
"""SQL with the beginning of the part that fails without any row; None without one."""


@pytest.mark.feature
@pytest.mark.parametrize("sql", CONSTANTS)
def test_an_error_names_a_failing_constant_and_nothing_of_rows(server: Server, ant: str, sql: str) -> None:
    answers = [server.post("/v0/sql", token, content=sql) for token in (ant, server.mint(*READS, tenant="bee"))]
    hints = [answer.json().get("hint") for answer in answers]
    for answer, hint in zip(answers, hints, strict=True):
        assert answer.status_code == 400, answer.text[:500]
        assert not {"QUJD", "no base64"} & {*(hint or "").split("'")}, hint
    named = CONSTANTS[sql]
    assert hints == [None, None] if named is None else all(str(h).startswith(f"`{named}") for h in hints), hints


@pytest.mark.feature
def test_a_caller_cannot_fake_an_isolation_alarm(server: Server, ant: str) -> None:
    text = "rookery: a row of another tenant"
    for message in (text, f"DB::Exception: {text}", f"{text} (0123456789abcdef)"):
        response = server.post("/v0/sql", ant, content=f"SELECT throwIf(1, '{message}') FROM events")
        assert response.status_code == 400
    assert "was held back" not in server.log()


def test_request_limits_are_counted_per_tenant(server: Server) -> None:
    first, second = (server.mint("PIPES:READ:one", tenant=t, limits={"rps": 1}) for t in ("ant", "bee"))
    while server.get("/v0/pipes/one.json", first).status_code != 429:
        pass
    # Two windows at most: one may end between the requests.
    assert 200 in [server.get("/v0/pipes/one.json", second).status_code for _ in range(2)]


def test_waiting_bodies_of_one_tenant_leave_memory_for_others(server: Server, ant: str) -> None:
    bee = server.mint(*READS, tenant="bee")
    address = server.url.removeprefix("http://").split(":")
    head = f"POST /v0/events?name=events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ant}\r\n"
    begun = f"{head}Content-Length: {2 * MIB}\r\n\r\n".encode() + b" " * (2 * MIB - 100)
    with ExitStack() as open_ones:
        for _ in range(6):
            connection = open_ones.enter_context(socket.create_connection((address[0], int(address[1]))))
            connection.sendall(begun)
        _until_room_is_taken(server)
        row = json.dumps({"tenant": "bee", "k": 1, "kind": "x" * 400_000})
        assert server.post("/v0/events?name=events", bee, content=row).status_code == 202


def _until_room_is_taken(server: Server) -> None:
    """Wait until the bodies that were begun have arrived, as far as there is room for them."""
    seen = -1.0
    for _ in range(100):
        lines = server.admin("GET", "/metrics").text.splitlines()
        taken = next(float(line.split()[1]) for line in lines if line.startswith("rookery_waiting_bytes "))
        if taken and taken == seen:
            return
        seen = taken
        time.sleep(0.1)
    raise AssertionError("no body arrived")


@pytest.mark.feature
def test_nested_functions_with_bounds_do_not_double_the_text_at_each_level(server: Server, ant: str) -> None:
    def nested(levels: int) -> str:
        text = "kind"
        for _ in range(levels):
            text = f"toString(editDistance({text}, 'a'))"
        return f"SELECT max({text}) AS n FROM events"

    assert server.sql(nested(3), ant) == [{"n": "1"}]
    for levels in (4, 12, 30):
        response = server.post("/v0/sql", ant, content=nested(levels))
        assert (response.status_code, response.json()["code"]) == (400, "RK2002")


def test_deep_texts_are_refused_whatever_their_depth(server: Server, ant: str) -> None:
    for levels in (80, 90, 100, 120, 140, 160, 400):
        text = "'a'"
        for _ in range(levels):
            text = f"toString({text})"
        response = server.post("/v0/sql", ant, content=f"SELECT {text} AS x")
        assert response.status_code == 200 or response.json()["code"] == "RK2001", levels


@pytest.mark.feature
@pytest.mark.parametrize(
    "expression",
    ["arrayMap(editDistance, [kind], [kind])", "arrayMap(SparseGrams, [kind])", "COLUMNS(kind) APPLY(sparseGrams)"],
)
def test_bounded_functions_cannot_be_passed_by_name(server: Server, ant: str, expression: str) -> None:
    response = server.post("/v0/sql", ant, content=f"SELECT {expression} FROM events LIMIT 1")
    assert response.status_code == 400 and response.json()["code"] in ("RK2002", "RK2003")


@pytest.mark.parametrize("name", ["Authorization", "Idempotency-Key"])
def test_a_header_with_two_values_is_refused(server: Server, ant: str, name: str) -> None:
    own = ("Authorization", f"Bearer {ant}")
    other = {"Authorization": f"Bearer {server.admin_token}", "Idempotency-Key": "two"}[name]
    twice = [own, (name, other)] if name == "Authorization" else [own, (name, "one"), (name, other)]
    row = json.dumps({"tenant": "ant", "k": 1, "kind": "QUJD"})
    for path, body in (
        ("/v0/events?name=events", row),
        ("/v0/sql", "SELECT 1"),
        ("/v0/datasources?name=events", row),
    ):
        response = server.http.post(path, content=body, headers=twice)
        assert (response.status_code, response.json()["code"]) == (400, "RK4009"), path
    assert server.http.post("/v0/sql", content="SELECT 1", headers=[own, own]).status_code == 200


@pytest.mark.parametrize("begun", ['{"tenant": "ant", "kind": "', '[{"tenant": "ant", "kind": "'])
def test_an_endless_row_counts_against_the_memory_budget(server: Server, ant: str, begun: str) -> None:
    body = gzip.compress(begun.encode() + b"x" * (80 * MIB))
    headers = {"content-encoding": "gzip"}
    response = server.post("/v0/datasources?name=events&format=ndjson", ant, content=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (429, "RK5010")


def test_windows_of_open_zstd_streams_count_against_the_memory_budget(server: Server, ant: str) -> None:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 23})
    begun = compressor.compress(b"\n" * (3 * MIB)) + compressor.flush(zstd.ZstdCompressor.FLUSH_BLOCK)
    path, parts = "/v0/datasources?name=events&format=ndjson", urlsplit(server.url)
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ant}\r\ncontent-length: 99999\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port)) as stream:
        stream.sendall(head.encode() + begun)
        deadline = time.monotonic() + PATIENCE
        while "rookery_waiting_bytes 3.145728e+06" not in server.admin("GET", "/metrics").text:
            assert time.monotonic() < deadline
        assert server.post(path, ant, content=begun).json()["code"] == "RK5010"
    while "rookery_waiting_bytes 0.0" not in server.admin("GET", "/metrics").text:
        assert time.monotonic() < deadline
    assert server.post(path, ant, content=begun).json()["code"] == "RK5007"


def test_bodies_that_arrive_slowly_leave_memory_to_others(server: Server, ant: str) -> None:
    bee, parts = server.mint(*READS, tenant="bee"), urlsplit(server.url)
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((parts.hostname, parts.port))) for _ in range(2)]
        for stream, token, size in zip(slow, (ant, bee), (9 * MIB // 2, 2 * MIB), strict=True):
            head = (
                "POST /v0/datasources?name=events&format=ndjson HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\n"
            )
            stream.sendall(f"{head}authorization: Bearer {token}\r\n\r\n".encode())
            stream.sendall(b'{"tenant": "'.ljust(size, b"x"))
        waiting = stack.enter_context(selectors.DefaultSelector())
        for stream in slow:
            waiting.register(stream, selectors.EVENT_READ, stream)
        ((ended, _), *_) = waiting.select(PATIENCE)
        answer = ended.data.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 408 ") and b"RK4024" in answer and b"memory" in answer
        row = json.dumps({"tenant": "ant", "k": 1, "kind": "QUJD" * 300_000})
        assert server.post("/v0/events?name=events&wait=true", server.admin_token, content=row).status_code == 200


def test_parquet_files_that_arrive_slowly_are_counted_or_on_disk(server: Server, ant: str) -> None:
    path, parts = "/v0/datasources?name=events&format=parquet", urlsplit(server.url)
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ant}\r\ncontent-length: 99999999\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port)) as stream:
        deadline = time.monotonic() + PATIENCE
        stream.sendall(head.encode())
        for begun, counted in ((b"PAR1" + bytes(900_000), 900_004.0), (bytes(2 * MIB), 0.0)):
            stream.sendall(begun)
            while f"rookery_waiting_bytes {counted}" not in server.admin("GET", "/metrics").text:
                assert time.monotonic() < deadline


def test_parameters_with_very_many_lists_are_refused(server: Server, ant: str) -> None:
    for number, status in ((50_000, 200), (150_000, 400)):
        body = {"unused": [[]] * number, **({} if status == 200 else {"q": "["})}
        response = server.post("/v0/pipes/one.json", ant, json=body)
        assert response.status_code == status, response.text
    assert "100,000" in response.json()["error"]
