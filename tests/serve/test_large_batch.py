"""A batch of many blocks is stored whole or not at all, in landing and in everything that is derived from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import Server, running

ROOT = Path(__file__).resolve().parents[2]
ROWS = 300_000
LAST = {
    "another form of its own number": b'{"tenant_id": "01", "event": "api_call"}',
    "out of range": b'{"tenant_id": 4294967296, "event": "api_call"}',
    "no tenant": b'{"event": "api_call"}',
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The example project with a tenant of each placement."""
    with running(tmp_path_factory.mktemp("batch")) as found:
        found.push({f"{f.parent.name}/{f.name}": f.read_text() for f in _files()})
        found.tenant("1", "tables")
        found.tenant("2", "pooled")
        yield found


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


@pytest.mark.parametrize("last", LAST.values(), ids=LAST)
def test_one_bad_row_at_the_end_keeps_everything_out(server: Server, last: bytes) -> None:
    before = _stored(server)
    refused = server.admin("POST", "/v0/events", params={"name": "events", "wait": "true"}, content=_body(last))
    assert refused.status_code == 400, refused.text
    assert refused.json()["code"] == "RK5002"
    assert f"line {ROWS}" in refused.json()["error"]
    assert _stored(server) == before


def test_a_good_batch_arrives_everywhere(server: Server) -> None:
    before = _stored(server)
    body = _body(b'{"tenant_id": 2, "event": "export", "timestamp": "2026-01-01 00:00:00"}')
    stored = server.admin("POST", "/v0/events", params={"name": "events", "wait": "true"}, content=body)
    assert stored.json() == {"successful_rows": ROWS, "quarantined_rows": 0}
    after = _stored(server)
    assert after["landing"][0] - before["landing"][0] == ROWS
    assert [a - b for a, b in zip(after["sums"], before["sums"], strict=True)] == [ROWS // 2, ROWS // 2]
