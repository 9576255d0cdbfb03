"""Random requests never get a 500, and every refusal has a code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.server import Server, running_copy
from tests.support.soak import soak_rounds
from tests.web.project import FILES

NAMES = [f.split("/")[1].removesuffix(".yaml") for f in FILES if "slow" not in f and "hungry" not in f]
TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
ODD = st.sampled_from(
    [
        *["", "0", "-1", "01", "1.0", "true", "null", "NaN", "1e999", "9" * 40, "'", '"', "`", "\\", "\x00", "%"],
        *["{p:String}", "$$", "--", "/*", "SELECT 1", "1 OR 1=1", "\u2028", "\U0001f426", "a,b", "[1,2]", '{"a": 1}'],
        *["{{x}}", "2026-01-01", "9999-99-99", *NAMES],
    ]
)
VALUE = ODD | TEXT
PARAMETERS = ["from_day", "kind", "rows", "by", "small", "list", "day", "id", "text", "customer", "must", "size", "q"]
PARAMETERS += [
    "name",
    "wait",
    "format",
    "mode",
    "scope",
    "force",
    "dry_run",
    "purge",
    "expiration_time",
    "limit",
    "offset",
]
ROUTES = ["/v0/sql", "/v0/events", "/v0/datasources", "/v0/pipes", "/v0/tokens", "/v0/tokens/", "/v0/tenants"]
ROUTES += ["/v0/workspace", "/v0/push", "/v0/materialize", "/v0/pipes/openapi.json", "/live", "/ready", "/v0/x", "/"]
SEGMENT = VALUE.map(lambda v: quote(v, safe=""))
PATHS = st.one_of(
    st.sampled_from(ROUTES),
    st.builds(
        "/v0/pipes/{}.{}".format, st.sampled_from(NAMES) | SEGMENT, st.sampled_from(["json", "csv", "parquet"])
    ),
    st.builds("/v0/pipes/{}.{}".format, st.sampled_from(NAMES), st.sampled_from(["ndjson"]) | SEGMENT),
    st.builds("/v0/{}/{}".format, st.sampled_from(["pipes", "tokens", "tenants", "datasources"]), SEGMENT),
    st.builds("/v0/tokens/{}/refresh".format, SEGMENT),
    st.builds("/v0/events/{}".format, SEGMENT),
    st.builds("/v0/datasources/{}/quarantine".format, st.sampled_from(["events", "daily", "notes"]) | SEGMENT),
    st.builds("/v0/datasources/{}/quarantine/replay".format, st.sampled_from(["events", "notes"]) | SEGMENT),
    st.builds("/{}/{}".format, SEGMENT, SEGMENT),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | VALUE,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(VALUE | st.sampled_from(PARAMETERS), inner, max_size=4)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["files", "id", "ids", "placement", "name", "scopes", "ttl", "tenant", "limits", "pipe", "overlap", "rows", "all"]
)
SCOPE = st.fixed_dictionaries({"type": VALUE | st.just("PIPES:READ")}, optional={"resource": VALUE, "filter": VALUE})
FILE = st.fixed_dictionaries({"name": VALUE, "file": VALUE, "text": VALUE | st.just("sql: SELECT 1")})
ROW = st.dictionaries(
    st.sampled_from(["tenant_id", "at", "units", "page", "note", "tags", "owner"]) | VALUE, JSON, max_size=4
)
BODIES = st.one_of(
    st.none(),
    st.binary(max_size=60),
    VALUE.map(str.encode),
    st.dictionaries(KEYS, JSON | st.lists(SCOPE | FILE | VALUE, max_size=3), max_size=4),
    st.lists(ROW, min_size=1, max_size=3),
    st.dictionaries(st.sampled_from(PARAMETERS), VALUE, max_size=3).map(lambda d: urlencode(d).encode()),
    st.builds("SELECT {} FROM {}".format, VALUE, VALUE).map(str.encode),
)
NAMES_OF_HEADERS = ["content-type", "accept", "x-rookery-tenant", "origin", "range", "if-none-match", "expect-ct"]
NAMES_OF_HEADERS += ["idempotency-key", "content-encoding"]
VALUES_OF_HEADERS = [
    "application/json",
    "text/plain",
    "1",
    "2",
    "01",
    "*/*",
    "bytes=0-1",
    "application/x-ndjson",
    "é",
]
VALUES_OF_HEADERS += ["gzip", "zstd"]
HEADERS = st.dictionaries(st.sampled_from(NAMES_OF_HEADERS), st.sampled_from(VALUES_OF_HEADERS), max_size=3)
STATUSES = {200, 202, 204, 400, 403, 404, 405, 408, 409, 413, 414, 415, 418, 422, 429, 431}


@pytest.fixture(scope="module")
def victim(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server that the random requests may change."""
    with running_copy(
        filled, tmp_path_factory.mktemp("fuzz"), ROOKERY_MAX_BODY=50_000, ROOKERY_MAX_SECONDS=2
    ) as server:
        yield server


@pytest.fixture(scope="module")
def tokens(victim: Server) -> list[str | None]:
    readable = [f"PIPES:READ:{n}" for n in ("raw", "by_kind", "typed", "declared", "keyed", "many")]
    scoped = victim.mint(*readable, "DATASOURCES:READ:events", "DATASOURCES:APPEND:events", tenant="1")
    return [victim.admin_token, victim.admin_token, scoped, scoped, victim.static("free", *readable), "garbage", None]


def body_of(body: Any) -> bytes | None:
    if isinstance(body, list):
        return b"\n".join(text_of(r) for r in body)
    return body if body is None or isinstance(body, bytes) else text_of(body)


def text_of(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.soak
@settings(
    max_examples=soak_rounds(400),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    method=st.sampled_from(["GET", "GET", "POST", "POST", "POST", "HEAD", "OPTIONS", "DELETE", "PUT", "PATCH"]),
    path=PATHS,
    query=st.lists(st.tuples(st.sampled_from(PARAMETERS), VALUE), max_size=4),
    body=BODIES,
    headers=HEADERS,
    who=st.integers(0, 6),
)
def test_no_request_gets_a_500(
    victim: Server,
    tokens: list[str | None],
    method: str,
    path: str,
    query: list[tuple[str, str]],
    body: Any,
    headers: dict[str, str],
    who: int,
) -> None:
    if method == "POST" and path.endswith("refresh") and "admin" in path:
        return
    raw = [(k.encode(), v.encode()) for k, v in headers.items()]
    token = tokens[who]
    if token is not None:
        raw.append((b"authorization", f"Bearer {token}".encode()))
    address = f"{victim.url}{path}" + (f"?{urlencode(query)}" if query else "")
    try:
        response = victim.http.request(method, address, headers=raw, content=body_of(body))
    except httpx.RemoteProtocolError as exc:
        assert "incomplete" in str(exc)
        return
    assert response.status_code in STATUSES, f"{response.status_code} {response.text[:500]}"
    if response.status_code >= 400 and response.status_code != 418 and method not in ("HEAD", "OPTIONS"):
        assert set(response.json()) >= {"error", "code", "documentation"}


def test_the_server_is_healthy_after_fuzzing(victim: Server) -> None:
    """After all that: no traceback in the log, and the server answers."""
    assert victim.get("/ready").status_code == 200
    assert victim.sql("SELECT 1 AS x") == [{"x": 1}]
    assert "Traceback" not in victim.log() and "internal error" not in victim.log()
