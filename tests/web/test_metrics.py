"""Metrics agree with what the clients saw, and unknown names add no series."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.server import Server
from tests.web.access_log import exchange, samples, total


@pytest.fixture(scope="module")
def server(observed: Server) -> Server:
    return observed


def test_a_scrape_under_load_agrees_with_what_the_clients_saw(server: Server) -> None:
    token = server.mint("PIPES:READ:notes", "DATASOURCES:APPEND:events", tenant="1")
    calls: list[Callable[[httpx.Client], httpx.Response]] = [
        lambda http: http.get("/v0/pipes/notes.json", headers={"authorization": f"Bearer {token}"}),
        lambda http: http.get("/v0/pipes/notes.json?word=x&word=y", headers={"authorization": f"Bearer {token}"}),
        lambda http: http.get("/v0/pipes/notes.json", headers={"authorization": "Bearer x"}),
        lambda http: http.get("/v0/pipes/many.json", headers={"authorization": f"Bearer {token}"}),
        lambda http: http.post(
            f"/v0/events?name=events&token={token}", content=b'{"tenant_id": 1, "note": "none"}\n' * 3
        ),
    ]

    def client(number: int) -> list[tuple[int, int, int]]:
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False, verify=False) as http:
            seen = []
            for turn in range(30):
                which = (number + turn) % len(calls)
                response = calls[which](http)
                body = response.json()
                seen.append((which, response.status_code, body.get("rows", body.get("successful_rows", 0))))
            return seen

    before = samples(server)
    with ThreadPoolExecutor(6) as pool:
        seen = [one for each in pool.map(client, range(6)) for one in each]
    after = samples(server)

    def rise(name: str, *labels: str) -> float:
        return total(after, name, *labels) - total(before, name, *labels)

    by_status = Counter((("notes", "notes", "notes", "many", "")[which], status) for which, status, _ in seen)
    for (endpoint, status), count in by_status.items():
        route = 'route="/v0/events"' if not endpoint else 'route="/v0/pipes/{name}.{format}"'
        labels = (f'endpoint="{endpoint}"', f'status="{status}"', route)
        assert rise("rookery_requests_total", *labels) == count, labels
        kind = (labels[0], f'status="{status // 100}xx"', route)
        same_kind = sum(n for (e, s), n in by_status.items() if e == endpoint and s // 100 == status // 100)
        assert rise("rookery_request_seconds_count", *kind) == same_kind
    assert rise("rookery_returned_rows_total", 'endpoint="notes"') == sum(r for w, _, r in seen if w < 3)
    assert rise("rookery_ingested_rows_total", 'datasource="events"') == sum(r for w, _, r in seen if w == 4)
    assert after["rookery_requests_in_flight"] == 1, "the scrape itself"
    assert after['rookery_readers{state="in_use"}'] == 0
    assert after["rookery_parts"] > 0 and after["rookery_disk_free_bytes"] > 0 and after["process_open_fds"] > 10


BATCH = 25
"""Requests that are sent before the first response is read. A connection may have 32 waiting."""


def test_made_up_names_add_no_series(server: Server) -> None:
    """10,000 names: of endpoints, datasources, routes, methods and tenants."""
    server.get("/v0/pipes/made_up.json")
    server.request("BREW", "/live")
    server.post("/v0/events?name=made_up")
    server.get("/made/up")
    before = set(samples(server))
    kinds = ("GET /v0/pipes/n{}.json", "POST /v0/events?name=n{}", "GET /n{}", "BREW{} /live", "GET /v0/tenants/n{}")
    connection = socket.create_connection((urlsplit(server.url).hostname, urlsplit(server.url).port), timeout=60)
    with connection, connection.makefile("rb") as answers:
        for start in range(0, 10_000, BATCH):
            kind = kinds[start // BATCH % len(kinds)]
            if kind.startswith("BREW"):
                # The parser refuses unknown methods, and closes the connection.
                exchange(server, f"{kind.format(start)} HTTP/1.1\r\n\r\n".encode())
                continue
            head = " HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"
            connection.sendall("".join(kind.format(n) + head for n in range(start, start + BATCH)).encode())
            for _ in range(BATCH):
                length = 0
                while (line := answers.readline().strip().lower()) != b"":
                    length = int(line[15:]) if line.startswith(b"content-length:") else length
                answers.read(length)
    after = set(samples(server))
    new = {name for name in after - before if "_created" not in name}
    # Not names but routes, methods and statuses of this test.
    assert len(new) < 60, sorted(new)
    assert not any("n5" in name for name in after)


def test_the_series_of_an_endpoint_end_with_it(server: Server) -> None:
    text = 'nodes:\n  - {name: brief_node, sql: "SELECT 1 AS x"}\nendpoint: {}\n'
    server.push({"pipes/brief.yaml": text})
    assert server.admin("GET", "/v0/pipes/brief.json").status_code == 200
    assert any('endpoint="brief"' in name for name in samples(server))
    server.admin("DELETE", "/v0/pipes/brief")
    assert not any('endpoint="brief"' in name for name in samples(server))
    assert server.admin("GET", "/v0/pipes/brief.json").status_code == 404
    assert not any('endpoint="brief"' in name for name in samples(server))
