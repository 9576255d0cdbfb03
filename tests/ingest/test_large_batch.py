"""A batch of many blocks is stored without its bad rows, equally in landing and in derived tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import Server, running

ROOT = Path(__file__).resolve().parents[2]
ROWS = 70_000
"""The engine reads blocks of 65,409 rows."""
LAST = {
    "another form of its own number": b'{"tenant_id": "01", "event": "api_call"}',
    "out of range": b'{"tenant_id": 4294967296, "event": "api_call"}',
    "no tenant": b'{"event": "api_call"}',
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The example project with a tenant of each placement."""
    with running(tmp_path_factory.mktemp("batch")) as server:
        server.push({f"{f.parent.name}/{f.name}": f.read_text() for f in _files()})
        server.tenant("1", "tables")
        server.tenant("2", "pooled")
        yield server


def _files() -> list[Path]:
    return [f for part in ("datasources", "pipes") for f in sorted((ROOT / part).glob("*.yaml"))]


def _body(last: bytes) -> bytes:
    rows = [
        b'{"tenant_id": %d, "event": "api_call", "timestamp": "2026-01-01 00:00:00"}' % (1 + n % 2)
        for n in range(ROWS - 1)
    ]
    return b"\n".join([*rows, last])


def _stored(server: Server) -> dict[str, list[int]]:
    """Rows in landing as the admin sees them, and events in the sums as each tenant does."""
    landing = server.sql("SELECT count() AS n FROM events")[0]["n"]
    sums = []
    for tenant in ("1", "2"):
        token = server.mint("PIPES:READ:usage", tenant=tenant)
        sums.append(sum(row["events"] for row in server.get("/v0/pipes/usage.json", token).json()["data"]))
    return {"landing": [landing], "sums": sums}


@pytest.mark.parametrize(
    "last",
    [
        pytest.param(row, id=what, marks=[pytest.mark.soak_only] if what == "out of range" else [])
        for what, row in LAST.items()
    ],
)
def test_only_the_bad_row_at_the_end_is_not_stored(server: Server, last: bytes) -> None:
    before = _stored(server)
    answer = server.admin("POST", "/v0/events", params={"name": "events", "wait": "true"}, content=_body(last))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["successful_rows"], body["quarantined_rows"]) == (ROWS - 1, 1)
    assert (body["first_bad_row"]["row"], body["first_bad_row"]["columns"]) == (ROWS, ["tenant_id"])
    row = server.admin_json("GET", "/v0/datasources/events/quarantine", params={"limit": 1})["rows"][0]
    assert (row["c__text"], row["c__row"]) == (last.decode(), ROWS - 1)
    assert row["c__error_column"] == ["tenant_id"]
    after = _stored(server)
    assert after["landing"][0] - before["landing"][0] == ROWS - 1
    sums = [a - b for a, b in zip(after["sums"], before["sums"], strict=True)]
    assert sums == [ROWS // 2, ROWS // 2 - 1], "each tenant has exactly its good rows"


@pytest.mark.parametrize(
    "last",
    [b'{"tenant_id": 2, "event": "api_call"}', pytest.param(b'{"tenant_id": "01"}', marks=pytest.mark.soak_only)],
)
def test_a_row_of_another_tenant_at_the_end_refuses_the_batch(server: Server, last: bytes) -> None:
    """Under a token for one tenant, with which the whole request is refused."""
    before = _stored(server)
    token = server.mint("DATASOURCES:APPEND:events", tenant="1")
    body = b"\n".join([*[b'{"event": "api_call"}'] * (ROWS - 1), last])
    refused = server.post("/v0/events", token, params={"name": "events", "wait": "true"}, content=body)
    assert refused.status_code == 403, refused.text
    assert refused.json()["code"] == "RK5003"
    assert f"row {ROWS}:" in refused.json()["error"]
    assert _stored(server) == before


def test_a_good_batch_reaches_every_table(server: Server) -> None:
    before = _stored(server)
    body = _body(b'{"tenant_id": 2, "event": "export", "timestamp": "2026-01-01 00:00:00"}')
    stored = server.admin("POST", "/v0/events", params={"name": "events", "wait": "true"}, content=body)
    assert stored.json() == {"successful_rows": ROWS, "quarantined_rows": 0}
    after = _stored(server)
    assert after["landing"][0] - before["landing"][0] == ROWS
    assert [a - b for a, b in zip(after["sums"], before["sums"], strict=True)] == [ROWS // 2, ROWS // 2]
