"""Many concurrent callers over few handles: no request leaves anything for the next."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.server import Server
from tests.support.soak import soak_rounds
from tests.web.project import FOREIGN, TOTALS
from tests.web.responses import data, refused

REQUESTS = soak_rounds(200)
PIPES = ("by_kind", "raw", "divided", "keyed")


@pytest.mark.soak
@pytest.mark.proves("A1", "A11", "D9", "D11")
def test_interleaved_requests_get_their_own_results(server: Server) -> None:
    """Two tenants, endpoints and ad-hoc SQL, requests that fail between those that do not."""
    scopes = [f"PIPES:READ:{p}" for p in PIPES]
    tokens = {t: server.mint(*scopes, "DATASOURCES:READ:events", tenant=t, name=f"tenant {t}") for t in ("1", "2")}

    def ask(number: int) -> str:
        tenant = "12"[number % 2]
        token, kind = tokens[tenant], number // 2 % 5
        if kind == 0:
            response = server.get("/v0/pipes/by_kind.json", token)
            assert {r["kind"]: r["units"] for r in data(response)} == TOTALS[tenant]
        elif kind == 1:
            response = server.get("/v0/pipes/raw.csv", token)
            assert response.status_code == 200
        elif kind == 2:
            response = server.get(f"/v0/pipes/divided.json?by={number % 2}", token)
            assert response.status_code in (200, 400)
        elif kind == 3:
            response = server.post("/v0/sql", token, content="SELECT uniqExact(tenant_id) AS n FROM events")
            assert data(response) == [{"n": 1}]
        else:
            response = server.post("/v0/sql", token, content="SELECT toInt8(note) AS n FROM events")
            refused(response, 400)
        # A request's id has random digits.
        shown = response.text.partition('"statistics"')[0].replace(response.headers["x-request-id"], "")
        assert not [t for t in FOREIGN[tenant] if t in shown], shown
        return f"{tenant} {kind}"

    with ThreadPoolExecutor(8) as pool:
        assert len(Counter(pool.map(ask, range(REQUESTS)))) == 10
