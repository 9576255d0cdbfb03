"""Reading the access log and the metrics of the server `observed`."""

from __future__ import annotations

import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

from tests.support.server import Server

FILES = {
    "datasources/events.yaml": """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: note, type: String}
engine: {sorting_key: [tenant_id]}
""",
    "pipes/notes.yaml": """
nodes:
  - {name: notes_node, sql: "SELECT note FROM events WHERE note != {{ String(word, 'none') }}"}
endpoint: {}
""",
    "pipes/slow.yaml": """
nodes:
  - {name: slow_node, sql: "SELECT max(cityHash64(number)) AS n FROM numbers(2000000000000)"}
endpoint: {limits: {max_seconds: 300}}
""",
    "pipes/many.yaml": """
nodes:
  - {name: many_node, sql: "SELECT number AS n FROM numbers(20000000)"}
endpoint: {}
""",
}


def lines(server: Server) -> list[dict[str, Any]]:
    """The lines of the access log so far."""
    text = (server.directory / ".rookery" / "server.log").read_text(encoding="utf-8")
    return [event for line in text.splitlines() if (event := json.loads(line))["event"] == "request"]


def lines_of(server: Server, *ids: str) -> dict[str, list[dict[str, Any]]]:
    """The lines of requests with these ids, once there is one for each and for a later request."""
    later = server.get("/live").headers["x-request-id"]
    by_id: dict[str, list[dict[str, Any]]] = {}
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        by_id = {one: [line for line in lines(server) if line["request_id"] == one] for one in (later, *ids)}
        if all(by_id.values()):
            break
        time.sleep(0.05)
    by_id.pop(later)
    return by_id


def only(server: Server, id: str) -> dict[str, Any]:
    """The one line of a request."""
    (line,) = lines_of(server, id)[id]
    return line


def exchange(server: Server, data: bytes, *, reads: bool = True) -> bytes:
    """Send bytes on a connection of their own, and return the response, or close without reading it."""
    host, port = urlsplit(server.url).hostname, urlsplit(server.url).port
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(data)
        received = b""
        while reads and (chunk := connection.recv(65536)):
            received += chunk
    return received


def samples(server: Server) -> dict[str, float]:
    """The samples of a scrape."""
    text = server.admin("GET", "/metrics").text
    pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def total(found: dict[str, float], name: str, *labels: str) -> float:
    """The sum of the series of a metric that have these labels, such as `endpoint="notes"`."""
    return sum(v for n, v in found.items() if n.partition("{")[0] == name and all(label in n for label in labels))
